"""`prove`: run the real model to see what a slicer's chunks change.

The whole batch goes through the model, then each chunk or packed row. The logits of every sample's
real tokens should be the same, but for rounding (`vlmdebug.running.rounding`). Every verdict of
`check` must agree with this comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, kind_of, public
from vlmdebug.core.keys import BOOKKEEPING
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.part import Span
from vlmdebug.core.signature import Slicer, as_slicer
from vlmdebug.core.wording import name_samples
from vlmdebug.errors import BadInput
from vlmdebug.families.read import read_batch
from vlmdebug.running.check import run
from vlmdebug.running.rounding import Rounding, full_precision, largest, rounding
from vlmdebug.running.split import Call
from vlmdebug.running.split_loss import SplitLoss, split_loss

FEWER = frozenset({"logits_to_keep", "num_logits_to_keep"})
"""Arguments that are not passed to the model: the logits of every token are compared."""


@dataclass(frozen=True)
class Proof:
    """The result of running the model.

    Attributes:
        max_abs_diff: Largest absolute difference of any logit of any real token; None if no chunk
            could be compared.
        per_sample: The same per sample; None for a sample if its chunk raised or never came.
        tolerance: The largest difference that rounding may cause: the model is run with noise as
            large as rounding in each of its modules, and the largest move of a logit is taken four
            times; at most 1 % of the largest logit.
        reach: The same without that limit, where it is larger: a difference up to it may be
            rounding or wrong pixels, and is neither proven nor a proof.
        error: The exception of the model, or of the slicer, that ended the comparison first.
        chunk: The chunk that raised it; None for the whole batch.
        raised_by: What raised it, `"model"` or `"slicer"`.
        other_tokens: Samples with tokens in a chunk that neither extend nor begin those of the
            batch, so that no logits could be compared.
        losses: For each call with labels that is split over ranks, the loss summed over the ranks
            and its gradient, next to those of the whole.
    """

    max_abs_diff: float | None
    per_sample: tuple[float | None, ...]
    tolerance: float
    error: BaseException | None = field(default=None, compare=False)
    chunk: int | None = None
    raised_by: str = "model"
    other_tokens: tuple[int, ...] = ()
    losses: tuple[SplitLoss, ...] = ()
    reach: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every sample was compared and agrees up to rounding."""
        compared = self.error is None and not self.other_tokens
        compared = compared and all(one.ok for one in self.losses)
        return compared and all(
            diff is not None and diff <= self.tolerance for diff in self.per_sample
        )

    @property
    def silent_samples(self) -> tuple[int, ...]:
        """Samples that ran without an exception but have other logits than in the whole batch."""
        return self._above(max(self.tolerance, self.reach))

    @property
    def undecided(self) -> tuple[int, ...]:
        """Samples with a difference that rounding alone may reach, but too large to be passed."""
        return tuple(
            sample for sample in self._above(self.tolerance) if sample not in {*self.silent_samples}
        )

    def _above(self, limit: float) -> tuple[int, ...]:
        diffs = enumerate(self.per_sample)
        return tuple(sample for sample, diff in diffs if diff is not None and diff > limit)

    def __str__(self) -> str:
        if self.ok:
            return f"same logits as the whole batch (largest difference {self.max_abs_diff:.1g})"
        said = []
        if self.error is not None:
            where = "the whole batch" if self.chunk is None else f"chunk {self.chunk}"
            text = f"{type(self.error).__name__}: {self.error or '(no text)'}"
            said.append(f"the {self.raised_by} raised on {where}: {text}")
        if self.silent_samples:
            said.append(
                f"{name_samples(self.silent_samples)} ran without an exception, "
                f"but the logits differ by up to {self.max_abs_diff:.2g}"
            )
        if self.undecided:
            said.append(
                f"{name_samples(self.undecided)} differ by more than {self.tolerance:.2g}, and "
                "rounding in this dtype may do that: prove it in float32 (model.float())"
            )
        if self.other_tokens:
            said.append(
                f"the tokens of {name_samples(self.other_tokens)} are not those of the batch, "
                "so their logits could not be compared"
            )
        said += [str(one) for one in self.losses if not one.ok]
        came = {*self.other_tokens}
        missing = [s for s, d in enumerate(self.per_sample) if d is None and s not in came]
        if missing and self.error is None:
            said.append(f"{name_samples(missing)} came in no chunk")
        return "; ".join(said)


