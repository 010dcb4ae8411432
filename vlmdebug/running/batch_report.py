"""The report on a batch alone: its tokens, media, pixels, positions and seams."""

from __future__ import annotations

from dataclasses import replace

from vlmdebug.checking.packed import with_faults
from vlmdebug.checking.pixels import with_pixels
from vlmdebug.checking.report import Report
from vlmdebug.checking.whole_batch import check_alone, with_positions
from vlmdebug.core.batch import Batch
from vlmdebug.tracking.deltas import DELTAS
from vlmdebug.tracking.made import own_positions
from vlmdebug.tracking.packed import open_seams
from vlmdebug.tracking.packed_rows import own_rows

POSITIONS = ("position_ids", DELTAS)
"""Keys of a batch that are recomputed from its grids."""


def batch_report(batch: Batch) -> Report:
    """All that is known of a batch without a slicer."""
    seams = open_seams(batch)
    rows = with_faults(own_rows(batch, seams), seams)
    return with_own_values(replace(check_alone(batch, seams=seams), packed=tuple(rows)), batch)


def with_own_values(report: Report, batch: Batch) -> Report:
    """The report with what the pixels, positions and deltas of the batch itself show."""
    report = with_pixels(report, batch)
    for key in POSITIONS:
        report = with_positions(report, batch, key, own_positions(batch, key))
    return report
