"""A review for other programs: SARIF 2.1.0, GitLab's code quality, GitHub's workflow commands.

Only findings are results. Code that was not judged, and remarks that depend on a condition, are
notifications in SARIF; the other two formats have no place for them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlmdebug.core.code_pages import page
from vlmdebug.core.mismatch import CODES
from vlmdebug.review.files import from_here
from vlmdebug.review.fingerprints import fingerprints
from vlmdebug.review.remarks import Remark
from vlmdebug.safe import plain

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LONGEST = 10_000
"""Characters of a message."""
_PAGE = re.compile(r"\[([^]]*)\]\(\.\./(\w+)\.md(#[\w-]+)?\)")
"""A link to a page of the documentation, in the page of a code."""


def to_sarif(
    findings: Sequence[Remark], unsure: Sequence[Remark], not_judged: Sequence[str]
) -> str:
    """SARIF 2.1.0: https://docs.oasis-open.org/sarif/sarif/v2.1.0/."""
    notes = [_notification(line) for line in not_judged]
    notes += [
        {"level": "note", "message": {"text": _message(one)}, "locations": [_location(one)]}
        for one in unsure
    ]
    driver: dict[str, Any] = {
        "name": "vlmdebug",
        "version": str(sys.modules["vlmdebug"].__version__),
        "rules": [_rule(code) for code in CODES],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "results": [
            _result(one, mark) for one, mark in zip(findings, fingerprints(findings), strict=True)
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def to_gitlab(findings: Sequence[Remark]) -> str:
    """A code quality report: https://docs.gitlab.com/ci/testing/code_quality/."""
    rows = [
        {
            "description": f"{one.text}: {_message(one)}",
            "check_name": one.code,
            "fingerprint": mark,
            "severity": "major",
            "location": {
                "path": from_here(Path(one.file)),
                "lines": {"begin": one.line if one.cell is None else 1},
            },
        }
        for one, mark in zip(findings, fingerprints(findings), strict=True)
    ]
    return json.dumps(rows, indent=1)


def to_github(findings: Sequence[Remark]) -> str:
    """Workflow commands, which GitHub shows as notes on the lines of a pull request."""
    return "\n".join(
        f"::error file={_escaped(plain(one.file), ':,')},{_github_place(one)}"
        f"title={one.code}::{_escaped(_message(one))}"
        for one in findings
    )


def _github_place(one: Remark) -> str:
    """Lines of a notebook's file are not those of its cells, so a note on it has none."""
    if one.cell is not None:
        return ""
    return f"line={one.line},endLine={one.line},col={one.column},endColumn={one.end},"


def _escaped(text: str, more: str = "") -> str:
    """Escaped for workflow commands: https://github.com/actions/toolkit, `core`."""
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text


def _message(one: Remark) -> str:
    cell = "" if one.cell is None else f"Cell {one.cell}, line {one.line}: "
    return cell + plain(one.message, LONGEST)


def _rule(code: str) -> dict[str, Any]:
    """A rule with the page of its code: GitHub shows it next to the finding."""
    path, site = page(code), _site()
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else CODES[code]
    text = _PAGE.sub(r"\1" if site is None else rf"[\1]({site}/\2.html\3)", text)
    plain_text = text.replace("**What.** ", "")
    paragraphs = [part.replace("\n", " ") for part in plain_text.split("\n\n") if part[0] != "#"]
    rule = {
        "id": code,
        "shortDescription": {"text": CODES[code]},
        "fullDescription": {"text": paragraphs[0] if paragraphs else CODES[code]},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": "error"},
    }
    return rule if site is None else {**rule, "helpUri": f"{site}/codes/{code}.html"}


def _site() -> str | None:
    """The documentation's address, as the package's metadata has it."""
    for line in importlib.metadata.metadata("vlmdebug").get_all("Project-URL") or ():
        name, _, address = line.partition(",")
        if name.strip().lower() == "documentation":
            return address.strip().rstrip("/")
    return None


def _result(one: Remark, mark: str) -> dict[str, Any]:
    return {
        "ruleId": one.code,
        "ruleIndex": [*CODES].index(one.code),
        "level": "error",
        "message": {"text": _message(one)},
        "locations": [_location(one)],
        "partialFingerprints": {"vlmdebug/v1": mark},
        "properties": {"wrong": one.wrong, "right": one.right, "batch": one.batch},
    }


def _location(one: Remark) -> dict[str, Any]:
    """The code, or the first line of a notebook: GitHub takes no result without a region."""
    region: dict[str, Any] = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}
    if one.cell is None:
        region = {
            "startLine": one.line,
            "startColumn": one.column,
            "endLine": one.line,
            "endColumn": one.end,
            "snippet": {"text": one.source},
        }
    return {
        "physicalLocation": {**_file(one.file), "region": region},
        "logicalLocations": [{"fullyQualifiedName": one.function, "kind": "function"}],
    }


def _file(name: str) -> dict[str, Any]:
    path = Path(from_here(Path(name)))
    uri = path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))
    return {"artifactLocation": {"uri": uri}}


def _notification(line: str) -> dict[str, Any]:
    """What was not judged: `file:line: text`."""
    note: dict[str, Any] = {"level": "warning", "message": {"text": line}}
    found = re.match(r"(.+?):(\d+): ", line)
    if found is None:
        return note
    place, cell, _ = found[1].partition(":cell ")
    region = {} if cell else {"region": {"startLine": max(int(found[2]), 1)}}
    return {**note, "locations": [{"physicalLocation": {**_file(place), **region}}]}
