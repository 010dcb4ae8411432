"""A report is plain data: it survives JSON, and says OK only when all was checked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slicer", slicers.STORY, ids=lambda slicer: slicer.__name__)
def test_report_survives_json(family, slicer, tmp_path):
    report = vd.check(slicer, vd.make_batch(family, [2, 0, 1]))
    text = report.to_json(tmp_path / "report.json")

    assert vd.Report.from_json(text) == report
    assert vd.Report.from_json(tmp_path / "report.json") == report
    assert str(vd.Report.from_json(text)) == str(report)
    json.loads(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_are_read_back_also_from_the_words_of_older_files(family):
    batch = vd.make_batch(family, [2, 0, 1])
    data = vd.check(batch).to_dict()
    older = {name: value for name, value in data.items() if name != "axes"}

    for one in (data, older):
        axes = vd.Report.from_json(json.dumps(one)).axes
        assert axes == dict(batch.layout)
        assert [axis.padded for axis in axes.values()] == [
            axis.padded for axis in batch.layout.values()
        ]


@pytest.mark.parametrize(
    "axis", [7, {"dim": 0}, {"unit": 1}, {"unit": "image", "dim": -1}, {"unit": "image", "x": 1}]
)
def test_axes_that_cannot_be_are_refused(axis):
    data = vd.check(vd.make_batch("gemma4", [1])).to_dict()
    data["axes"]["pixel_values"] = axis

    with pytest.raises(vd.BadInput, match=r"axes\['pixel_values'\]"):
        vd.Report.from_json(json.dumps(data))


def test_saved_report_opens_without_torch(tmp_path):
    path = tmp_path / "report.json"
    vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1])).to_json(path)
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import vlmdebug as vd; r = vd.Report.from_json(sys.argv[1])\n"
        "print(r.verdict, len(r.to_html()) > 500, 'VLM002' in str(r))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == "MISMATCH True True"


def test_unsettled_rows_are_ambiguous_and_neither_ok_nor_mismatch():
    batch = vd.make_batch("gemma4", [1, 1])

    def flattened(inputs, chunk_size):
        for chunk in batch.chunks(1):
            yield {**chunk, "pixel_values": chunk["pixel_values"].to_sparse()}

    report = vd.check(flattened, batch)

    assert (report.ok, report.verdict) == (False, "AMBIGUOUS")
    assert len(report.ambiguities) == 1
    assert report.ambiguities[0].startswith(
        "Could not match pixel_values to rows of the batch (first in chunk 0)"
    )


def test_notebook_gets_html_markdown_and_text_and_no_widget():
    bundle = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1]))._repr_mimebundle_()

    assert set(bundle) == {"text/html", "text/markdown", "text/plain"}
    assert all("VLM002" in text for text in bundle.values())


def test_findings_put_the_silent_ones_first():
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [0, 1, 0, 1, 1]))

    assert [finding.silent for finding in report.findings] == sorted(
        [finding.silent for finding in report.findings], key=lambda silent: silent is not True
    )
    assert report.findings[0].silent
