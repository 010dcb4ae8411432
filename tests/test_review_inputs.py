"""What `vlmdebug review` reads: the input, notebooks, folders, many files, and hostile ones."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import vlmdebug as vd
from vlmdebug import review
from vlmdebug.cli import main
from vlmdebug.review import many, one_file, reading
from vlmdebug.review.files import Raw
from vlmdebug.review.notebooks import Notebook, without_magics
from vlmdebug.review.trials import trials

WRONG = """\
def cut(inputs, start, stop):
    rows = inputs["pixel_values"][start:stop]
    return {"input_ids": inputs["input_ids"][start:stop], "pixel_values": rows}
"""


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """Runs `vlmdebug review` in an empty folder: its exit code and all it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, given: bytes = b"") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        code = main(["review", "--no-cache", *arguments])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def notebook(*cells: str, **metadata: object) -> str:
    """A notebook with a title and these code cells."""
    title = {"cell_type": "markdown", "metadata": {}, "source": ["# pixel_values"]}
    code = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": cell.splitlines(True)}
        for cell in cells
    ]
    return json.dumps({"cells": [title, *code], "metadata": metadata, "nbformat": 4})


# --- the input -----------------------------------------------------------------------------


def test_input_is_reviewed_under_its_name(answer):
    code, text = answer("-", "--stdin-filename", "src/cut.py", given=WRONG.encode())

    assert code == 1 and text.startswith("src/cut.py:2:12: VLM001")
    assert answer("-", given=WRONG.encode())[1].startswith("<stdin>:2:12: VLM001")
    assert answer("-", given="\ufeffx = 'é'".encode())[0] == 0


def test_input_has_the_settings_of_its_name(answer):
    Path("src").mkdir()
    Path("src/pyproject.toml").write_text('[tool.vlmdebug]\nignore = ["VLM001"]\nexclude = ["b*"]')

    assert answer("-", "--stdin-filename", "src/cut.py", given=WRONG.encode())[0] == 0
    assert answer("-", "--stdin-filename", "cut.py", given=WRONG.encode())[0] == 1
    words = ("-", "--ignore", "VLM009", "--stdin-filename", "src/by.py")
    assert answer(*words, given=WRONG.encode())[0] == 1
    assert answer(*words, "--force-exclude", given=WRONG.encode())[0] == 0


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (["-"], b"def (", "<stdin> is not Python source"),
        (["-"], b"\xff", "<stdin> is not UTF-8 text"),
        (["-", "cut.py"], b"", "- is the input, and is reviewed alone"),
        (["--stdin-filename", "x.py"], b"", "Pass - to review the input"),
        (["-", "--stdin-filename", "x.ipynb"], b"{", "x.ipynb is not a notebook"),
    ],
)
def test_input_that_cannot_be_read_exits_2(answer, words, given, message):
    code, text = answer(*words, given=given)

    assert code == 2 and message in text


# --- notebooks -----------------------------------------------------------------------------


def test_finding_in_a_notebook_names_its_cell(answer):
    Path("nb.ipynb").write_text(notebook("import torch\n", f"%time x = 1\n\n{WRONG}"))
    code, text = answer("nb.ipynb")
    (one,) = review.paths("nb.ipynb").findings

    assert code == 1
    assert text.startswith("nb.ipynb:cell 3:4:12: VLM001 inputs['pixel_values'][start:stop]\n")
    assert (one.cell, one.line, one.source.strip()[:4]) == (3, 4, "rows")
    assert answer(".")[1] == text


def test_cells_of_a_notebook_share_their_names():
    cells = (
        "def bounds(images, a, b):\n    ends = [0]\n    for count in images:\n"
        "        ends.append(ends[-1] + count)\n    return ends[a], ends[b]\n",
        "def cut(inputs, start, stop):\n"
        '    a, b = bounds(inputs["num_images"], start, stop)\n'
        '    if "image_position_ids" in inputs:\n'
        '        return {"input_ids": inputs["input_ids"][start:stop],\n'
        '                "pixel_values": inputs["pixel_values"][a:b],\n'
        '                "image_position_ids": inputs["image_position_ids"][a:b]}\n',
    )
    found = one_file.review_of(Raw("nb.ipynb", notebook(*cells).encode()))

    assert found.ok and not found.not_judged and found.agreeing


