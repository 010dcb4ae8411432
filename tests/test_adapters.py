"""Adapters: code is taken from installed files, and never blamed for what a test lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import vlmdebug as vd
from vlmdebug.errors import NotJudged
from vlmdebug.running.stand_in import Lacks
from vlmdebug.trainers import registry
from vlmdebug.trainers.adapter import Adapter
from vlmdebug.trainers.registry import TRAINERS, adapter_of, trainer_slicer
from vlmdebug.trainers.source import Library, MissingImport, Part

LIBRARY = {
    "__init__.py": "raise RuntimeError('imported')",
    "sub/__init__.py": "from ..helpers import double as twice\nfrom . import deep\n",
    "sub/deep.py": "VALUE = 7\n",
    "helpers.py": """
import not_installed_anywhere
from dataclasses import dataclass

SIZE = 2
SIZE += 1
try:
    from not_installed_anywhere import fast
except ImportError:
    fast = None
if SIZE > 2:
    LARGE = "yes"
else:
    LARGE = "no"

def double(rows): return rows + rows

@dataclass
class Pair:
    first: not_evaluated = None

    @undefined_decorator
    def broken(self): ...

@dataclass
class Single:
    first: not_evaluated = SIZE

    @staticmethod
    def make(): return Single(first=len("abc"))

def uses_missing(): return not_installed_anywhere.thing
def careful():
    try:
        import not_installed_anywhere as found
    except ImportError:
        found = "none"
    return found
def typo(): return not_defined_here
""",
    "trainer.py": """
from base import NotImported
from my_trainer.sub import twice
from .helpers import SIZE
from . import helpers as more

def shown(*_): raise AssertionError("replaced")

class Trainer(NotImported):
    @decorator
    def cut(self, rows: NotImported, extra=SIZE) -> NotImported:
        shown(rows)
        return twice(rows[:extra]) + self.more + self.last(rows) + [more.SIZE]

    @staticmethod
    def last(rows):
        return rows[-1:]

    def parent(self):
        return super().parent()
