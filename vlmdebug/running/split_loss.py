"""The loss of a call that is split over ranks: its sum over the ranks, next to that of the whole.

Each rank sums up the loss of its own tokens; the sum over ranks, and its gradient, must be those of
the whole. Logits are those of the joined call, as attention across ranks gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, IGNORED, LABELS
from vlmdebug.running.rounding import largest, rounding
from vlmdebug.running.split import Call


@dataclass(frozen=True)
class SplitLoss:
    """The loss of one call, and its gradient.

    Attributes:
        samples: The samples of the call.
        whole: The sum over all of their learned tokens, in the whole batch.
        ranks: The sum over the ranks.
        tolerance: What rounding of the logits may change the sum by: each logit moves by as much
            as `Proof.tolerance` at most, and the loss of a token by twice that.
        gradient: Largest difference of the gradients of both, in any parameter.
        gradient_tolerance: What rounding may change it by: the largest move of the gradient where
            each module errs as much as rounding may, times four.
    """

    samples: tuple[int, ...]
    whole: float
    ranks: float
    tolerance: float
    gradient: float
    gradient_tolerance: float

    @property
    def ok(self) -> bool:
        """Whether both are the same up to rounding."""
        same = abs(self.whole - self.ranks) <= self.tolerance
        return same and self.gradient <= self.gradient_tolerance

    def __str__(self) -> str:
        return (
            f"the loss summed over the ranks is {self.ranks:.6g}, and {self.whole:.6g} in the "
            f"whole batch; gradients differ by up to {self.gradient:.2g}"
        )


def split_loss(
    logits_of: Callable[[Mapping[str, Any]], torch.Tensor],
    model: Any,
    batch: Batch,
    call: Call,
    tolerance: float,
) -> list[SplitLoss]:
    """The losses of one call; none where the batch has no labels, or logits are not per token.

    Args:
        logits_of: Runs the model; its logits keep their graph.
        model: The model.
        batch: The batch.
        call: A call that is split over ranks, with the labels that each rank learns.
        tolerance: What rounding may move a logit by.
    """
    ids, labels = call.used.keys.get("input_ids"), batch.inputs.get("labels")
    if ids is None or ids.rows is None or labels is None or call.learned is None:
        return []
    samples = [*ids.rows]
    whole = {k: v for k, v in batch.inputs.items() if k not in (*BOOKKEEPING, *LABELS)}
    given = {key: value for key, value in call.given.items() if key not in LABELS}
    ahead = torch.full_like(labels, IGNORED)
    ahead[:, :-1] = labels[:, 1:]
    learned = torch.from_numpy(call.learned.copy()).to(labels.device)

    def of_whole(inputs: Mapping[str, Any]) -> torch.Tensor:
        return _loss(logits_of(inputs)[samples], ahead[samples])

    try:
        ours, slopes = _with_gradient(of_whole, model, whole)
        theirs, others = _with_gradient(
            lambda inputs: _loss(logits_of(inputs), learned), model, given
        )
    except (RuntimeError, ValueError, TypeError, IndexError):
        return []  # the logits say so, or are not along the tokens
    move = rounding(model, lambda inputs: _with_gradient(of_whole, model, inputs)[1], whole)
    count = int((ahead[samples] != IGNORED).sum())
    off = largest(slopes, others)
    return [SplitLoss(tuple(samples), ours, theirs, 2 * tolerance * count, off, move.tolerance)]


def _loss(logits: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """The sum over all tokens with labels, in float32."""
    if logits.shape[:2] != learned.shape:
        raise ValueError("the logits are not along the tokens")
    flat = logits.flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(
        flat, learned.flatten().long(), ignore_index=IGNORED, reduction="sum"
    )


def _with_gradient(
    loss_of: Callable[[Mapping[str, Any]], torch.Tensor], model: Any, inputs: Mapping[str, Any]
) -> tuple[float, torch.Tensor]:
    """A loss, and its gradient by all parameters that learn."""
    learning = [one for one in model.parameters() if one.requires_grad]
    with torch.enable_grad():
        loss = loss_of(inputs)
        slopes = torch.autograd.grad(loss, learning, allow_unused=True)
    pairs = zip(slopes, learning, strict=True)  # None: of a part that the call does not need
    found = [(torch.zeros_like(of) if one is None else one).flatten() for one, of in pairs]
    return float(loss.detach()), torch.cat([one.float() for one in found])
