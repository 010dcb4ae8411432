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
    from vlmdebug.checking.report import Report as Report
    from vlmdebug.core.batch import Ambiguity as Ambiguity
    from vlmdebug.core.batch import Batch as Batch
    from vlmdebug.core.layout import Axis as Axis
    from vlmdebug.core.layout import Layout as Layout
    from vlmdebug.core.mismatch import Mismatch as Mismatch
    from vlmdebug.core.rows import Counts as Counts
    from vlmdebug.core.rows import Rows as Rows
    from vlmdebug.errors import AmbiguousError as AmbiguousError
    from vlmdebug.errors import BadInput as BadInput
    from vlmdebug.errors import MismatchError as MismatchError
    from vlmdebug.errors import VlmDebugError as VlmDebugError
    from vlmdebug.exploring import explore as explore
    from vlmdebug.failing.post_mortem import PostMortem as PostMortem
    from vlmdebug.failing.post_mortem import post_mortem as post_mortem
    from vlmdebug.families.probe import Probe as Probe
    from vlmdebug.families.probe import probe as probe
    from vlmdebug.families.read import read_batch as read_batch
    from vlmdebug.fleet.audit import audit as audit
    from vlmdebug.fleet.audit_row import AuditedRow as AuditedRow
    from vlmdebug.fleet.audit_row import audit_row as audit_row
    from vlmdebug.fleet.merge import Merged as Merged
    from vlmdebug.fleet.merge import merge as merge
    from vlmdebug.running.check import check as check
    from vlmdebug.running.check import plot_layout as plot_layout
    from vlmdebug.running.collator import Collator as Collator
    from vlmdebug.running.collator import collator as collator
    from vlmdebug.running.counterexample import Counterexample as Counterexample
    from vlmdebug.running.dataset_rows import make_rows as make_rows
    from vlmdebug.running.dead_code import unreached as unreached
    from vlmdebug.running.export import Code as Code
    from vlmdebug.running.export import export as export
    from vlmdebug.running.falsify import falsify as falsify
    from vlmdebug.running.falsify import falsify_all as falsify_all
    from vlmdebug.running.method import method as method
    from vlmdebug.running.prove import Proof as Proof
    from vlmdebug.running.prove import prove as prove
    from vlmdebug.running.record import record as record
    from vlmdebug.running.row_search import RowsCounterexample as RowsCounterexample
    from vlmdebug.running.synthetic import make_batch as make_batch
    from vlmdebug.trainers.registry import trainer_slicer as trainer_slicer
    from vlmdebug.trainers.trl import trl_slicer as trl_slicer
    from vlmdebug.watching.callback import WatchCallback as WatchCallback
    from vlmdebug.watching.identity import Identity as Identity
    from vlmdebug.watching.identity import identities as identities
    from vlmdebug.watching.watch import Trace as Trace
    from vlmdebug.watching.watch import watch as watch

__version__ = "0.2.0"

_HOME = {
    "Ambiguity": "core.batch",
    "AmbiguousError": "errors",
    "AuditedRow": "fleet.audit_row",
    "Axis": "core.layout",
    "BadInput": "errors",
    "Batch": "core.batch",
    "Code": "running.export",
    "Collator": "running.collator",
    "Counterexample": "running.counterexample",
    "Counts": "core.rows",
    "Identity": "watching.identity",
    "Layout": "core.layout",
    "Merged": "fleet.merge",
    "Mismatch": "core.mismatch",
    "MismatchError": "errors",
    "PostMortem": "failing.post_mortem",
    "Probe": "families.probe",
    "Proof": "running.prove",
    "Report": "checking.report",
    "Rows": "core.rows",
    "RowsCounterexample": "running.row_search",
    "Trace": "watching.watch",
    "VlmDebugError": "errors",
    "WatchCallback": "watching.callback",
    "audit": "fleet.audit",
    "audit_row": "fleet.audit_row",
    "check": "running.check",
    "collator": "running.collator",
    "explore": "exploring",
    "export": "running.export",
    "falsify": "running.falsify",
    "falsify_all": "running.falsify",
    "identities": "watching.identity",
    "make_batch": "running.synthetic",
    "make_rows": "running.dataset_rows",
    "method": "running.method",
    "merge": "fleet.merge",
    "plot_layout": "running.check",
    "post_mortem": "failing.post_mortem",
    "probe": "families.probe",
    "prove": "running.prove",
    "read_batch": "families.read",
    "record": "running.record",
    "trainer_slicer": "trainers.registry",
    "trl_slicer": "trainers.trl",
    "unreached": "running.dead_code",
    "watch": "watching.watch",
}
_MODULES = ("review", "slicers", "tiny")

__all__ = [*_HOME, *_MODULES, "__version__"]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext vlmdebug`: the magics `%vlmdebug` and `%%vlmdebug`."""
    from vlmdebug.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext vlmdebug`: without the magics."""
    from vlmdebug.magics import unregister

    unregister(shell)


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
