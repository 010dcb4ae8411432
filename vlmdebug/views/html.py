"""A report as HTML: real tables, no script, nothing that a notebook's sanitiser would take away.

What happened comes first, in a sentence; then the images, the slices that fix it, the picture of
the batch and the table; what was counted and compared comes last.

Every status is a word and a glyph before it is a colour; text takes the theme's own colour, so
light and dark both read. All that comes from the report is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence

from vlmdebug.core.code_pages import meaning
from vlmdebug.core.mismatch import CODES, UNCHECKED, Finding, Mismatch
from vlmdebug.core.record import Record, Verdict
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.safe import escaped, one_line
from vlmdebug.views import packed, picture, rows
from vlmdebug.views.page import page
from vlmdebug.views.sentences import named, opening_sentence, sentence, slices
from vlmdebug.views.strips import BLUE, VERMILION, rows_in, strip

MOST_CHUNKS = 24
MOST_PICTURES = 64
MOST_DETAILS = 64
MOST_PARAGRAPHS = 16

GREY = "rgba(128,128,128,.35)"
NBSP = "\N{NO-BREAK SPACE}"
SAID = ' style="text-align:left;white-space:nowrap;padding:.3em 0 .3em .4em"'
CODE = (
    "margin:.5em 0;padding:.4em .7em;border:0;border-radius:4px;white-space:pre-wrap;"
    "background:rgba(128,128,128,.12);color:inherit;font-size:.95em;line-height:1.5"
)
PAD = ' style="padding:.3em .4em"'
LEFT = ' style="text-align:left;padding:.3em .4em"'


def to_page(report: Record) -> str:
    """One self-contained page, for light and dark themes."""
    title = one_line(rows.headline(report), 200)
    heading = f"<h1>{_opening(report)}</h1>"
    return page(title, [heading, _body(report, linked=True), _codes(report)])


def to_html(report: Record) -> str:
    """A fragment for a notebook."""
    style = "margin:0 0 .4em;font-size:1.25em;line-height:1.35;font-weight:600"
    return f'<p style="{style}">{_opening(report)}</p>\n{_body(report)}'


def _opening(report: Record) -> str:
    return escaped(one_line(opening_sentence(report), 600))


def _body(report: Record, *, linked: bool = False) -> str:
    findings = report.findings
    parts = [
        '<div style="line-height:1.5;max-width:68rem">',
        _head(report),
        *(_finding(report, one, linked, one is findings[0]) for one in findings[:MOST_PARAGRAPHS]),
        _left(len(findings), "findings"),
        *(_ambiguity(text) for text in report.ambiguities[:MOST_PARAGRAPHS]),
        _left(len(report.ambiguities), "ambiguities"),
        _picture(report),
        _packed(report),
        _table(report),
        _counts(report),
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _codes(report: Record) -> str:
    """What each code of the page means; the findings link here."""
    codes = dict.fromkeys(f.code for f in report.findings if f.code in CODES)
    items = "".join(
        f'<dt id="{code}">{code}</dt><dd>{escaped(meaning(code))} '
        f"More: <code>vlmdebug explain {code}</code></dd>"
        for code in codes
    )
    return f"<h2>Codes</h2>\n<dl>{items}</dl>" if items else ""


def _head(report: Record) -> str:
    said = escaped(one_line(rows.subject(report)))
    return f'<p style="margin:0 0 1em">{_badge(report.verdict)}&ensp;{said}</p>'


def _counts(report: Record) -> str:
    """What was counted, and what was compared with what."""
    items = "".join(f"<li>{escaped(one_line(line))}</li>" for line in rows.count_lines(report))
    style = "margin:1em 0 0;padding-left:1.4em;font-size:.9em;opacity:.85"
    return f'<ul style="{style}">{items}</ul>' if items else ""


def _badge(verdict: Verdict) -> str:
    glyph, line = {
        Verdict.OK: ("✓", f"{BLUE};background:rgba(0,114,178,.16)"),
        Verdict.MISMATCH: ("✗", f"{VERMILION};background:rgba(213,94,0,.16)"),
    }.get(verdict, ("?", f"{GREY};background:rgba(128,128,128,.16)"))
    return (
        f'<strong style="border-left:5px solid {line};padding:.2em .6em;white-space:nowrap">'
        f"{glyph} {verdict}</strong>"
    )


def _finding(report: Record, finding: Finding, linked: bool, told: bool) -> str:
    """A root cause: its sentence unless it is `told`, images, slices, and the message."""
    code = escaped(finding.code)
    if linked and finding.code in CODES:
        code = f'<a href="#{code}">{code}</a>'
    said = "" if told else f"<strong>{_sentence(report, finding)}</strong>"
    kind = f"✗ <strong>{code}</strong> {escaped(rows.title(finding))} · {escaped(finding.loudness)}"
    words = f'<div style="margin:.3em 0 0">{kind}<br>{_broken(finding.message)}</div>'
    parts = said, _pair(report, finding.worst), _slices(report, finding), words, _details(finding)
    return _note(VERMILION, "".join(parts))


def _sentence(report: Record, finding: Finding) -> str:
    return escaped(one_line(sentence(report, finding.worst), 600))


def _slices(report: Record, finding: Finding) -> str:
    """What was passed and what belongs there, as a diff."""
    lines = slices(report, finding)
    said = "\n".join(escaped(one_line(f"{sign} {text}", 200)) for sign, text in lines)
    return f'<pre style="{CODE}"><code>{said}</code></pre>' if said else ""


def _pair(report: Record, mismatch: Mismatch) -> str:
    """The images that the samples should see, next to those that they got."""
    scene, key = report.scene, mismatch.key
    if scene is None or key is None or not scene.thumbnails:
        return ""
    if not mismatch.actual and rows.kind(report, key) == "tokens":
        return ""  # a dropped mask says nothing of the images that were passed
    sides = [scene.images_in(key, rows) for rows in (mismatch.expected, mismatch.actual)]
    if not any(image in scene.thumbnails for side in sides for image in side):
        return ""
    heads = (f"{named(mismatch.samples)} should see", "was passed")
    head = "".join(f'<th scope="col"{LEFT}>{text}</th>' for text in heads)
    rows_of = (mismatch.expected, mismatch.actual)
    cells = "".join(
        f"<td{LEFT}>{_images(scene, key, images, given)}</td>"
        for images, given in zip(sides, rows_of, strict=True)
    )
    return (
        '<table style="table-layout:auto;border-collapse:collapse;margin:.4em 0">'
        f"<thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
    )


def _images(scene: Scene, key: str, images: list[int], given: Rows | None) -> str:
    shown = [image for image in images if image in scene.thumbnails]
    left = len(images) - len(shown)
    drawn = "".join(_thumbnail(scene, key, image, given) for image in shown)
    names = ", ".join(scene.share(key, image, given) for image in shown)
    more = f" and {left} more" if left and shown else ""
    return f"{drawn}<br>{names}{more}" if drawn else "no image" if not images else "not restored"


def _thumbnail(scene: Scene, key: str, image: int, given: Rows | None) -> str:
    """The part of the image that was passed; the rest, or all where no part is known, faded."""
    whole = scene.share(key, image, given) == scene.name(image)
    uri = scene.thumbnails[image] if whole else scene.parts.get(scene.part(key, image, given))
    faded = "" if uri else ";opacity:.25"
    return (
        f'<img alt="{scene.share(key, image, given)}" '
        f'src="{escaped(uri or scene.thumbnails[image], 100_000)}" '
        f'style="margin:0 .4em .2em 0;vertical-align:middle{faded}">'
    )


def _picture(report: Record) -> str:
    """The worst chunk's cut through the batch."""
    drawn = picture.lanes(report)
    if not drawn or not report.chunks:
        return ""
    worst = rows.opening(report)
    said, noun = picture.description(report, worst), rows.plural_of(report, 1)
    caption = f"{noun.capitalize()} {worst}. {picture.legend(report, worst)}"
    labels = [(lane.name, lane.counts, picture.PITCH) for lane in drawn]
    return _lanes(picture.svg(report, worst), labels, caption, said)


