"""Tiny random models and processors of transformers' own classes, built offline.

Upstream code decides what a batch looks like and what a wrong slice of it does: nothing here
imitates a processor or a model. Only the sizes are small, and the weights are random. No download,
no GPU, and the caller's random numbers stay as they were.

torch, transformers and Pillow are imported when a function needs them, not before.

Adding a family is one module with a `Recipe` and one line in `registry.py`.
"""

from __future__ import annotations

from vlmdebug.tiny.batches import batch as batch
from vlmdebug.tiny.drawing import draw as draw
from vlmdebug.tiny.drawing import images as images
from vlmdebug.tiny.models import build as build
from vlmdebug.tiny.registry import families as families