def test_notebook_has_sensible_places_in_other_formats(answer):
    Path("nb.ipynb").write_text(notebook("x = 1\n", WRONG))
    sarif = json.loads(answer("nb.ipynb", "--format", "sarif")[1])
    (row,) = json.loads(answer("nb.ipynb", "--format", "gitlab")[1])
    github = answer("nb.ipynb", "--format", "github")[1]
    (result,) = sarif["runs"][0]["results"]

    assert result["message"]["text"].startswith("Cell 3, line 2: pixel_values is cut per")
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "nb.ipynb"},
        "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
    }
    assert row["location"] == {"path": "nb.ipynb", "lines": {"begin": 1}}
    assert "Cell 3, line 2" in row["description"]
    assert github.startswith("::error file=nb.ipynb,title=VLM001::Cell 3, line 2: pixel_values")


def test_code_not_judged_in_a_notebook_names_its_cell(answer):
    lost = WRONG.replace("start:stop]\n", "f(start):f(stop)]\n", 1)
    Path("nb.ipynb").write_text(notebook("x = 1", lost, "def (:\n  pixel_values"))
    code, text = answer("nb.ipynb")

    assert code == 0
    assert "nb.ipynb:cell 3:2: inputs['pixel_values']" in text
    assert "nb.ipynb:cell 4:1: the cell is not Python source" in text


def test_comment_accepts_a_finding_of_a_notebook(answer):
    Path("nb.ipynb").write_text(
        notebook(WRONG.replace("stop]\n", "stop]  # vlmdebug: ignore[VLM001]\n", 1))
    )

    assert answer("nb.ipynb")[0] == 0


MAGICS = {
    "line magic": ("%matplotlib inline\nx = 1", "pass\nx = 1"),
    "command": ("if x:\n    !pip install a \\\n      b\ny", "if x:\n    pass\n\ny"),
    "assigned": ("files = !ls\nt = %timeit x", "files = get_ipython()\nt = get_ipython()"),
    "help": ("x?\n?x\nx.y??\nz", "pass\npass\npass\nz"),
    "timed cell": ("%%time\nx = 1", "\nx = 1"),
    "cell of a shell": ("%%bash\nls 'x\ny", "\n\n"),
    "remainder in brackets": ("%a\nz = (x\n     % y)", "pass\nz = (x\n     % y)"),
    "text": ("%a\nz = '''\n% b\n! c'''\n", "pass\nz = '''\n% b\n! c'''\n"),
    "quotes in a command": ("!echo it's (\nx = 1", "pass\nx = 1"),
    "comment": ("%a\n# it's (\n!b", "pass\n# it's (\npass"),
    "joined line": ("%a\nx = 1 \\\n  % 2", "pass\nx = 1 \\\n  % 2"),
}


@pytest.mark.parametrize(("cell", "python"), MAGICS.values(), ids=MAGICS.keys())
def test_magics_are_blanked_and_lines_keep_their_places(cell, python):
    assert without_magics(cell) == python


def test_cell_of_plain_python_is_left_as_it_is():
    cell = "x = [1\n% 2]\n"

    assert Notebook(Raw("x.ipynb", notebook(cell).encode())).text == cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a notebook"),
        ('{"cells": [1]}', "is not a notebook"),
        ('{"cells": 3}', "is not a notebook"),
        ("[" * 100_000, "is not a notebook"),
        (notebook("x", kernelspec={"language": "R"}), "is a notebook of R, not of Python"),
        (notebook("x", language_info={"name": "julia"}), "is a notebook of julia"),
    ],
)
def test_what_is_no_notebook_of_python_is_refused_or_listed(answer, text, message):
    Path("nb.ipynb").write_text(text)

    code, said = answer("nb.ipynb")
    assert code == 2 and message in said
    Path("nb.ipynb").write_text(f"{text} " if "pixel" in text else text)
    assert answer(".")[0] == 0


def test_notebook_with_sources_as_texts_and_without_metadata_is_read():
    data = {"cells": [{"cell_type": "code", "source": WRONG.replace("\n", "\r\n")}]}
    found = one_file.review_of(Raw("x.ipynb", json.dumps(data).encode()))

    assert [(one.cell, one.line) for one in found.findings] == [(1, 2)]


# --- folders and processes -----------------------------------------------------------------


def test_folders_of_others_and_links_are_not_entered(answer, tmp_path):
    for place in (".hidden", "node_modules", "env", "real"):
        Path(place).mkdir()
        Path(place, "cut.py").write_text(WRONG)
    Path("env/pyvenv.cfg").touch()
    Path("real/loop").symlink_to(tmp_path)
    Path("real/gone.py").symlink_to("nowhere")

    assert answer(".")[1].count("VLM001") == 1
    assert answer(".hidden", "env")[1].count("VLM001") == 2


