"""What is wrong between ranks, although each rank is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.core.wording import many
from vlmdebug.fleet import sql
from vlmdebug.fleet.damage import Lost, lines_in, lost_in
from vlmdebug.fleet.shares import NOT_COMPARED, TWICE_OR_NEVER
from vlmdebug.fleet.sql import Answer
from vlmdebug.fleet.traces import copies_in, expected_of, files_of, lost_of, tables_of
from vlmdebug.safe import one_line

FAULTS = {
    "twice": (
        "A sample is on several data-parallel ranks in one step. Is it there on purpose?",
        """
        select step, printf('%016x', sample) as sample, list_sort(list(distinct rank)) as ranks
        from again join (select step, grad, sample from again group by step, grad, sample
                         having min(dp) <> max(dp)) using (step, grad, sample)
        group by step, grad, sample order by step, sample
        """,
    ),
    "peers": (
        "Peers of one data-parallel rank (tensor, pipeline or context) have different samples.",
        """
        with rows as (select step, micro, grad, dp, tp, pp, rank, unnest(tokens)."text" as own,
                        generate_subscripts(tokens, 1) as row
                      from calls where tokens is not null),
            others as (select step, micro, dp, list_sort(list(distinct rank)) as ranks
                       from (select * from rows where own is not null)
                       group by step, micro, grad, dp, tp, pp, row
                       having min(own) <> max(own)),
            peers as (select dp, cp from calls group by dp, cp having min(rank) <> max(rank)),
            unlike as (select step, micro, dp, cp from calls semi join peers using (dp, cp)
                        where samples is not null group by step, micro, dp, cp
                        having min(hash(samples)) <> max(hash(samples))
                            or count(*) > count(distinct rank))
        select step, micro, dp, list_sort(list(rank)) as ranks
        from (select step, micro, dp, cp, rank, list(samples order by call) as samples
              from calls join unlike using (step, micro, dp, cp)
              where samples is not null group by step, micro, dp, cp, rank)
        group by step, micro, dp, cp having count(distinct samples) > 1
        union select * from others order by step, micro, dp, ranks
        """,
    ),
    "tokens": (
        "A token of a row is on several context-parallel ranks, or on none. Where rows are copies, "
        "positions alone say which tokens they are: does a row hold several samples?",
        TWICE_OR_NEVER,
    ),
    "without_media": (
        "Some ranks have media and others none, in one step: a vision tower that synchronises "
        "hangs there.",
        """
        select step, micro, list_sort(list(rank) filter (items = 0)) as ranks_without,
            count(*) filter (items > 0) as ranks_with
        from (select step, micro, rank, sum(media_count) as items from calls
              join (select step, micro from calls group by step, micro
                    having min(media_count) = 0 and max(media_count) > 0) using (step, micro)
              where media_count is not null group by step, micro, rank)
        group by step, micro having min(items) = 0 and max(items) > 0 order by step, micro
        """,
    ),
    "uneven": (
        "Ranks have different numbers of samples in one step. Do they batch by tokens, or pack?",
        """
        select step, min(samples) as fewest, max(samples) as most,
            list_sort(list(rank) filter (samples < usual)) as ranks_with_fewer
        from (select *, max(samples) over (partition by step, grad) as usual
              from (select step, grad, rank, sum(sample_count) as samples
                    from calls anti join lost on calls.rank = lost.rank
                        and step between first and last
                    group by step, grad, rank having count(sample_count) = count(*)))
        group by step, grad having min(samples) <> max(samples) order by step
        """,
    ),
    "absent": (
        "A rank makes no call in a step in which others do. Has it another part of the model?",
        """
        select step, list_sort(list(rank)) as ranks
        from ((select step, rank from (select distinct step from calls),
                                      (select distinct rank from calls))
              except (select step, rank from calls)) as lacking
            anti join lost on lacking.rank = lost.rank and step between first and last
        group by step order by step
        """,
    ),
    "unseen": (
        "A sample that was expected is in no call that could be read.",
        """
        select printf('%016x', sample) as sample
        from (select sample from expected except select unnest(samples) from calls)
        order by sample
        """,
    ),
    "repeated": (
        "A rank gets a sample again before it has seen half of its samples, as from workers that "
        "all read the whole data. Or is a batch used several times on purpose?",
        """
        with held as (select *, row_number() over (partition by rank, grad, sample order by place)
                        as time from again),
            later as (select *, row_number() over (partition by rank, grad order by place) as later
                      from held where time > 1),
            half as (select rank, grad, (samples - later + 1) // 2 as seen
                     from (select rank, grad, sum(sample_count) as samples from calls
                           group by rank, grad)
                     join (select rank, grad, count(*) as later from later group by rank, grad)
                     using (rank, grad)),
            early as (select rank, grad, sample from later join half using (rank, grad)
                      where time = 2 and place - later < seen)
        select rank, printf('%016x', sample) as sample, list(step order by place) as steps
        from again join early using (rank, grad, sample)
        group by rank, grad, sample order by rank, steps, sample
        """,
    ),
    "wrong": (
        "A call is wrong in itself; its line says how.",
        "select step, micro, rank, call, site from calls where verdict = 'MISMATCH' "
        "order by step, micro, rank, call",
    ),
}
"""Name of each kind of fault: what it means, and the query that finds it in the tables. A query
that compares samples reads `again`, which is small: those that come once are not in it."""


QUERIES = {name: query for name, (_, query) in FAULTS.items()}
SHOWN = 5
"""Lines of an answer that a summary shows."""
_WHOLE = """
    select count(distinct rank), count(*), count(distinct step),
        count(*) filter (samples is null and tokens is null),
        count(*) filter (samples is not null and media_count is null),
        count(*) filter (dp in (select dp from calls group by dp having min(cp) <> max(cp))
            and (tokens is null or len([one for one in tokens if one.runs is null]) > 0)),
        count(*) filter (samples is null and tokens is not null)
    from calls