def _packed(report: Record) -> str:
    """The packed rows of the worst chunk."""
    worst = rows.opening(report) if report.packed and report.chunks else 0
    drawn = packed.lanes(report, worst)
    if not drawn:
        return ""
    said, legend = (make(report, worst, drawn) for make in (packed.description, packed.legend))
    labels = [(lane.name, lane.counts, lane.height) for lane in drawn]
    title = packed.title(report, worst, drawn)
    return _lanes(packed.svg(drawn), labels, f"{title}. {legend}", said)


def _lanes(svg: str, labels: Sequence[tuple[str, str, int]], caption: str, said: str) -> str:
    """A picture with the name, count and height of each of its lanes on the left."""
    data = b64encode(svg.encode("ascii")).decode("ascii")
    heads = "".join(
        f'<div style="height:{tall}px;padding-top:{tall // 2 - 18}px;'
        "box-sizing:border-box;white-space:nowrap;line-height:18px;overflow:hidden;font-size:.9em;"
        'text-overflow:ellipsis;max-width:10rem">'
        f"{escaped(one_line(name, 40))}<br>{escaped(one_line(counts, 60))}</div>"
        for name, counts, tall in labels
    )
    return (
        '<table style="table-layout:auto;border-collapse:collapse;width:100%;margin:0 0 1em">\n'
        f'<caption style="text-align:left;padding:.3em 0">{escaped(caption, 500)}</caption>\n'
        f'<tbody><tr><th scope="row" style="text-align:left;font-weight:400;padding:0 .6em 0 0;'
        f'width:1%;vertical-align:top">{heads}</th><td style="padding:0">'
        f'<img alt="{escaped(one_line(said, 400))}" src="data:image/svg+xml;base64,{data}" '
        f'style="width:100%;min-width:6rem;height:{sum(tall for *_, tall in labels)}px"></td></tr>'
        "</tbody></table>"
    )