def test_file_that_is_named_twice_is_read_once(answer, tmp_path):
    Path("cut.py").write_text(WRONG)

    assert answer("cut.py", ".", str(tmp_path / "cut.py"))[1].count("VLM001") == 1


def test_number_of_processes_changes_nothing(answer):
    for number in range(6):
        Path(f"cut{number}.py").write_text("\n" * number + WRONG)
    Path("bad.py").write_text("def (: pixel_values")
    one = answer(".", "-j", "1", "--format", "json")

    assert answer(".", "-j", "3", "--format", "json") == one
    assert answer(".", "--format", "json") == one
    assert [row["line"] for row in json.loads(one[1])["remarks"]] == [2, 3, 4, 5, 6, 7]


def test_processes_are_started_where_they_pay(monkeypatch):
    started: list[int] = []

    class Pool(many.ProcessPoolExecutor):
        def __init__(self, jobs: int) -> None:
            started.append(jobs)
            raise OSError("no more processes")

    monkeypatch.setattr(many, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(many, "_processors", lambda: 4)
    small = [many.Request(Raw(f"{n}.py", WRONG.encode())) for n in range(5)]
    large = [many.Request(Raw(f"{n}.py", b"# pixel_values" + b" " * many.WORTH)) for n in range(3)]

    assert len(many.reviews_of(small, jobs=None)) == 5 and started == []
    assert len(many.reviews_of(large, jobs=None)) == 3 and started == [3]
    assert len(many.reviews_of(small, jobs=2)) == 5 and started == [3, 2]


@pytest.mark.parametrize("number", ["0", "-1", "x", "²"])
def test_number_of_processes_is_checked(number):
    with pytest.raises(SystemExit) as ended:
        main(["review", ".", "-j", number])

    assert ended.value.code == 2


# --- hostile files -------------------------------------------------------------------------

HEAD = 'def f(inputs, size):\n    ids = inputs["input_ids"]\n    px = inputs["pixel_values"]\n'
CALL = "g(input_ids=ids[0:1], pixel_values=px[0:1])"


def lines(text: str) -> Callable[[int], str]:
    """Source with this line, `{}` as its number, as often as asked."""
    return lambda count: HEAD + "".join(f"    {text.format(n, n + 1)}\n" for n in range(count))


def joined(first: str, middle: str, last: str, by: str = "") -> Callable[[int], str]:
    return lambda count: f"{HEAD}    {first}{by.join([middle] * count)}{last}\n"


HOSTILE = {
    "cuts": lines("v{0} = px[{0}:{1}]"),
    "calls": lines(CALL),
    "conditions": lines("if a{0}: v{0} = px[{0}:{1}]"),
    "conditions before calls": lambda n: lines("if a{0}: pass")(n) + f"    {CALL}\n" * n,
    "calls under conditions": lines(f"if a{{0}}: {CALL}"),
    "known conditions": lines("if 'image_grid_thw' in inputs: v{0} = px[{0}:{1}]"),
    "elifs": lambda n: (
        HEAD + "    if a: pass\n" + lines("elif a{0}: x = px[{0}:{1}]")(n)[len(HEAD) :]
    ),
    "one line of cuts": joined("", "v = px[a:b]", "", "; "),
    "one line of calls": joined("", CALL, "", "; "),
    "cuts of cuts": joined("x = px", "[0:1]", ""),
    "chained calls": joined("x = px", ".to(1)", ""),
    "sum": joined("x = ", "size", "", " + "),
    "list": joined("x = [", "1", "]", ", "),
    "list of cuts": joined("x = [", "px[0:1]", "]", ", "),
    "dict": lambda n: HEAD + "    x = {" + "".join(f"'k{i}': {i}, " for i in range(n)) + "}\n",
    "list of a file": lambda n: f"X = [{'1, ' * n}]\n{HEAD}    for x in X: pass\n",
    "functions": lambda n: "".join(HEAD.replace("f(", f"f{i}(") for i in range(n)),
    "functions of no media": lambda n: "".join(f"def g{i}(a): return a\n" for i in range(n)) + HEAD,
    "functions in functions": lambda n: HEAD + f"    def g(a): return a[0:1]\n    {CALL}\n" * n,
    "helpers": lambda n: (
        "def g0(a): return a\n"
        + "".join(f"def g{i + 1}(a): return g{i}(a) or g{i}(a)\n" for i in range(n))
        + f"{HEAD}    g{n}(px)\n"
    ),
    "decorators": lambda n: "@d\n" * n + HEAD,
    "nested brackets": joined("x = ", "[", ""),
    "negations": joined("x = ", "not ", "size"),
    "text": joined("x = '", "pixel_values", "'"),
}


def steps(call: Callable[[], object]) -> int:
    """Lines of Python that a call runs: the same on every machine."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def is_linear(of: Callable[[int], object]) -> bool:
    """Whether the steps grow no faster than what is given."""
    base, small, large = (steps(partial(of, count)) for count in (1, 12, 24))
    return large - base <= 2.6 * max(small - base, 3 * base)


@pytest.mark.slow
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_twice_the_source_takes_twice_the_steps(make, monkeypatch):
    monkeypatch.setattr(reading, "WAYS", 4)  # their number is bounded, and reached with few lines
    trials()  # once for all

    def read(count: int) -> None:
        with contextlib.suppress(vd.BadInput):
            review.source(make(count))

    assert is_linear(read)


def test_more_than_twice_the_steps_would_be_seen():
    assert is_linear(lambda count: [None for _ in range(100 * count)])
    assert not is_linear(lambda count: [None for _ in range(100 * count) for _ in range(count)])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{HEAD}    x = [{'1, ' * 350_000}]\n", id="list of 1 MB"),
        pytest.param(f"pixel_values = '{'a' * 1_000_000}'\n{HEAD}", id="text of 1 MB"),
        pytest.param(f"{HEAD}    x = {'+'.join(['size'] * 20_000)}\n", id="sum of 20,000"),
        pytest.param(f"{HEAD}    x = {'not ' * 50_000}1\n", id="50,000 negations"),
        pytest.param(f"{HEAD}    x = {'[' * 150}{']' * 150}\n", id="150 brackets"),
        pytest.param(f"{HEAD}    x = px{'.a' * 20_000}\n", id="20,000 attributes"),
        pytest.param(f"{HEAD}    x = {'lambda: ' * 20_000}1\n", id="20,000 lambdas"),
        pytest.param(f"{HEAD}    x = px.repeat(10**9, 10**9); y = 9 ** 9 ** 9\n", id="numbers"),
        pytest.param(HEAD + "    if size: pass\n" + "    elif px: pass\n" * 3000, id="elifs"),
        pytest.param("def g(a): return a\n" * 10_000 + HEAD, id="10,000 functions"),
    ],
)
def test_hostile_source_ends_in_a_review_or_a_message(text):
    try:
        found = review.source(text, "x.py")
    except vd.BadInput as error:
        assert "x.py" in str(error) and "Nothing of it was reviewed." in str(error)
    else:
        assert found.ok


def test_line_is_named_where_the_steps_of_a_function_ran_out():
    loops = "".join("    " * (n + 1) + f"for a{n} in range(30):\n" for n in range(5))
    found = review.source(f"{HEAD}{loops}{'    ' * 6}x = px[0:1]\n", "x.py")

    (line,) = [one for one in found.not_judged if "ran out" in one]
    assert line == "x.py:1: f (its steps, 20,000 of one run, ran out on line 9)"


def test_functions_behind_the_steps_of_a_file_are_listed(monkeypatch):
    monkeypatch.setattr(one_file, "FILE_STEPS", 5000)
    count = 40
    text = "".join(WRONG.replace("cut(", f"cut{n}(") for n in range(count))
    found = review.source(text, "x.py")
    partly = {line.split(": ")[1] for line in found.not_judged if "ran out on line" in line}
    begun = {one.function for one in found.findings} | {name.split(" (")[0] for name in partly}
    read = len(begun)

    assert found.findings and len(partly) <= 1 and read < count == found.functions
    line = 3 * read + 1
    assert found.not_judged[-1] == (
        f"x.py:{line}: cut{read} and {count - read - 1} more functions about media (the functions "
        "above took the 5,000 steps that are read of a file)"
    )


def test_no_function_is_said_to_be_none_where_files_were_not_read(answer):
    Path("bad.py").write_text("def (: pixel_values")

    assert "cuts the media of a batch; 1 file not read." in answer(".")[1]
    assert os.listdir() == ["bad.py"]