"""


@dataclass(frozen=True)
class Merged:
    """The traces of all ranks as one table.

    Attributes:
        tables: Its Parquet files, by the names that they have in queries: `calls`, `again` with the
            samples that come several times, `lost` with the steps to which damaged lines can
            belong, and `expected` if that was given.
        ranks: Ranks that wrote a trace.
        calls: Calls of all ranks.
        steps: Training steps.
        faults: How often each kind of fault was found, and the first lines of the answer.
        not_compared: What could not be compared, and why.
    """

    tables: dict[str, Path]
    ranks: int
    calls: int
    steps: int
    faults: dict[str, tuple[int, Answer]]
    not_compared: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def title(self) -> str:
        """How many ranks, steps and calls there are."""
        counts = {"rank": self.ranks, "step": self.steps, "call": self.calls}
        return ", ".join(many(count, noun) for noun, count in counts.items())

    def ask(self, question: str) -> Answer:
        """The answer to the name of a kind of fault, or to a query on the table `calls`."""
        return sql.ask(self.tables, question, QUERIES)

    def __str__(self) -> str:
        lines = [self.title]
        for name, (times, answer) in self.faults.items():
            lines += ["", f"{name}: {many(times, 'time')}. {FAULTS[name][0]}"]
            lines += [f"  {line}" for line in str(answer).splitlines()]
        lines += [f"not compared: {one_line(text, 200)}" for text in self.not_compared]
        return "\n".join(lines if self.faults else [*lines, "no fault between ranks was found"])


@public
def merge(traces: str | Path, *, expected: str | Path | None = None) -> Merged:
    """Say what is wrong between ranks, although the calls of each rank are right.

    `calls.parquet`, `again.parquet` and `lost.parquet` are written in the folder of the traces;
    `docs/ranks.md` lists their columns.

    Args:
        traces: The folder with the traces of all ranks, as `watch(model, log=...)` writes them.
        expected: A file with the identities of all samples that the ranks should have seen, one
            in each line, as `vlmdebug.identities` gives them.

    Raises:
        BadInput: A path is not there, the folder has no trace, `expected` holds something else,
            or DuckDB is not installed.
    """
    folder = Path(traces)
    files = files_of(folder)
    tables = tables_of(folder)
    if expected is not None:
        tables["expected"] = expected_of(Path(expected), folder)
    read = {name: found for name, *found in sql.ask(tables, _OF_FILES, QUERIES).rows}
    damaged = _damaged(files, read)
    tables["lost"] = lost_of([one for _, lost in damaged for one in lost], folder)
    (found,) = sql.ask(tables, _WHOLE, QUERIES).rows
    ranks, calls, steps, unread, unknown, shards, copies = found
    faults = {}
    for name in FAULTS:
        if name == "unseen" and expected is None:
            continue
        answer = sql.ask(tables, name, QUERIES)
        if answer.rows:
            faults[name] = (len(answer.rows), Answer(answer.columns, answer.rows[:SHOWN]))
    left = [*_files_left(files, read), *_lines_left(damaged), *_ranks_left(read)]
    left += _shares_left(tables)
    if shards:
        left.append(
            f"the tokens of context-parallel peers in {many(shards, 'call')}, which do not say "
            "which they are: watch(shards=...) reads slices of the batch, or position_ids that grow"
        )
    if copies:
        left.append(
            f"the samples of {many(copies, 'call')}, which have copies of some of their tokens"
        )
    if unread:
        left.append(f"the samples of {many(unread, 'call')}, which could not be read")
    if unknown:
        left.append(
            f"the media of {many(unknown, 'call')}, which do not show which sample owns them"
        )
    if expected is None:
        left.append("samples that no rank saw: pass the identities that were expected")
    return Merged(tables, ranks, calls, steps, faults, tuple(left))


_OF_FILES = "select file, count(*), list_sort(list(distinct rank)) from calls group by file"
MOST_RANKS = 1_000_000
"""A rank above is no number of a process, and those that have no trace are not listed."""
Read = Mapping[str, Sequence[Any]]
"""Of each trace by its name: how many calls were read, and the ranks that they name."""
Damaged = Sequence[tuple[int, list[Lost]]]
"""Of each damaged trace: how many lines are, and the steps that they can belong to."""


def _damaged(files: Sequence[Path], read: Read) -> Damaged:
    found = []
    for file in files:
        calls, ranks = read.get(file.name, (None, ()))
        if calls is not None and (lines := lines_in(file) - calls):
            known = max(lines, 1)  # DuckDB reads some damaged streams further than gzip does
            found.append((known, lost_in(file, ranks, lines)))
    return found


def _files_left(files: Sequence[Path], read: Read) -> Iterator[str]:
    copies = copies_in(files)
    written = [file for file in files if file.stat().st_size and file not in copies]
    if len(written) > len(read):
        said = f"{len(written) - len(read)} of {many(len(written), 'trace')}"
        yield f"{said}: no line in them names a rank"
    if copies:
        files_like = many(len(copies), "such file")
        yield f"{copies[0].name}: it is a copy of another trace ({files_like})"


def _lines_left(damaged: Damaged) -> Iterator[str]:
    """Lines that are lost, and where the comparisons that need each line leave a rank out."""
    lines = sum(found for found, _ in damaged)
    lost = [one for _, some in damaged for one in some]
    if lines:
        more = ", …" if len(lost) > SHOWN else ""
        are = "is" if lines == 1 else "are"
        yield (
            f"{many(lines, 'line')} that {are} cut off or damaged, in "
            f"{many(len(damaged), 'trace')}; absent and uneven leave out "
            f"{', '.join(map(str, lost[:SHOWN]))}{more}"
        )


def _ranks_left(read: Read) -> Iterator[str]:
    held = [rank for _, ranks in read.values() for rank in ranks]
    times = Counter(held)
    if several := sorted(rank for rank in times if times[rank] > 1):
        yield f"runs apart: {_ranks(several)} in several traces. Use a folder for each run"
    if lacking := sorted({*range(min(max(held), MOST_RANKS))} - {*held}):
        yield f"{_ranks(lacking)} without a trace"


def _shares_left(tables: dict[str, Path]) -> Iterator[str]:
    """Rows of context-parallel ranks of which not all could be compared."""
    if not sql.ask(tables, "select 1 from calls where tokens is not null limit 1", QUERIES).rows:
        return
    ((wide, lacking),) = sql.ask(tables, NOT_COMPARED, QUERIES).rows
    if wide:
        yield (
            f"the tokens of {many(wide, 'row')} of context-parallel ranks: their runs have too "
            "many different or too large steps"
        )
    if lacking:
        yield (
            f"whether a token is on no rank, in {many(lacking, 'row')}: not every "
            "context-parallel rank has a call with its tokens there"
        )


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:SHOWN])) + (", …" if len(ranks) > SHOWN else "")
    return f"{'rank' if len(ranks) == 1 else f'{len(ranks):,} ranks:'} {shown}"
