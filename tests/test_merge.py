"""What is wrong between ranks: planted in written traces, and made by real processes."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from architectures import Built
from processes import run_ranks
from ranks import IMAGES, OF_PACKED, Collate

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.fleet.lanes import to_page
from vlmdebug.fleet.merge import FAULTS

Lines = dict[int, list[dict[str, Any]]]
RANKS, STEPS, MICRO = 4, 6, 2


def traces() -> Lines:
    """The lines of each rank: two samples in each call, the first with an image."""
    numbers = iter(range(1, 10_000))
    return {
        rank: [
            {
                "call": step * MICRO + micro,
                "site": "my/train.py:9",
                "verdict": "OK",
                "rank": rank,
                "coordinates": None,
                "step": step,
                "micro": micro,
                "time": (step * MICRO + micro) * 1_000_000,
                "identities": [f"{next(numbers):016x}", f"{next(numbers):016x}"],
                "media": [1, 0],
            }
            for step in range(STEPS)
            for micro in range(MICRO)
        ]
        for rank in range(RANKS)
    }


def write(folder: Path, lines: Lines) -> Path:
    folder.mkdir(exist_ok=True)
    for rank, own in lines.items():
        text = "".join(json.dumps(line) + "\n" for line in own)
        (folder / f"run.rank{rank}.jsonl").write_text(text, encoding="utf-8")
    return folder


def at(lines: Lines, rank: int, step: int, micro: int = 0) -> dict[str, Any]:
    return lines[rank][step * MICRO + micro]


def same_sample(lines: Lines) -> None:
    at(lines, 2, 3)["identities"][1] = at(lines, 0, 3, 1)["identities"][0]


def no_image(lines: Lines) -> None:
    at(lines, 1, 4, 1)["media"] = [0, 0]


def short_call(lines: Lines) -> None:
    at(lines, 3, 5)["identities"] = at(lines, 3, 5)["identities"][:1]


def no_call(lines: Lines) -> None:
    lines[0] = [line for line in lines[0] if line["step"] != 2]


def wrong_call(lines: Lines) -> None:
    at(lines, 1, 1)["verdict"] = "MISMATCH"


def other_peer(lines: Lines) -> None:
    pair_up(lines)
    at(lines, 3, 2)["identities"].reverse()


def pair_up(lines: Lines) -> None:
    """Ranks 0 and 1, and 2 and 3, are tensor-parallel peers: they have the same samples."""
    for rank, own in lines.items():
        for line, first in zip(own, lines[rank - rank % 2], strict=True):
            line["coordinates"] = {"dp": rank // 2, "tp": rank % 2}
            line["identities"] = list(first["identities"])


def every_worker_reads_all(lines: Lines) -> None:
    for step in (1, 3, 5):
        at(lines, 2, step)["identities"] = at(lines, 2, step - 1)["identities"]


def context_peers(lines: Lines) -> None:
    """Ranks 0 and 1, and 2 and 3, have the halves of one row of 20 tokens."""
    pair_up(lines)
    for rank, own in lines.items():
        for line in own:
            line["coordinates"] = {"dp": rank // 2, "cp": rank % 2}
            row = {"text": f"{line['call']:016x}", "of": 20, "runs": [[10 * (rank % 2), 10, 1]]}
            line["tokens"] = [row]


def lost_token(lines: Lines) -> None:
    context_peers(lines)
    at(lines, 3, 2)["tokens"][0]["runs"] = [[11, 9, 1]]


def token_on_both(lines: Lines) -> None:
    context_peers(lines)
    at(lines, 0, 1)["tokens"][0]["runs"] = [[0, 11, 1]]


def striped_twice(lines: Lines) -> None:
    context_peers(lines)
    for own in lines.values():
        for line in own:
            cp = line["coordinates"]["cp"]
            line["tokens"] = [{"text": None, "of": None, "runs": [[cp, 10, 2]]}]
    at(lines, 1, 4)["tokens"][0]["runs"] = [[2, 10, 2]]


def part_of_another_sample(lines: Lines) -> None:
    context_peers(lines)
    at(lines, 1, 5)["tokens"][0].update(text="f" * 16, of=25, runs=[[10, 15, 1]])


PLANTED: dict[str, tuple[Callable[[Lines], None], str, tuple[Any, ...]]] = {
    "sample on two ranks": (same_sample, "twice", (3, f"{15:016x}", [0, 2])),
    "rank without images": (no_image, "without_media", (4, 1, [1], 3)),
    "short call": (short_call, "uneven", (5, 3, 4, [3])),
    "no call": (no_call, "absent", (2, [0])),
    "wrong call": (wrong_call, "wrong", (1, 0, 1, 2, "my/train.py:9")),
    "peers with other samples": (other_peer, "peers", (2, 0, 1, [2, 3])),
    "token on no rank": (lost_token, "tokens", (2, 0, 1, 0, "on no rank", 10, [2, 3])),
    "token on both ranks": (token_on_both, "tokens", (1, 0, 0, 0, "on several", 10, [0, 1])),
    "striped tokens": (striped_twice, "tokens", (4, 0, 0, 0, "on no rank", 1, [0, 1])),
    "part of another sample": (part_of_another_sample, "peers", (5, 0, 0, [0, 1])),
    "every worker reads all": (every_worker_reads_all, "repeated", (2, f"{49:016x}", [0, 1])),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    plant, kind, expected = PLANTED[name]
    lines = traces()
    plant(lines)

    merged = vd.merge(write(tmp_path / "traces", lines))

    allowed = {kind, "uneven"} if kind == "absent" else {kind}
    assert kind in merged.faults and merged.faults.keys() <= allowed
    assert merged.ask(kind).rows[0] == expected
    assert str(merged).splitlines()[0] == f"4 ranks, 6 steps, {sum(map(len, lines.values()))} calls"


def test_each_kind_but_one_that_needs_more_is_planted() -> None:
    assert {kind for _, kind, _ in PLANTED.values()} == FAULTS.keys() - {"unseen"}


@pytest.mark.parametrize(
    "change",
    [lambda lines: None, pair_up, context_peers],
    ids=["data parallel", "with peers", "context parallel"],
)
def test_right_ranks_have_no_fault(change: Callable[[Lines], None], tmp_path: Path) -> None:
    lines = traces()
    change(lines)

    merged = vd.merge(write(tmp_path / "traces", lines))

    assert merged.ok
    assert "no fault between ranks was found" in str(merged)
    assert "samples that no rank saw" in str(merged)


def test_second_epoch_is_no_repetition(tmp_path: Path) -> None:
    lines = traces()
    for own in lines.values():
        own += [{**line, "step": line["step"] + STEPS, "call": line["call"] + 12} for line in own]

    assert vd.merge(write(tmp_path / "traces", lines)).ok


def test_expected_sample_that_no_rank_saw_is_named(tmp_path: Path) -> None:
    lines = traces()
    seen = [one for own in lines.values() for line in own for one in line["identities"]]
    expected = tmp_path / "expected.txt"
    expected.write_text("\n".join([*seen, "00000000000fffff", ""]))

    merged = vd.merge(write(tmp_path / "traces", lines), expected=expected)

    assert merged.ask("unseen").rows == [("00000000000fffff",)]
    assert merged.not_compared == ()
    expected.write_text("no identity\n")
    with pytest.raises(vd.BadInput, match="could not be merged"):
        vd.merge(tmp_path / "traces", expected=expected)


def test_calls_that_could_not_be_read_are_counted_and_not_called_right(tmp_path: Path) -> None:
    lines = traces()
    at(lines, 0, 0).update(identities=None, media=None)
    at(lines, 1, 0).update(media=[None, 1])

    merged = vd.merge(write(tmp_path / "traces", lines))

    assert merged.not_compared[:2] == (
        "the samples of 1 call, which could not be read",
        "the media of 1 call, which do not show which sample owns them",
    )


def test_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "traces", traces())
    trace = folder / "run.rank1.jsonl"
    trace.write_text(trace.read_text()[:-40])

    merged = vd.merge(folder)

    assert merged.calls == RANKS * STEPS * MICRO - 1
    assert merged.ok, str(merged)
    assert merged.not_compared[0] == (
        "1 line that is cut off or damaged, in 1 trace; absent and uneven leave out rank 1 from "
        "step 5 on"
    )


def test_newer_trace_is_read_again(tmp_path: Path) -> None:
    lines = traces()
    folder = write(tmp_path / "traces", lines)
    assert vd.merge(folder).ok
    no_image(lines)
    write(folder, lines)

    assert "without_media" in vd.merge(folder).faults


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "is no folder"),
        (lambda folder: folder.mkdir(), "has no file that ends in .jsonl"),
        (lambda folder: write(folder, {0: [{"call": 1}]}), "names a rank"),
    ],
)
def test_folder_without_traces_is_refused(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "traces")

    with pytest.raises(vd.BadInput, match=said):
        vd.merge(tmp_path / "traces")


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    lines = traces()
    no_image(lines)
    for own in lines.values():
        for line in own:
            line["site"] = "<b>\n::error::x.py:1"
    yield write(tmp_path / "traces", lines)


def test_page_marks_the_rank_and_step(hung: Path, tmp_path: Path) -> None:
    page = tmp_path / "ranks.html"

    assert main(["merge", str(hung), "--html", str(page)]) == 1

    text = page.read_text(encoding="utf-8")
    assert '<td class="wrong">4 samples, 1 media<br><strong>✗ without_media</strong></td>' in text
    assert "<b>" not in text and text.count('class="wrong"') == 1


def test_timeline_has_the_calls_of_one_step(hung: Path, tmp_path: Path) -> None:
    file = tmp_path / "step.json"

    assert main(["merge", str(hung), "--step", "4", "--timeline", str(file)]) == 1

    events = json.loads(file.read_text())["traceEvents"]
    assert [(one["tid"], one["ts"], one["dur"]) for one in events[:2]] == [
        (0, 8_000.0, 1_000.0),
        (0, 9_000.0, 1.0),
    ]
    assert len(events) == RANKS * MICRO
    assert [one["args"]["media"] for one in events if one["tid"] == 1] == [[1, 0], [0, 0]]


def test_question_is_answered_and_options_that_belong_together_are_asked_for(
    hung: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(hung), "--ask", "without_media"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "4     1      [1]            3"
    assert main(["merge", str(hung), "--step", "1"]) == 2
    assert "--step and --timeline belong together" in capsys.readouterr().err


# Two real processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of two processes, for each way of `ranks.py`."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(Path(__file__).with_name("ranks.py"), folder)
    return folder


@pytest.mark.parametrize(
    ("way", "faults"),
    [
        ("sharded", set()),
        ("fsdp", set()),
        ("packed", set()),
        ("dispatched", set()),
        ("everything", {"twice"}),
        ("one_without_images", {"without_media"}),
        ("workers", {"repeated"}),
    ],
)
def test_ranks_that_train_are_right_or_wrong_together(
    way: str, faults: set[str], trained: Path
) -> None:
    merged = vd.merge(trained / way)

    assert merged.faults.keys() == faults, str(merged)
    assert merged.not_compared == (
        "samples that no rank saw: pass the identities that were expected",
    )
    assert merged.ask("select distinct verdict from calls").rows == [("OK",)]
    assert merged.ranks == (1 if way == "workers" else 2)


def test_step_that_would_hang_is_named(trained: Path) -> None:
    merged = vd.merge(trained / "one_without_images")

    assert merged.ask("without_media").rows == [(1, 0, [1], 1)]
    assert [line["step"] for line in lines_of(trained / "sharded" / "run.rank1.jsonl")] == [0, 1]


def test_samples_are_the_same_in_every_process(trained: Path) -> None:
    one, *others = (samples_in(trained / way) for way in ("sharded", "everything", "fsdp"))

    assert others == [one, one] and len(one) == 8


def test_samples_of_packed_rows_are_those_alone(trained: Path, built: Built) -> None:
    processor = built[OF_PACKED][1]
    alone = [Collate(processor)([sample]) for sample in enumerate(IMAGES)]
    batches = [vd.read_batch(one, processor=processor) for one in alone]

    assert samples_in(trained / "packed") == {vd.identities(one)[0].digits for one in batches}
    calls = vd.merge(trained / "packed").ask("select distinct len(samples) from calls")
    assert calls.rows == [(2,)]


def samples_in(folder: Path) -> set[str]:
    """The identities of a trace."""
    question = "select distinct printf('%016x', unnest(samples)) from calls"
    return {one for (one,) in vd.merge(folder).ask(question).rows}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_coordinates_of_a_rank_are_those_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = vd.tiny.build("gemma4")
    inputs = vd.tiny.batch("gemma4", [1, 0])
    monkeypatch.setenv("RANK", "3")
    for name, options in (("given", {"coordinates": {"dp": 1, "tp": 1}}), ("environment", {})):
        monkeypatch.setenv("VLMDEBUG_COORDINATES", "dp=1,tp=1")
        with vd.watch(model, processor=processor, log=tmp_path / f"{name}.jsonl", **options):
            model(**inputs)
        (line,) = lines_of(tmp_path / f"{name}.rank3.jsonl")
        assert (line["rank"], line["coordinates"]) == (3, {"dp": 1, "tp": 1})
        assert line["media"] == [1, 0]
    batch = vd.read_batch(inputs, processor=processor)
    assert line["identities"] == [one.digits for one in vd.identities(batch)]
    wrong = tmp_path / "wrong.jsonl"
    with pytest.raises(vd.BadInput, match="its names are dp, tp, cp, pp"):
        vd.watch(model, log=wrong, coordinates={"ep": 1}).__enter__()
    monkeypatch.setenv("VLMDEBUG_COORDINATES", "dp:1")
    with pytest.raises(vd.BadInput, match="it names coordinates, such as dp=1,tp=0"):
        vd.watch(model, log=wrong).__enter__()


def test_identity_of_a_sample_is_of_its_tokens_and_pixels(built: Built) -> None:
    processor = built["qwen3_vl"][1]
    inputs = dict(vd.tiny.batch("qwen3_vl", [2, 0, 1]))
    whole = vd.identities(vd.read_batch(inputs, processor=processor))
    batch = vd.read_batch(inputs, processor=processor)
    alone = [
        vd.identities(vd.read_batch(chunk, processor=processor))[0] for chunk in batch.chunks(1)
    ]

    assert alone == whole and [one.media for one in whole] == [2, 0, 1]
    changed = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
    moved = vd.identities(vd.read_batch(changed, processor=processor))
    assert [one == other for one, other in zip(moved, whole, strict=True)] == [False, True, False]


def test_epochs_in_another_order_are_no_repetition(tmp_path: Path) -> None:
    """An eighth of the samples are in the second half of one epoch and early in the next."""
    lines = traces()
    for own in lines.values():
        last = [line["identities"] for line in own]
        own += [
            {**line, "step": line["step"] + STEPS, "identities": identities}
            for line, identities in zip(own, reversed(last), strict=True)
        ]

    assert vd.merge(write(tmp_path / "traces", lines)).ok


# What a program can do on purpose, or what cannot be known


def in_between(lines: Lines) -> None:
    """After each step but the first, every rank is evaluated on its own two samples."""
    for rank, own in lines.items():
        for step in range(1, STEPS):
            after = {**own[-1], "step": step, "micro": MICRO, "call": 100 + step, "grad": False}
            own.append({**after, "identities": [f"{900 + rank:x}", f"{950 + rank:x}"]})


def shards(lines: Lines) -> None:
    """Ranks 0 and 1, and 2 and 3, have other tokens of the same samples."""
    for rank, own in lines.items():
        for line in own:
            line["coordinates"] = {"dp": rank // 2, "cp": rank % 2}


def unread(lines: Lines) -> None:
    at(lines, 0, 0).update(identities=None, media=None)


def one_text(lines: Lines) -> None:
    """Every rank has the same text with another image, and no call shows which sample owns it."""
    for own in lines.values():
        for line in own:
            line.update(identities=["1" * 16, "1" * 16], media=[None, None])


def test_samples_of_one_text_and_unknown_images_are_not_the_same(tmp_path: Path) -> None:
    lines = traces()
    one_text(lines)

    merged = vd.merge(write(tmp_path / "traces", lines))

    assert merged.ok, str(merged)
    assert merged.not_compared[0].startswith("the media of 48 calls, which do not show")


def test_peer_that_calls_once_more_with_the_same_sample_is_found(tmp_path: Path) -> None:
    lines = traces()
    pair_up(lines)
    for line in (at(lines, 0, 2), at(lines, 1, 2)):
        line["identities"] = ["1" * 16, "1" * 16]
    lines[1].append({**at(lines, 1, 2), "call": 100})

    assert vd.merge(write(tmp_path / "traces", lines)).ask("peers").rows == [(2, 0, 0, [0, 1])]


@pytest.mark.parametrize("change", [in_between, shards, unread])
def test_evaluation_shards_and_unread_calls_are_no_fault(
    change: Callable[[Lines], None], tmp_path: Path
) -> None:
    lines = traces()
    change(lines)

    merged = vd.merge(write(tmp_path / "traces", lines))

    assert merged.ok, str(merged)
    said = "context-parallel peers" if change is shards else "samples of 1 call"
    assert any(said in text for text in merged.not_compared) == (change is not in_between)


def test_trace_without_a_rank_is_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "traces", traces())
    (folder / "old.jsonl").write_text('{"call": 0, "verdict": "OK"}\n')

    assert vd.merge(folder).not_compared[0] == "1 of 5 traces: no line in them names a rank"


def test_trace_that_came_late_with_an_older_date_is_read(tmp_path: Path) -> None:
    lines = traces()
    folder = write(tmp_path / "traces", {rank: lines[rank] for rank in range(3)})
    assert vd.merge(folder).ranks == 3
    write(folder, lines)
    for file in folder.glob("*.jsonl"):
        os.utime(file, ns=(1, 1))

    assert vd.merge(folder).ranks == 4


@pytest.mark.parametrize("name", ["a[1]", "it's *?"])
def test_folder_is_no_pattern(name: str, tmp_path: Path) -> None:
    """DuckDB would find `a1` by `a[1]`."""
    lines = traces()
    write(tmp_path / "a1", {0: lines[1]})
    folder = write(tmp_path / name, lines)
    (folder / "expected.txt").write_text(f"{1:016x}\n")

    merged = vd.merge(folder, expected=folder / "expected.txt")

    assert (merged.ranks, merged.ok) == (4, True)


def test_pixels_with_gradients_have_the_same_identity(built: Built) -> None:
    processor = built["qwen3_vl"][1]
    inputs = dict(vd.tiny.batch("qwen3_vl", [1]))
    plain = vd.identities(vd.read_batch(inputs, processor=processor))
    inputs["pixel_values"] = inputs["pixel_values"].clone().requires_grad_()

    assert vd.identities(vd.read_batch(inputs, processor=processor)) == plain


def compressed(folder: Path) -> None:
    for rank in (1, 2):
        trace = folder / f"run.rank{rank}.jsonl"
        (folder / f"{trace.name}.gz").write_bytes(gzip.compress(trace.read_bytes()))
        trace.unlink()


def copied(folder: Path) -> None:
    (folder / "copy.rank1.jsonl").write_bytes((folder / "run.rank1.jsonl").read_bytes())


def gone(folder: Path) -> None:
    (folder / "run.rank1.jsonl").unlink()
    (folder / "run.rank2.jsonl").write_text("")


def with_identities_of_others(folder: Path) -> None:
    trace = folder / "run.rank1.jsonl"
    first, rest = trace.read_text().split("\n", 1)
    line = {**json.loads(first), "identities": ["no identity"]}
    trace.write_text(json.dumps(line) + "\n" + rest)


def without_media(folder: Path) -> None:
    trace = folder / "run.rank1.jsonl"
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    trace.write_text("".join(json.dumps({**one, "media": None}) + "\n" for one in lines))


def of_two_runs(folder: Path) -> None:
    line = json.loads((folder / "run.rank1.jsonl").read_text().splitlines()[0])
    later = {**line, "step": STEPS, "call": 0, "identities": ["f" * 16]}
    (folder / "later.rank1.jsonl").write_text(json.dumps(later) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (compressed, None),
        (copied, "run.rank1.jsonl: it is a copy of another trace (1 such file)"),
        (gone, "2 ranks: 1, 2 without a trace"),
        (with_identities_of_others, "the samples of 1 call, which could not be read"),
        (without_media, "the media of 12 calls, which do not show which sample owns them"),
        (of_two_runs, "runs apart: rank 1 in several traces. Use a folder for each run"),
    ],
)
def test_what_traces_lack_is_no_fault_and_is_said(
    change: Callable[[Path], None], said: str | None, tmp_path: Path
) -> None:
    folder = write(tmp_path / "traces", traces())
    change(folder)

    merged = vd.merge(folder)

    assert set(merged.faults) == ({"absent"} if change is of_two_runs else set())
    assert merged.not_compared[:-1] == (() if said is None else (said,))


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "traces", traces())
    for rank in (1, 2):
        trace = folder / f"run.rank{rank}.jsonl"
        (first, second, *rest) = trace.read_text().splitlines(keepends=True)
        trace.write_text("".join([first, second[:30] + "\n", *rest])[:-9])

    merged = vd.merge(folder)

    assert merged.calls == RANKS * STEPS * MICRO - 4
    assert merged.ok, str(merged)
    assert merged.not_compared[0] == (
        "4 lines that are cut off or damaged, in 2 traces; absent and uneven leave out rank 1 in "
        "step 0 to 1, rank 1 from step 5 on, rank 2 in step 0 to 1, rank 2 from step 5 on"
    )


def cut_at(folder: Path, rank: int, line: int) -> None:
    """The process of a rank is killed while it writes this line."""
    trace = folder / f"run.rank{rank}.jsonl"
    lines = trace.read_text().splitlines(keepends=True)
    trace.write_text("".join([*lines[:line], lines[line][:25]]))


def test_steps_after_a_line_that_is_cut_off_are_not_compared(tmp_path: Path) -> None:
    folder = write(tmp_path / "traces", traces())
    cut_at(folder, 1, 3 * MICRO)

    merged = vd.merge(folder)

    assert merged.ok, str(merged)
    assert merged.not_compared[0].endswith("absent and uneven leave out rank 1 from step 2 on")
    assert "<td>not written</td>" in to_page(merged) and "no call" not in to_page(merged)


def test_fault_of_another_rank_is_found_in_a_step_that_is_cut_off(tmp_path: Path) -> None:
    lines = traces()
    short_call(lines)
    no_call(lines)
    folder = write(tmp_path / "traces", lines)
    cut_at(folder, 1, 2 * MICRO + 1)

    merged = vd.merge(folder)

    assert merged.ask("uneven").rows == [(5, 3, 4, [3])]
    assert merged.ask("absent").rows == [(2, [0])]


def test_token_in_a_line_that_is_cut_off_is_not_called_lost(tmp_path: Path) -> None:
    lines = traces()
    lost_token(lines)
    four_parts(lines)
    folder = write(tmp_path / "traces", lines)
    assert vd.merge(folder).ok
    cut_at(folder, 3, 4 * MICRO)

    merged = vd.merge(folder)

    assert merged.ok, str(merged)
    assert merged.not_compared[1] == (
        "whether a token is on no rank, in 4 rows: not every context-parallel rank has a call with "
        "its tokens there"
    )


def four_parts(lines: Lines) -> None:
    """All ranks have a quarter of one row of 20 tokens."""
    for rank, own in lines.items():
        for line, first in zip(own, lines[0], strict=True):
            line["coordinates"] = {"dp": 0, "cp": rank}
            line["identities"] = list(first["identities"])
            row = {"text": f"{line['call']:016x}", "of": 20, "runs": [[5 * rank, 5, 1]]}
            line["tokens"] = [row]


@pytest.mark.parametrize(
    "runs",
    [
        [[0, 10**9, 1]],
        [[0, 10**9, 2]],
        [[0, 10**18, 10**18]],
        [[0, 10, 10**9]],
        [[0, 10, 0]],
        [[0, -10, 1]],
        [[0, 10]],
        [[10, 11, 1]],
        [[10**9 + at, 1, 1] for at in range(1_000)] + [[0, 2, 10**9], [0, 10**9, 3]],
    ],
    ids=lambda runs: str(runs)[:24],
)
def test_trace_that_claims_many_tokens_takes_no_more_time(runs: Any, tmp_path: Path) -> None:
    """A corrupt number is found, or is not compared; both in time."""
    lines = traces()
    context_peers(lines)
    at(lines, 1, 2)["tokens"][0]["runs"] = runs
    folder = write(tmp_path / "traces", lines)
    began = time.process_time()

    merged = vd.merge(folder)

    assert time.process_time() - began < 10
    found = {row[:4] for row in merged.ask("tokens").rows}
    named = [said for said in merged.not_compared if "context-parallel" in said]
    assert found <= {(2, 0, 0, 0)} and bool(found) != bool(named), str(merged)


def test_numbers_that_overflow_are_not_known(tmp_path: Path) -> None:
    lines = traces()
    at(lines, 1, 3)["media"] = [2**31 - 1, 1]
    at(lines, 2, 3)["media"] = [-1, 1]

    merged = vd.merge(write(tmp_path / "traces", lines))

    assert merged.ok, str(merged)
    assert merged.not_compared[0].startswith("the media of 2 calls, which do not show")


def drawn_runs(draw: Random) -> list[list[int]]:
    """Up to three runs of one rank."""
    return [
        [draw.randrange(13), draw.randrange(1, 10), draw.randrange(1, 5)]
        for _ in range(draw.randrange(4))
    ]


def test_shares_of_tokens_are_those_counted_one_by_one(tmp_path: Path) -> None:
    draw = Random(7)
    rows = [
        (draw.choice([None, draw.randrange(46, 49)]), drawn_runs(draw), drawn_runs(draw))
        for _ in range(2_000)
    ]
    lines = {0: traces()[0][:1], 1: traces()[1][:1]}
    for cp, own in lines.items():
        own[0].update(coordinates={"dp": 0, "cp": cp}, identities=["1" * 16, "2" * 16])
        own[0]["tokens"] = [{"text": None, "of": row[0], "runs": row[1 + cp]} for row in rows]

    merged = vd.merge(write(tmp_path / "traces", lines))

    expected = [
        (0, 0, 0, at, what, token, [0, 1])
        for at, (of, *runs) in enumerate(rows)
        for what, token in sorted(counted(of, [one for some in runs for one in some]).items())
    ]
    assert merged.ask("tokens").rows == expected
    assert len(expected) > 1_000


def counted(of: int | None, runs: list[list[int]]) -> dict[str, int]:
    """The first token that no rank has, and the first that several have."""
    held = Counter(
        token for first, many, by in runs for token in range(first, first + many * by, by)
    )
    whole = range(of) if of is not None else range(min(held), max(held)) if held else ()
    never = [token for token in whole if token not in held]
    twice = [token for token, times in held.items() if times > 1]
    found = {"on no rank": never, "on several": twice}
    return {what: min(tokens) for what, tokens in found.items() if tokens}


def two_ranks(folder: Path, *, steps: int) -> Path:
    """Traces of two ranks, compressed; the second one is returned."""
    for rank in range(2):
        lines = [
            {"rank": rank, "coordinates": {"dp": rank}, "step": step, "call": step, "media": [1]}
            | {"identities": [f"{1000 * rank + step:016x}"], "site": "run", "verdict": "OK"}
            for step in range(steps)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"run.rank{rank}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder / "run.rank1.jsonl.gz"


@pytest.mark.parametrize("kept", [0.3, 0.7, -4], ids=["early", "late", "behind the last line"])
def test_gzip_stream_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, kept: float) -> None:
    trace = two_ranks(tmp_path, steps=300)
    whole = trace.read_bytes()
    trace.write_bytes(whole[: int(kept) if kept < 0 else int(len(whole) * kept)])
    merged = vd.merge(tmp_path)
    of_second = merged.ask("select count(*), max(step) from calls where rank = 1").rows
    ((count, last),) = of_second

    assert (merged.ranks, merged.calls, merged.ok) == (2, 300 + count, True)
    assert (0 < count < 300) == (kept > 0)
    assert last == count - 1
    assert merged.not_compared[0] == (
        "1 line that is cut off or damaged, in 1 trace; absent and uneven leave out rank 1 from "
        f"step {last} on"
    )
    assert {file.suffix for file in tmp_path.iterdir()} == {".gz", ".parquet"}


def test_zeros_behind_a_gzip_stream_are_no_damage(tmp_path: Path) -> None:
    """As a file system leaves them behind a crash; gzip itself skips them, and DuckDB does not."""
    trace = two_ranks(tmp_path, steps=30)
    trace.write_bytes(trace.read_bytes() + b"\0" * 16)
    merged = vd.merge(tmp_path)

    assert (merged.ranks, merged.calls, merged.ok) == (2, 60, True)
    assert not any("damaged" in one for one in merged.not_compared)


def test_stream_that_duckdb_reads_further_than_gzip_has_at_least_one_damaged_line(
    tmp_path: Path,
) -> None:
    trace = two_ranks(tmp_path, steps=50)
    whole = trace.read_bytes()
    trace.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    said = vd.merge(tmp_path).not_compared[0]

    assert said == (
        "1 line that is cut off or damaged, in 1 trace; absent and uneven leave out rank 1 from "
        "step 0 on"
    )


@pytest.mark.parametrize("held", [b"", b"\x1f\x8b\x08", b"no gzip stream\n" * 9])
def test_trace_that_is_no_gzip_stream_is_named_and_the_others_are_merged(
    tmp_path: Path, held: bytes
) -> None:
    two_ranks(tmp_path, steps=3).write_bytes(held)
    merged = vd.merge(tmp_path)

    assert (merged.ranks, merged.calls, merged.ok) == (1, 3, True)
    assert not held or merged.not_compared[0] == "1 of 2 traces: no line in them names a rank"
