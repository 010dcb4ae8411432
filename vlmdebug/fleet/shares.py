"""Which tokens of a row context-parallel ranks share out: SQL on the table `calls`.

A run is a first token, their number and the step between them. The step that holds most tokens of a
row divides it into classes, and in its class a run is a range, however long it is: the time depends
on how many runs a trace has, not on how many tokens they claim.
"""

from __future__ import annotations

MOST_TOKENS = 1 << 31
"""Tokens of a text; a larger number in a trace is damaged, or no count of tokens."""
MOST_PIECES = 256
"""Ranges that a row is divided into, for each of its runs. Stripes over so many ranks need two."""
SOUND = f"""
    [{{'text': one."text", 'of': one."of", 'runs': case
        when len([run for run in one.runs if not coalesce(
                len(run) = 3 and run[1] between -{MOST_TOKENS} and {MOST_TOKENS}
                and run[2] between 1 and {MOST_TOKENS} and run[3] between 1 and {MOST_TOKENS}
                and (one."of" is null or (one."of" <= {MOST_TOKENS} and run[1] >= 0
                    and run[1] + (run[2]::hugeint - 1) * run[3] < one."of")), false)]) = 0
        then one.runs end}} for one in tokens]
"""
"""The tokens of a line. Runs that cannot be are null, like those that are not known."""
_ROW = "step, micro, grad, dp, tp, pp, row"
_GAPS = f"""
    with rows as (select step, micro, grad, dp, tp, pp, cp, rank, unnest(tokens) as one,
                    generate_subscripts(tokens, 1) - 1 as row
                  from calls where tokens is not null),
        known as (select {_ROW}, max(one."of") as tokens, list_sort(list(distinct rank)) as ranks
                  from rows group by {_ROW}
                  having min(cp) <> max(cp) and count(one.runs) = count(*)
                      and min(one."text") is not distinct from max(one."text")),
        taken as (select {_ROW}, unnest(one.runs) as run from rows semi join known using ({_ROW})),
        runs as (select {_ROW}, run[1] as first, run[2] as many, run[3] as stride from taken),
        classes as (select {_ROW}, (max({{'held': held, 'stride': stride}})).stride as classes
                    from (select {_ROW}, stride, sum(many) as held
                          from runs group by {_ROW}, stride)
                    group by {_ROW}),
        cut as (select *, if(classes % stride = 0, least(classes // stride, many), many) as parts
                from runs join classes using ({_ROW})),
        whole as (select {_ROW}, any_value(classes) as classes, min(first) as lowest,
                    max(first + (many - 1) * stride) + 1 as highest,
                    sum(parts) + any_value(classes) <= {MOST_PIECES} * count(*) as divided
                  from cut group by {_ROW}),
        peers as (select step, micro, grad, dp, tp, pp, count(distinct cp) as peers from calls
                  where tokens is not null group by all),
        due as (select * exclude (classes, divided), coalesce(classes, 1) as classes,
                  coalesce(divided, true) as divided,
                  if(tokens is null, coalesce(lowest, 0), 0) as begins,
                  coalesce(tokens, highest, 0) as ends,
                  peers = (select count(distinct cp) from calls) as complete
                from known left join whole using ({_ROW})
                    join peers using (step, micro, grad, dp, tp, pp)),
        parts as (select *, unnest(range(parts)) as part from cut
                  semi join (from due where divided) using ({_ROW})),
        single as (select {_ROW}, classes, first + part * stride as first,
                     if(classes % stride = 0, (many - part - 1) // (classes // stride) + 1, 1)
                         as many
                   from parts),
        placed as (select {_ROW}, ((first % classes) + classes) % classes as class, many,
                     (first - ((first % classes) + classes) % classes) // classes as first
                   from single),
        edges as (select {_ROW}, begins, ends, classes, unnest(range(classes)) as class
                  from due where divided),
        bounds as (select {_ROW}, class, ceil((begins - class) / classes)::bigint as begins,
                     ceil((ends - class) / classes)::bigint as ends from edges),
        pieces as (select {_ROW}, class, first, first + many as stop from placed
                   union all select {_ROW}, class, ends, ends from bounds),
        held as (select *, max(stop) over (partition by {_ROW}, class
                        order by first, stop rows between unbounded preceding and 1 preceding)
                    as before from pieces),
        gaps as (select held.*, due.complete, due.ranks, due.classes,
                   coalesce(before, bounds.begins) as due
                 from held join bounds using ({_ROW}, class) join due using ({_ROW}))
"""
TWICE_OR_NEVER = f"""
    {_GAPS}
    select step, micro, dp, row, if(first > due, 'on no rank', 'on several') as what,
        min(class + classes * least(first, due)) as token, ranks
    from gaps where first < due or (first > due and complete)
    group by {_ROW}, what, ranks order by step, micro, dp, row, what
"""
"""Tokens on several ranks, or on none although each peer has a call that says which it has."""
NOT_COMPARED = f"""
    {_GAPS}
    select (select count(*) from due where not divided),
        (select count(*) from (select distinct {_ROW} from gaps where first > due and not complete))
"""
"""Rows that take too many ranges, and those of which tokens can be in a call that is not there."""
