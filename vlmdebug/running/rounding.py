"""How far rounding alone moves the logits of a model, found by perturbing it.

Two right ways to compute the same logits differ by rounding: sums in another order, rows of another
length. How far that goes depends on the model, its size and its dtype, so no constant fits. Each
module without children is made to err as much as rounding may: its output is multiplied by
`1 + noise`. The noise is half a unit in the last place of its dtype, and what a sum over its inputs
adds in float32. The largest move of any logit, times `SAFETY`, is what rounding may explain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

import torch

RUNS = 2
"""Perturbed runs of the model, each with noise of its own; the same in every process."""
SAFETY = 4.0
"""For what modules do not show: softmax, products of attention and the sums between modules.

Packed rows and chunks of all tiny models move the logits by 0.64 of the largest measured move at
most in float32, and wrong pixels by 10,000 times it at least.
"""
MOST = 0.01
"""Part of the largest logit that is never put down to rounding, nor are 1000 units in its last
place. Noise in 16 bits may send tokens to other experts, which moves logits as wrong pixels do.
"""


class Rounding(NamedTuple):
    """What rounding may move logits by."""

    tolerance: float
    """The largest difference that is put down to rounding."""
    reach: float
    """What noise as large as rounding was seen to cause, times `SAFETY`: above `tolerance` where
    wrong pixels could hide in it."""


def rounding(
    model: Any, answer: Callable[[Mapping[str, Any]], torch.Tensor], inputs: Mapping[str, Any]
) -> Rounding:
    """The largest difference of logits that rounding may cause on these inputs.

    Args:
        model: A `torch.nn.Module`, in eval mode; of anything else, the most is assumed.
        answer: Runs it and returns its logits.
        inputs: A call that it takes.
    """
    logits = answer(inputs)
    lowest = torch.finfo(logits.dtype).min
    size = max(1.0, largest(logits.masked_fill(logits <= lowest, 0.0), torch.zeros_like(logits)))
    eps = max(torch.finfo(dtype).eps for dtype in {logits.dtype, *_dtypes(model)})
    least = eps * size  # one rounding of the logits themselves
    most = min(1000 * eps, MOST) * size
    try:
        moved = max(largest(logits, _perturbed(model, answer, inputs, run)) for run in range(RUNS))
    except Exception:  # its modules take no hooks
        return Rounding(most, most)
    reach = max(least, SAFETY * moved)
    return Rounding(min(reach, most), reach)


def _dtypes(model: Any) -> set[torch.dtype]:
    """Those in which it computes; a last step may give its logits in another."""
    weights = model.parameters() if hasattr(model, "parameters") else ()
    return {one.dtype for one in weights if one.is_floating_point()}


@contextmanager
def full_precision() -> Iterator[None]:
    """Products are rounded as their dtype says; the program's settings are restored.

    By default torch convolves in TF32, which keeps 10 bits of the 23 of float32, and may sum up
    16 bits in 16 bits (torch 2.13, "Numerical accuracy"). Both move the logits of right chunks.
    """
    settings, before = _settings(), []
    for read, write, value in settings:
        with suppress(RuntimeError):  # set in two ways, which torch does not read as one
            before.append((write, read(), value))
    try:
        for write, _, value in before:
            write(value)
        yield
    finally:
        for write, value, _ in before:
            write(value)


def _settings() -> list[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """How each is read and written, and its value: those for all kinds of products come first."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    named: list[tuple[Any, str, Any]] = [(cudnn, "allow_tf32", False)]
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9, for each kind
        host: Any = torch.backends.mkldnn
        named += [(at, "fp32_precision", "ieee") for at in (cudnn.conv, matmul, host.matmul)]
    for kind in ("bf16", "fp16"):
        named.append((matmul, f"allow_{kind}_reduced_precision_reduction", False))
    return [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        *((partial(getattr, at, name), partial(setattr, at, name), to) for at, name, to in named),
    ]


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference of two tensors of logits."""
    if not ours.numel():
        return 0.0
    one, other = ours.float(), theirs.float()
    return float((one - other).abs().masked_fill(one == other, 0.0).max())


def _perturbed(
    model: Any,
    answer: Callable[[Mapping[str, Any]], torch.Tensor],
    inputs: Mapping[str, Any],
    seed: int,
) -> torch.Tensor:
    with _noise(model, seed):
        return answer(inputs)


@contextmanager
def _noise(model: Any, seed: int) -> Iterator[None]:
    """Noise in the output of each module without children; removed at the end."""
    generators: dict[Any, torch.Generator] = {}

    def disturb(module: Any, args: Any, out: Any) -> Any:
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            return None
        if out.device not in generators:
            generators[out.device] = torch.Generator(out.device).manual_seed(seed)
        noise = torch.rand(out.shape, generator=generators[out.device], device=out.device)
        return (out.float() * (1 + _error(module, out.dtype) * (2 * noise - 1))).to(out.dtype)

    leaves = [one for one in model.modules() if next(one.children(), None) is None]
    handles = [one.register_forward_hook(disturb) for one in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _error(module: Any, dtype: torch.dtype) -> float:
    """The relative error of one output: it is rounded, and summed up in float32 before."""
    weight, inputs = getattr(module, "weight", None), 1
    if isinstance(weight, torch.Tensor) and not isinstance(module, torch.nn.Embedding):
        inputs = max(1, weight[:1].numel()) if weight.ndim > 1 else 1
    return (torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * sqrt(inputs)) / 2