@public
def prove(
    slicer: Slicer,
    batch: Batch | Mapping[str, Any],
    model: Any,
    *,
    chunk_size: int = 1,
    **reading: Any,
) -> Proof:
    """Compare the model's logits on the whole batch with those on the slicer's chunks.

    The model runs in eval mode without gradients, on a GPU without TF32; its state and torch's
    settings are restored. Real tokens are those of
    `attention_mask`, whatever the padding side. Samples are recognised by the rows of `input_ids`
    that a chunk holds, so a slicer may reorder them, or join several in one row. Chunks that are
    split over ranks (`slicer.shards`) are joined again first; with labels, the loss summed over
    the ranks and its gradient are compared, too, which needs memory for two gradients.

    Args:
        slicer: As for `check`.
        batch: A `Batch`, or the output of a processor.
        model: A transformers model; its forward returns `.logits`, `(sample, seq, vocab)`.
        chunk_size: Samples per chunk.
        **reading: Arguments of `read_batch`, if the batch is not read yet.

    Raises:
        BadInput: The arguments are not a model or not a batch.
    """
    if not callable(model):
        raise BadInput(
            f"The model is a {type(model).__name__}, but prove calls it: model(**inputs). "
            "Pass the model itself, for instance vlmdebug.tiny.build(family)[0]."
        )
    if kind_of(model) not in (None, "model"):
        raise BadInput(
            f"The model is {described(model)}, but prove runs the model: model(**inputs). "
            "Nothing was run. Call prove(slicer, batch, model)."
        )
    if not callable(slicer):
        raise BadInput(
            f"The slicer is a {type(slicer).__name__}, not a function of (inputs, chunk_size)."
        )
    slicer = as_slicer(slicer)
    read = (
        read_batch(batch, **{"model": model, **reading}) if not isinstance(batch, Batch) else batch
    )
    whole = {key: value for key, value in read.inputs.items() if key not in BOOKKEEPING}
    with _evaluating(model), full_precision():
        try:
            logits = _logits(model, whole)
        except Exception as error:
            return Proof(None, (None,) * len(read), 0.0, error)
        limits = rounding(model, partial(_logits, model), whole)
        return _compare(slicer, read, model, chunk_size, logits, limits)


def _compare(
    slicer: Slicer,
    batch: Batch,
    model: Any,
    chunk_size: int,
    whole: torch.Tensor,
    limits: Rounding,
) -> Proof:
    diffs: list[float | None] = [None] * len(batch)
    real = _real_tokens(batch.inputs, whole.shape[1])
    error: BaseException | None = None
    failed: int | None = None
    others: set[int] = set()
    answers, losses, ran = _answers(slicer, batch, model, chunk_size, limits.tolerance)
    for index, (answer, used) in enumerate(zip(answers, ran.chunks, strict=True)):
        ids = used.keys.get("input_ids")
        samples = list(ids.rows) if ids is not None and ids.rows is not None else []
        if answer.logits is None and answer.error is None:
            others.update(samples)
            continue
        if answer.logits is None:
            error, failed = error or answer.error, index if error is None else failed
            continue
        for row, sample in enumerate(samples):
            if used.spans is not None:
                diff = answer.diff_in(used.spans[row], whole[sample][real[sample]])
            elif sample < 0 or row >= len(answer.logits):
                continue
            else:
                ids = batch.inputs["input_ids"][sample]
                diff = answer.diff(row, whole[sample], ids, real[sample])
            if diff is None:
                others.add(sample)
            else:
                diffs[sample] = max(diff, diffs[sample] or 0.0)
    known = [diff for diff in diffs if diff is not None]
    proof = Proof(max(known, default=None), tuple(diffs), limits.tolerance, error, failed)
    proof = replace(
        proof, other_tokens=tuple(sorted(others)), losses=tuple(losses), reach=limits.reach
    )
    if ran.error is not None and error is None:
        return replace(proof, error=ran.error, chunk=len(answers), raised_by="slicer")
    return proof


def _answers(
    slicer: Slicer, batch: Batch, model: Any, chunk_size: int, tolerance: float
) -> tuple[list[_Answer], list[SplitLoss], SlicerRun]:
    """What the model gives for each chunk; of ranks that no order joins, neither logits nor error.

    Also the losses of calls that are split over ranks, and the run of the slicer.
    """
    answers: list[_Answer] = []
    losses: list[SplitLoss] = []

    def keep(call: Call) -> None:
        answers.append(_answer(model, call.given) if call.given else _Answer(None, None))
        if call.learned is not None:
            losses.extend(split_loss(partial(_logits, model), model, batch, call, tolerance))

    return answers, losses, run(slicer, batch, chunk_size, keep)


