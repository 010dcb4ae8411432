"""See how a multimodal batch splits into chunks, and which row, image and slice went wrong.

    batch = vlmdebug.read_batch(processor(...), processor=processor)
    report = vlmdebug.check(slicer, batch, chunk_size=2)

Importing this package is light: torch, transformers and matplotlib load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmdebug import review as review
    from vlmdebug import slicers as slicers
    from vlmdebug import tiny as tiny
    from vlmdebug.batch import Ambiguity as Ambiguity
    from vlmdebug.batch import Batch as Batch
    from vlmdebug.codegen import Code as Code
    from vlmdebug.codegen import export as export
    from vlmdebug.errors import AmbiguousError as AmbiguousError
    from vlmdebug.errors import BadInput as BadInput
    from vlmdebug.errors import MismatchError as MismatchError
    from vlmdebug.errors import VlmDebugError as VlmDebugError
    from vlmdebug.exploring import explore as explore
    from vlmdebug.families.probe import Probe as Probe
    from vlmdebug.families.probe import probe as probe
    from vlmdebug.families.read import read_batch as read_batch
    from vlmdebug.layout import Axis as Axis
    from vlmdebug.layout import Layout as Layout
    from vlmdebug.lines import unreached as unreached
    from vlmdebug.mismatch import Mismatch as Mismatch
    from vlmdebug.plan import Counts as Counts
    from vlmdebug.plan import Rows as Rows
    from vlmdebug.report import Report as Report
    from vlmdebug.running.counterexample import Counterexample as Counterexample
    from vlmdebug.running.falsify import falsify as falsify
    from vlmdebug.running.falsify import falsify_all as falsify_all
    from vlmdebug.running.synthetic import make_batch as make_batch
    from vlmdebug.tracing.callback import WatchCallback as WatchCallback
    from vlmdebug.tracing.check import check as check
    from vlmdebug.tracing.check import plot_layout as plot_layout
    from vlmdebug.tracing.prove import Proof as Proof
    from vlmdebug.tracing.prove import prove as prove
    from vlmdebug.tracing.record import record as record
    from vlmdebug.tracing.trl import trl_slicer as trl_slicer
    from vlmdebug.tracing.watch import Trace as Trace
    from vlmdebug.tracing.watch import watch as watch

__version__ = "0.1.0"

_HOME = {
    "Ambiguity": "batch",
    "AmbiguousError": "errors",
    "Axis": "layout",
    "BadInput": "errors",
    "Batch": "batch",
    "Code": "codegen",
    "Counterexample": "running.counterexample",
    "Counts": "plan",
    "Layout": "layout",
    "Mismatch": "mismatch",
    "MismatchError": "errors",
    "Probe": "families.probe",
    "Proof": "tracing.prove",
    "Report": "report",
    "Rows": "plan",
    "Trace": "tracing.watch",
    "VlmDebugError": "errors",
    "WatchCallback": "tracing.callback",
    "check": "tracing.check",
    "explore": "exploring",
    "export": "codegen",
    "falsify": "running.falsify",
    "falsify_all": "running.falsify",
    "make_batch": "running.synthetic",
    "plot_layout": "tracing.check",
    "probe": "families.probe",
    "prove": "tracing.prove",
    "read_batch": "families.read",
    "record": "tracing.record",
    "trl_slicer": "tracing.trl",
    "unreached": "lines",
    "watch": "tracing.watch",
}
_MODULES = ("review", "slicers", "tiny")

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"vlmdebug.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'vlmdebug' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"vlmdebug.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
