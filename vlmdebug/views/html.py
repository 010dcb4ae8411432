"""A report as HTML: real tables, no script, nothing that a notebook's sanitiser would take away.

Every status is a word and a glyph before it is a colour; text takes the theme's own colour, so
light and dark both read. All that comes from the report is escaped.
"""

from __future__ import annotations

from base64 import b64encode

from vlmdebug.mismatch import CODES, Finding, Mismatch
from vlmdebug.report import Report
from vlmdebug.views import rows
from vlmdebug.views.safe import escaped

MOST_CHUNKS = 64
MOST_DETAILS = 32
BLUE, VERMILLION = "#0072B2", "#D55E00"  # Okabe and Ito

FONT = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:14px;line-height:1.45"
MONO = "font-family:ui-monospace,'DejaVu Sans Mono',Menlo,monospace;font-size:13px"
LEFT = "text-align:left;font-weight:600"


def to_page(report: Report) -> str:
    """One self-contained page, for light and dark themes."""
    title = escaped(f"vlmdebug: {rows.headline(report)}", 200)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n"
        "<style>:root{color-scheme:light dark}"
        "body{margin:2rem auto;max-width:70rem;padding:0 1rem}</style>\n"
        f"</head>\n<body>\n<main>\n<h1 style='font:600 20px system-ui,sans-serif'>{title}</h1>\n"
        f"{to_html(report)}\n</main>\n</body>\n</html>\n"
    )


