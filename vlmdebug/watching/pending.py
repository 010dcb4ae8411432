"""Tensors on an accelerator, for which the host must not wait.

Tensors that are read by value are copied asynchronously; the verdict comes once they have arrived.
Pixels are not copied: their memory address identifies the rows. Where samples are identified for a
trace, a few values of each row are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from vlmdebug.core.keys import MEDIA_KEYS, PIXELS
from vlmdebug.errors import BadInput
from vlmdebug.tracking.made import READ as MADE
from vlmdebug.watching.fast_path import TOKENS, Tensors
from vlmdebug.watching.identity import Sampled
from vlmdebug.watching.tensor_refs import parents_of

PADDED = 5
"""Dimensions of pixels that are padded over the tiles of a sample, `(sample, tile, 3, h, w)`."""
READ = MEDIA_KEYS.difference(PIXELS) | TOKENS | MADE


def all_on_cpu(tensors: Tensors) -> bool:
    """Whether the host can read all of them without waiting for another device."""
    return not [one for one in tensors.values() if not one.is_cpu]


def refuse_capture(tensors: Tensors) -> None:
    """Leave a device alone that records what it is asked to do, to repeat it (a CUDA graph).

    Raises:
        BadInput: A copy would become part of the graph, or end the capture with an error.
    """
    if _is_capturing({one.device.type for one in tensors.values()}):
        raise BadInput(
            "The model was called while a graph of the device was captured, so nothing could be "
            "copied from there. This call was not judged. Watch the calls before the capture."
        )


def _is_capturing(kinds: Iterable[str]) -> bool:
    asked = [getattr(module_of(kind), "is_current_stream_capturing", None) for kind in kinds]
    return any(ask() for ask in asked if ask is not None)


def module_of(kind: str) -> Any:
    """`torch.cuda` of `cuda`; `torch.get_device_module` is not in torch 2.2."""
    return getattr(torch, kind, None)


class PendingTransfer:
    """The tensors of one call, on their way to the host.

    `columns`: the call has some columns of a batch, which are copied, too.

    Attributes:
        media: Copies of some values of the media, to be read after `tensors()`.
    """

    def __init__(
        self,
        tensors: Tensors,
        media: Mapping[str, Sampled] | None = None,
        *,
        columns: bool = False,
    ) -> None:
        self._failed: Exception | None = None
        self._kinds = {tensor.device.type for tensor in tensors.values()}
        self._events: list[Any] = []
        self._copies: Mapping[str, _Copy] = {}
        self.media: dict[str, Sampled] = {}
        try:
            parents = parents_of(tensors, columns=columns)
            self._copies = {key: _Copy.of(key, tensors[key], parents[key]) for key in tensors}
            for key, one in (media or {}).items():
                self.media[key] = one._replace(table=_on_its_way(one.table))
            streams = (stream_of(device) for device in {t.device for t in tensors.values()})
            self._events = [stream.record_event() for stream in streams if stream is not None]
        except Exception as error:  # reported when the verdict is due
            self._failed = error

    @property
    def arrived(self) -> bool:
        """Whether they can be read without waiting, or never can be read.

        Nothing is asked while a graph is captured: the question would end the capture.
        """
        try:
            if _is_capturing(self._kinds):
                return False
            return all(event.query() for event in self._events)
        except RuntimeError:  # the device has failed; the program will get that error
            return True

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies, with the same place in their parents as the tensors; waits for them."""
        if self._failed is not None:
            raise self._failed
        for event in self._events:
            event.synchronize()
        return {key: copy.chunk() for key, copy in self._copies.items()}


class _Copy(NamedTuple):
    """All rows of a tensor's parent in host memory, and the tensor's place in it."""

    whole: torch.Tensor
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    real: torch.Tensor | None = None
    """Which tiles are not all zero, `(row, tile)`, where pixels are padded over tiles."""

    @classmethod
    def of(cls, key: str, tensor: torch.Tensor, parent: torch.Tensor) -> _Copy:
        if tensor.is_meta:
            raise BadInput(
                f"The model was called with {key} on the meta device, which holds no values, so "
                "rows cannot be identified. Watch a run on a real device."
            )
        real = None
        if key in READ:
            whole = _on_its_way(parent.detach())
        else:  # memory that is never written costs nothing
            whole = torch.zeros(parent.shape, dtype=parent.dtype, device="cpu")
            if parent.ndim == PADDED and parent.numel():
                tile, pixels = (2, 3, 4), parent.detach()
                real = _on_its_way((pixels.amax(tile) != 0) | (pixels.amin(tile) != 0))
        if parent is tensor:
            return cls(whole, whole.shape, whole.stride(), 0, real)
        offset = int(tensor.storage_offset() - parent.storage_offset())
        return cls(whole, tensor.shape, tensor.stride(), offset, real)

    def chunk(self) -> torch.Tensor:
        """The tensor; of pixels, only a value of each tile that is not padding."""
        if self.real is not None:
            self.whole[:, :, 0, 0, 0] = self.real.to(self.whole.dtype)
        return self.whole.as_strided(self.shape, self.stride, self.offset)


def _on_its_way(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory, to be read when the events of the call have passed."""
    later = stream_of(tensor.device) is not None
    return tensor.to("cpu", non_blocking=later, copy=True)


def stream_of(device: torch.device) -> Any:
    """The current stream of this thread; None if the device has no streams."""
    if device.type == "cpu":
        return None
    module = module_of(device.type)
    return module.current_stream(device) if hasattr(module, "current_stream") else None