""",
    "broken.py": "def f(:\n",
    "stars.py": "from os.path import *\ndef folder(path): return dirname(path)\n",
}


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "my_trainer"
    for name, text in LIBRARY.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Library("my_trainer", "my-trainer 1.0", folder)


# --- code from files ---------------------------------------------------------------------------


def test_method_runs_with_what_its_file_imports_from_its_own_library(library):
    module = library.module("my_trainer.trainer").replace(shown=lambda *_: None)
    trainer = module.instance("Trainer", more=[0])

    assert trainer.cut([1, 2, 3, 4]) == [1, 2, 3, 1, 2, 3, 0, 4, 3]
    assert "my_trainer" not in sys.modules


def test_classes_constants_and_blocks_are_as_after_an_import(library):
    helpers = library.module("my_trainer.helpers")

    assert (helpers.SIZE, helpers.LARGE, helpers.fast) == (3, "yes", None)
    assert helpers.Single.make().first == helpers.Single().first == 3
    assert library.module("my_trainer.sub").deep.VALUE == 7


def test_traceback_names_the_line_of_the_installed_file(library):
    with pytest.raises(NameError, match="not_defined_here") as caught:
        library.module("my_trainer.helpers").typo()

    assert str(caught.traceback[-1].path).endswith("helpers.py")
    line = LIBRARY["helpers.py"].splitlines()[caught.traceback[-1].lineno]
    assert line == "def typo(): return not_defined_here"


def test_missing_import_is_named_and_code_that_expects_it_goes_on(library):
    helpers = library.module("my_trainer.helpers")

    assert helpers.careful() == "none"
    with pytest.raises(MissingImport, match="imports not_installed_anywhere, which is not inst"):
        helpers.uses_missing()


def test_code_that_fails_before_any_batch_is_no_finding(library):
    with pytest.raises(NotJudged, match=r"my-trainer 1.0 could not be read: my_trainer.helpers"):
        library.module("my_trainer.helpers").Pair()


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda it: it.module("my_trainer.gone"), "has no module my_trainer.gone"),
        (lambda it: it.module("my_trainer.trainer").gone, "has no gone in my_trainer.trainer"),
        (lambda it: it.module("my_trainer.trainer").method("Trainer.gone"), "no Trainer.gone"),
        (lambda it: it.module("my_trainer.trainer").method("Gone.cut"), "no Gone.cut"),
        (lambda it: it.module("my_trainer.trainer").method("Trainer.parent"), "its base class"),
        (lambda it: it.module("my_trainer.trainer").replace(gone=1), "has no gone"),
        (lambda it: it.module("my_trainer.broken").f, "could not be read: my_trainer.broken, Synt"),
        (lambda it: it.module("my_trainer.stars").folder("a/b"), "with `import \\*`"),
        (lambda it: it.module("my_trainer.trainer").instance("Trainer").gone, "reads self.gone"),
        (lambda _: Part("self.args").gone, "reads gone of self.args"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_release_or_a_test_lacks_is_named_and_blames_nobody(library, use, said):
    with pytest.raises(NotJudged, match=said) as caught:
        use(library)

    assert "Nothing was judged" in str(caught.value) or "not taken" in str(caught.value)


def test_code_may_ask_whether_a_part_has_something():
    part = Part("self.args", beta=0.0)

    assert getattr(part, "alpha", 1.0) == 1.0
    assert not hasattr(part, "alpha")
    with pytest.raises(Lacks):
        part.alpha  # noqa: B018


def test_adapters_load_no_trainer():
    program = "import sys\nfrom vlmdebug.trainers.registry import TRAINERS, adapter_of\n"
    program += "for name in TRAINERS: assert adapter_of(name).releases\n"
    program += "print({'trl', 'transformers', 'accelerate'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert ran.stdout.strip() == "set()", ran.stderr


# --- trainer_slicer ------------------------------------------------------------------------------


def test_accelerate_cuts_by_sample_what_has_a_row_per_image():
    pytest.importorskip("accelerate")
    slicer = vd.trainer_slicer("accelerate", any_release=True)
    found = vd.falsify(slicer, families=["llava"], text_only=False)

    assert repr(found) == "llava: images per sample [2], chunk size 1"
    assert vd.falsify(slicer, families=["idefics3"], text_only=False, max_examples=50) is None


def test_printed_test_uses_the_slicer_by_name():
    pytest.importorskip("accelerate")
    found = vd.falsify(vd.trainer_slicer("accelerate", any_release=True), families=["llava"])

    assert 'vd.trainer_slicer("accelerate", "dispatch"' in found.to_pytest()
    with pytest.raises(vd.MismatchError):
        exec(found.to_pytest() + "\n" + found.to_pytest().split("def ")[1].split("(")[0] + "()", {})


def test_trl_is_the_same_by_either_name():
    pytest.importorskip("trl")
    batch = vd.make_batch("gemma4", [0, 1])
    by_name = [vd.trl_slicer("grpo"), vd.trainer_slicer("trl", "grpo", any_release=True)]
    reports = [vd.check(slicer, batch) for slicer in by_name]

    assert [m.code for m in reports[0].mismatches] == ["VLM005"]
    assert reports[0].mismatches == reports[1].mismatches


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Verl",), "Did you mean 'verl'"),
        (("ms_swift",), "Did you mean 'ms-swift'"),
        (("deepspeed-chat",), "Known are accelerate"),
        ((3,), "trainer is 3, but it is one of accelerate"),
        (("verl", "both"), "name is 'both', but the slicers of verl are fixed, dynamic"),
        (("verl", 3), "name is 3, but the slicers of verl are fixed"),
        (("a\nb",), r"'a\\nb'"),
    ],
    ids=str,
)
def test_unknown_names_are_refused(arguments, said):
    with pytest.raises(vd.BadInput, match=said):
        trainer_slicer(*arguments)


def test_trainer_that_is_not_installed_is_named_with_a_release():
    name = next(name for name in TRAINERS if not installed(name))

    with pytest.raises(vd.VlmDebugError, match=r"is not installed.*pip install .*=="):
        trainer_slicer(name)


def installed(name):
    from importlib.util import find_spec

    return find_spec(adapter_of(name).package) is not None


@pytest.fixture
def own(library, monkeypatch):
    """An adapter of the library above, which is installed in release 1.0."""
    adapter = Adapter("my_trainer", "my-trainer", ("0.9", "1.0"))
    monkeypatch.setattr(registry, "adapter_of", lambda _: adapter)
    monkeypatch.setattr(registry.metadata, "version", lambda _: "1.0")
    monkeypatch.syspath_prepend(library.folder.parent)

    @adapter.slicer("whole", "helpers.double")
    def whole(found):
        def slicer(inputs, chunk_size):
            found.module("my_trainer.helpers").double([])
            yield {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}

        return slicer

    @adapter.slicer("typo", "helpers.typo")
    def typo(found):
        def slicer(inputs, chunk_size):
            yield found.module("my_trainer.helpers").typo()

        return slicer

    return adapter


def test_release_that_was_tried_runs_and_is_named(own):
    slicer = trainer_slicer("mine")

    assert slicer.__name__ == "my-trainer 1.0 whole"
    assert vd.check(slicer, vd.make_batch("llava", [1]), chunk_size=1).ok


def test_other_release_is_refused_with_what_to_do(own, monkeypatch):
    monkeypatch.setattr(registry.metadata, "version", lambda _: "2.0")

    with pytest.raises(vd.BadInput, match=r"was tried in 0.9, 1.0.*any_release=True.*==1.0"):
        trainer_slicer("mine")
    assert trainer_slicer("mine", any_release=True).__name__ == "my-trainer 2.0 whole"


def test_other_release_that_raises_on_one_sample_is_not_blamed(own, monkeypatch):
    report = vd.check(trainer_slicer("mine", "typo"), vd.make_batch("llava", [1]))
    assert [m.code for m in report.mismatches] == ["VLM008"]

    monkeypatch.setattr(registry.metadata, "version", lambda _: "2.0")
    with pytest.raises(NotJudged, match=r"raised NameError.*probably does not fit"):
        trainer_slicer("mine", "typo", any_release=True)


# --- whose error it is ---------------------------------------------------------------------------

CALLS_BACK = """
def half(rows):
    raise ValueError("odd number of rows")