def _ambiguity(text: str) -> str:
    return _note(GREY, f"? <strong>{UNCHECKED} AMBIGUOUS</strong><br>{_broken(text)}")


def _note(colour: str, body: str) -> str:
    style = f"border-left:3px solid {colour};padding:.1em 0 .1em .9em;margin:0 0 1em"
    return f'<div style="{style}">{body}</div>'


def _broken(text: str) -> str:
    return escaped(text).replace("\n", "<br>")


def _left(count: int, noun: str) -> str:
    left = count - MOST_PARAGRAPHS
    return f"<p>… {left} more in report.{noun}</p>" if left > 0 else ""


def _details(finding: Finding) -> str:
    """All mismatches of a finding, folded; nothing where the finding itself says all."""
    told = _once(finding.mismatches)
    if len(told) < 2:
        return ""
    items = "".join(f"<li>{_detail(m, others)}</li>" for m, others in told[:MOST_DETAILS])
    left = len(told) - MOST_DETAILS
    more = f"<li>… {left} more in report.mismatches</li>" if left > 0 else ""
    summary = f"all {len(finding.mismatches)} mismatches"
    return (
        f'<details style="margin-top:.3em"><summary>{summary}</summary>'
        f'<ul style="margin:.3em 0;padding-left:1.4em">{items}{more}</ul></details>'
    )


def _once(mismatches: Iterable[Mismatch]) -> list[tuple[Mismatch, list[str]]]:
    """Mismatches with the other keys of the same chunk that have the very same rows."""
    told: dict[tuple[object, ...], tuple[Mismatch, list[str]]] = {}
    for m in mismatches:
        alone = m.expected is None and m.actual is None
        same = (m.chunk, m.code, m.expected, m.actual, m.silent, m.message if alone else "")
        if same not in told:
            told[same] = m, []
        elif m.key is not None:
            told[same][1].append(m.key)
    return list(told.values())