@dataclass(frozen=True)
class _Answer:
    """The model's output for one chunk, computed when the slicer yields it.

    A slicer may reuse one dict or buffer for every chunk: later it holds another chunk.
    """

    logits: torch.Tensor | None
    mask: torch.Tensor | None
    ids: torch.Tensor | None = None
    error: Exception | None = None

    def diff_in(self, span: Span, whole: torch.Tensor) -> float | None:
        """Largest difference to a sample's logits, `(seq, vocab)`, in a span of a packed row.

        None if the row holds other tokens of it, or their logits are not returned.
        """
        assert self.logits is not None
        own = self.logits[span.row, span.start : span.stop] if span.row < len(self.logits) else None
        return largest(whole, own) if own is not None and own.shape == whole.shape else None

    def diff(
        self, row: int, whole: torch.Tensor, ids: torch.Tensor, real: torch.Tensor
    ) -> float | None:
        """Largest difference to a sample's logits in the whole batch; None if the tokens differ.

        Tokens may have been appended, as completions are, or cut off: the common ones are compared.

        Args:
            row: The sample's row in the chunk.
            whole: Its logits in the batch, `(seq, vocab)`.
            ids: Its tokens there, `(seq,)`.
            real: Which of these, and of features before them, are not padding.
        """
        assert self.logits is not None
        logits, given = self.logits[row], None if self.ids is None else self.ids[row]
        if len(whole) != len(ids):  # a decoder's own tokens, or features before the tokens
            shown = real if len(real) == len(whole) else ...
            return largest(whole[shown], logits[shown]) if whole.shape == logits.shape else None
        if given is None or len(given) != len(logits):
            return largest(whole[real], logits[real]) if len(logits) == len(whole) else None
        if torch.equal(given, ids):
            return largest(whole[real], logits[real])
        own, shown = torch.nonzero(real)[:, 0], torch.arange(len(given), device=given.device)
        if self.mask is not None:
            shown = torch.nonzero(self.mask[row])[:, 0]
        for theirs in (shown, torch.arange(len(given), device=given.device)):
            pairs = _shared(ids[own], given[theirs])
            if pairs is not None:
                ours, other = pairs
                return largest(whole[own[ours]], logits[theirs[other]])
        return None


def _shared(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[slice, slice] | None:
    """The place of the shorter row of tokens in the longer one, as slices of both: at its start if
    possible, else at its end, else anywhere. None if it is not in it, or holds no token.
    """
    size = min(len(ours), len(theirs))
    room = max(len(ours), len(theirs)) - size
    for begin in dict.fromkeys((0, room, *range(room))) if size else ():
        place, all_of_it = slice(begin, begin + size), slice(0, size)
        pair = (place, all_of_it) if len(ours) > size else (all_of_it, place)
        if torch.equal(ours[pair[0]], theirs[pair[1]]):
            return pair
    return None


def _answer(model: Any, inputs: Mapping[str, Any]) -> _Answer:
    try:
        logits = _logits(model, inputs)
    except Exception as raised:
        return _Answer(None, None, error=raised)
    mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
    fits = mask is not None and ids is not None and mask.shape == ids.shape
    kept = mask.bool().clone() if mask is not None and fits else None
    return _Answer(logits, kept, None if ids is None else ids.clone())


def _logits(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The logits of a call without a cache, as trainers make it; the call itself may ask for one.

    A cache makes models ignore where `position_ids` of packed rows start again.
    """
    given = {key: inputs[key] for key in inputs if key not in FEWER}
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    if getattr(text, "use_cache", None):
        given.setdefault("use_cache", False)
    return model(**given).logits


def _real_tokens(inputs: Mapping[str, Any], logits: int) -> torch.Tensor:
    """Which tokens are not padding, `(sample, seq)`.

    `logits`: of how many tokens of a sample there are logits. GIT also returns those of the
    features, which stand before the text (`modeling_git`, transformers 5.23).
    """
    mask, ids = inputs.get("attention_mask"), inputs["input_ids"]
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    before = 0 if "decoder_input_ids" in inputs else max(0, logits - ids.shape[1])
    return torch.cat([real.new_ones(len(real), before), real], dim=1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Eval mode and no gradients; the mode of every module is restored."""
    modules: Iterable[Any] = list(model.modules()) if hasattr(model, "modules") else []
    modes = [(module, module.training) for module in modules]
    try:
        if hasattr(model, "eval"):
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