def to_html(report: Report) -> str:
    """A fragment for a notebook."""
    parts = [
        f'<div style="{FONT};max-width:70rem">',
        _head(report),
        *(_finding(finding) for finding in report.findings),
        *(_notice(text) for text in report.ambiguities),
        _table(report),
        _details(report),
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _mark(ok: bool, word: str) -> str:
    colour, glyph = (BLUE, "✓") if ok else (VERMILLION, "✗")
    return (
        f'<span style="background:{colour};color:#fff;border-radius:3px;padding:1px 7px;'
        f'white-space:nowrap">{glyph} {escaped(word)}</span>'
    )


def _head(report: Report) -> str:
    said = rows.headline(report).rpartition(":")[0]
    counts = "".join(f"<li>{escaped(line)}</li>" for line in rows.counted(report))
    items = f'<ul style="margin:4px 0 10px;padding-left:1.4em">{counts}</ul>' if counts else ""
    return (
        f"<p style='margin:0 0 4px'>{_mark(report.ok, report.verdict)} {escaped(said)}</p>{items}"
    )


def _finding(finding: Finding) -> str:
    lines = "<br>".join(escaped(line) for line in finding.message.splitlines())
    return (
        f'<div style="border-left:4px solid {VERMILLION};padding:2px 0 2px 10px;margin:0 0 10px">'
        f"<strong>{escaped(finding.code)} {escaped(finding.title)}</strong> "
        f"({escaped(finding.loudness)})<br>{lines}</div>"
    )


def _notice(text: str) -> str:
    return (
        f'<div style="border-left:4px double {VERMILLION};padding:2px 0 2px 10px;margin:0 0 10px">'
        f"<strong>? AMBIGUOUS</strong><br>{escaped(text)}</div>"
    )


def _table(report: Report) -> str:
    cells, right, left = rows.table(report, MOST_CHUNKS)
    if not cells:
        return ""
    heads = "".join(
        f'<th scope="col" style="{LEFT}">{escaped(head, 80)}</th>'
        for head in ("verdict", *rows.columns(report))
    )
    body = "\n".join(
        f'<tr><td>{_word(ok)}</td><th scope="row">{escaped(row[0])}</th>'
        + "".join(f"<td>{escaped(text, 120)}</td>" for text in row[1:])
        + "</tr>"
        for ok, row in zip(right, cells, strict=True)
    )
    more = f"<p>{escaped(rows.left_out(report, left))}</p>" if left else ""
    caption = (
        "Rows that each chunk used, and where they are wrong the rows planned"
        if report.chunk_size is not None
        else "Rows that each sample owns"
    )
    return (
        f'{_picture(report)}<div style="overflow-x:auto">'
        '<table border="1" rules="rows" frame="void" cellpadding="5" '
        'style="border-collapse:collapse;margin:0 0 8px;text-align:left">'
        f'<caption style="text-align:left;padding:6px 0;opacity:.8">{caption}</caption>\n'
        f'<thead><tr>{heads}</tr></thead>\n<tbody style="{MONO}">\n{body}\n</tbody>'
        f"</table></div>{more}"
    )


def _word(ok: bool) -> str:
    """The verdict of one chunk: glyph and word, then colour."""
    return "✓ ok" if ok else f'<b style="border-left:4px solid {VERMILLION}">&nbsp;✗ MISMATCH</b>'


def _details(report: Report) -> str:
    if not report.mismatches:
        return ""
    shown = report.mismatches[:MOST_DETAILS]
    items = "\n".join(_detail(mismatch) for mismatch in shown)
    left = len(report.mismatches) - len(shown)
    more = f"<li>… {left} more, all in report.mismatches</li>" if left else ""
    count = len(report.mismatches)
    return (
        f"<details><summary>{count} {'detail' if count == 1 else 'details'}</summary>"
        f'<ul style="padding-left:1.4em">\n{items}{more}</ul></details>'
    )


def _detail(mismatch: Mismatch) -> str:
    where = f"chunk {mismatch.chunk}, " if mismatch.chunk is not None else ""
    title = CODES.get(mismatch.code, "")
    first = escaped(mismatch.message.partition("\n")[0], 240)
    return (
        f'<li title="{escaped(title)}">{escaped(where)}{escaped(mismatch.code)} '
        f"({escaped(mismatch.loudness)}): {first}</li>"
    )


def _picture(report: Report) -> str:
    """The rows of the first wrong key: outlined where planned, filled where used."""
    drawing = svg(report)
    if drawing is None:
        return ""
    data = b64encode(drawing[0].encode()).decode("ascii")
    return (
        f'<p style="margin:0"><img alt="{escaped(drawing[1], 4000)}" '
        f'style="max-width:100%;background:#fff;border-radius:4px" '
        f'src="data:image/svg+xml;base64,{data}"></p>'
    )


def svg(report: Report) -> tuple[str, str] | None:
    """A strip per chunk and the same in words; None where no rows are wrong."""
    key = next((m.key for m in report.mismatches if m.key and m.planned is not None), None)
    if key is None or report.chunk_size is None:
        return None
    chunks, _ = rows.drawn(report, 24)
    chunks = [(i, c) for i, c in chunks if key in c.keys]
    ranges = [
        pair
        for _, chunk in chunks
        for found in (chunk.keys[key].planned, chunk.keys[key].used)
        for pair in (found.ranges if found else ())
    ]
    total = max((stop for _, stop in ranges), default=0)
    if not total:
        return None
    left, width, step = 84, 640, 22
    scale = (width - left - 10) / total
    parts = [
        f'<text x="4" y="15" font-weight="600">rows of {escaped(key, 60)}: '
        "outline planned, fill used</text>"
    ]
    said = []
    for line, (index, chunk) in enumerate(chunks):
        y, found = 24 + line * step, chunk.keys[key]
        parts.append(f'<text x="4" y="{y + 13}">chunk {index} {"✓" if found.ok else "✗"}</text>')
        for start, stop in found.used.ranges if found.used else ():
            if start >= 0:
                fill = BLUE if found.ok else "url(#h)"
                parts.append(
                    _bar(left + start * scale, y + 3, (stop - start) * scale, 10, fill, "")
                )
        for start, stop in found.planned.ranges if found.planned else ():
            parts.append(_bar(left + start * scale, y, (stop - start) * scale, 16, "none", "#222"))
        said.append(f"chunk {index}: {rows.cell(chunk, key)}")
    height = 30 + len(chunks) * step
    hatch = (
        '<defs><pattern id="h" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="5" height="5" fill="{VERMILLION}"/>'
        '<path d="M0 0V5" stroke="#fff" stroke-width="2"/></pattern></defs>'
    )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">'
        f"{hatch}{''.join(parts)}</svg>"
    )
    return drawing, f"Rows of {key}, used and planned. {'; '.join(said)}"


def _bar(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    line = f' stroke="{stroke}" stroke-width="1.5"' if stroke else ""
    place = f'x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" height="{height}"'
    return f'<rect {place} fill="{fill}"{line}/>'