def _detail(mismatch: Mismatch, others: list[str]) -> str:
    where = f"chunk {mismatch.chunk}, " if mismatch.chunk is not None else ""
    also = f" The same with {', '.join(others)}." if others else ""
    first = mismatch.message.partition("\n")[0]
    return escaped(one_line(f"{where}{mismatch.loudness}: {first}{also}", 400))


def _table(report: Record) -> str:
    lines, left = rows.visible_chunks(report, MOST_CHUNKS)
    if not lines:
        return ""
    groups = rows.column_groups(report)
    keys = [group[0] for group in groups[: rows.MOST_KEYS]]
    room = MOST_PICTURES // 2 if report.scene is not None else MOST_PICTURES
    pictured = keys[: room // len(lines)]
    totals = {key: rows_in(report, key) for key in pictured}
    body = "\n".join(_row(report, line, keys, totals) for line in lines)
    return (
        '<div style="overflow-x:auto" tabindex="0" role="region" aria-label="rows">'
        '<table style="table-layout:auto;border-collapse:collapse;text-align:right;'
        'font-variant-numeric:tabular-nums;margin:0 0 .5em">\n'
        f'<caption style="text-align:left;padding:.3em 0;opacity:.8">{_caption(report)}</caption>\n'
        f"<thead><tr>{_heads(report, groups)}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        f"{_after(report, left, len(groups) - len(keys))}"
    )


def _caption(report: Record) -> str:
    if report.chunk_size is None:
        return "Rows that each sample owns"
    return "Rows that each chunk was passed"


def _heads(report: Record, groups: list[tuple[str, ...]]) -> str:
    first, *heads = rows.fact_heads(report)
    facts = "".join(f'<th scope="col"{PAD}>{head}</th>' for head in heads)
    keys = "".join(
        f'<th scope="col" colspan="2"{LEFT}>{"<br>".join(names)}</th>'
        for group in groups[: rows.MOST_KEYS]
        if (names := [escaped(one_line(key, 80)) for key in group[:8]])
    )
    return f'<th scope="col"{PAD}>{first}</th><th scope="col"{LEFT}>verdict</th>{keys}{facts}'


def _row(report: Record, line: rows.Line, keys: list[str], totals: dict[str, int]) -> str:
    number, *facts = rows.facts(report, line)
    cells = ""
    for key in keys:
        found = rows.state(line.chunk, key)
        picture = strip(found, key, totals[key]) if key in totals else ""
        said = escaped(one_line(rows.cell(found), 80))
        cells += f"<td{SAID}>{said}</td><td{LEFT}>{picture}</td>"
    cells += "".join(f"<td{PAD}>{escaped(fact, 80)}</td>" for fact in facts)
    return (
        f'<tr style="border-top:1px solid {GREY}"><th scope="row"{PAD}>{escaped(number)}</th>'
        f"{_verdict(line)}{cells}</tr>"
    )


def _verdict(line: rows.Line) -> str:
    """The verdict of one chunk: glyph and word, then colour."""
    if line.ok:
        return f"<td{LEFT}>✓ ok</td>"
    glyph, colour = ("✗", VERMILION) if line.verdict is Verdict.MISMATCH else ("?", GREY)
    words = f"{glyph} {line.short}".replace(" ", NBSP)
    look = f"text-align:left;padding:.3em .4em;border-left:5px solid {colour}"
    return f'<td style="{look}">{words}</td>'


def _after(report: Record, left: list[rows.Line], hidden: int) -> str:
    bare = report.scene is None and report.mismatches and report.chunk_size is not None
    said = [
        rows.omitted_note(report, left),
        "No pictures: check(..., pictures=True) adds them." if bare else "",
        f"… {hidden} more keys in report.chunks" if hidden > 0 else "",
        rows.right(report),
    ]
    return "".join(
        f'<p style="margin:.2em 0">{escaped(one_line(text))}</p>' for text in said if text
    )