def given(shim, rows, **more):
    return shim(rows, **more)

def guards(shim, rows):
    try:
        return shim(rows)
    except Exception:
        raise RuntimeError("no rows") from None

def raises_again(rows):
    try:
        half(rows)
    except ValueError as error:
        raise error from error

def as_dict(part):
    return part["alpha"]

def asks(part):
    try:
        return part.alpha
    except AttributeError:
        raise ValueError("alpha is needed") from None
"""


def misnamed(cuts, inputs):
    cuts.half(rows=inputs, samples=2)


def shim_raises(cuts, inputs):
    cuts.given(lambda rows: rows["gone"], inputs)


def shim_lacks_an_argument(cuts, inputs):
    cuts.given(lambda rows: rows, inputs, samples=2)


def shim_raises_and_the_trainer_hides_it(cuts, inputs):
    cuts.guards(lambda rows: torch.cat(rows["gone"]), inputs)


def part_is_no_dict(cuts, inputs):
    cuts.as_dict(Part("self.args", alpha=1))


def part_lacks_what_is_asked_for(cuts, inputs):
    cuts.asks(Part("self.args"))


def trainer_raises(cuts, inputs):
    cuts.half(inputs)


def trainer_raises_below_a_shim(cuts, inputs):
    cuts.given(cuts.half, inputs)
    cuts.given(lambda rows: cuts.half(rows), inputs)


def trainer_raises_again(cuts, inputs):
    cuts.raises_again(inputs)


def trainer_calls_itself_wrongly(cuts, inputs):
    cuts.given(cuts.half, inputs, samples=2)


def tried_as(own, library, make_call):
    (library.folder / "cuts.py").write_text(CALLS_BACK, encoding="utf-8")

    @own.slicer("called", "cuts")
    def called(found):
        def slicer(inputs, chunk_size):
            make_call(found.module("my_trainer.cuts"), inputs)
            yield from ()

        return slicer

    return trainer_slicer("mine", "called")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (misnamed, r"TypeError at tests/test_adapters.py:\d+: half\(\) got an unexpected"),
        (shim_raises, r"KeyError at tests/test_adapters.py:\d+: 'gone'"),
        (shim_lacks_an_argument, r"TypeError at my_trainer/cuts.py:6, which uses what the adapter"),
        (shim_raises_and_the_trainer_hides_it, r"KeyError at tests/test_adapters.py:\d+"),
        (part_is_no_dict, r"'Part' object is not subscriptable"),
        (part_lacks_what_is_asked_for, r"reads alpha of self.args, which this test does not have"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fault_of_the_adapter_accuses_nobody(own, library, call, said):
    slicer = tried_as(own, library, call)

    with pytest.raises(NotJudged, match=said) as caught:
        vd.check(slicer, vd.make_batch("llava", [1]))
    assert "Nothing was judged. Watch a training run instead" in str(caught.value)
    if call is not part_lacks_what_is_asked_for:
        assert "vlmdebug for my-trainer 1.0 called failed" in str(caught.value)
        assert "says nothing about the trainer" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (trainer_raises, "my_trainer/cuts.py:3"),
        (trainer_raises_below_a_shim, "my_trainer/cuts.py:3"),
        (trainer_raises_again, "my_trainer/cuts.py:3"),
        (trainer_calls_itself_wrongly, "my_trainer/cuts.py:6"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_error_of_the_trainers_own_line_is_its_own(own, library, call, place):
    report = vd.check(tried_as(own, library, call), vd.make_batch("llava", [1]))

    assert [one.code for one in report.mismatches] == ["VLM008"]
    assert f"Error at {place} after 0 chunks" in report.mismatches[0].message


def test_error_that_was_handled_around_the_trial_is_no_part_of_it(own, library):
    slicer = tried_as(own, library, trainer_raises)
    try:
        raise NotJudged("of another trial")
    except NotJudged:
        report = vd.check(slicer, vd.make_batch("llava", [1]))

    assert [one.code for one in report.mismatches] == ["VLM008"]


def test_release_of_trl_with_another_signature_is_not_blamed(monkeypatch):
    trl = pytest.importorskip("trl")
    loop = "_get_per_token_logps_and_entropies"

    def needs_more(self, model, input_ids, attention_mask, *, groups):
        raise AssertionError("never called")

    monkeypatch.setattr(trl.GRPOTrainer, loop, needs_more)
    with pytest.raises(NotJudged, match=r"TypeError at trainers/trl.py:\d+: .*needs_more\(\)"):
        vd.check(vd.trl_slicer("grpo"), vd.make_batch("llava", [1]))


# --- what TRL imports ----------------------------------------------------------------------------


def test_optional_import_of_trl_is_named(monkeypatch):
    """Some releases import mergekit at the top of a trainer's module."""
    trl = pytest.importorskip("vlmdebug.trainers.trl")
    pytest.importorskip("trl")

    def fails(place):
        raise ModuleNotFoundError("No module named 'mergekit'", name="mergekit")

    monkeypatch.setattr(trl.importlib, "import_module", fails)
    with pytest.raises(MissingImport, match=r"imports mergekit, which is not installed.*pip inst"):
        vd.trl_slicer("online-dpo")


def test_module_that_trl_lacks_is_named_as_such():
    pytest.importorskip("trl")
    from vlmdebug.trainers.trl import _module

    with pytest.raises(vd.BadInput, match="This TRL has no gone_trainer"):
        _module("gone_trainer")
