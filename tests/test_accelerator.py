"""`make test-accelerator` on the CPU alone: it agrees with itself, and says what differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import accelerator

HERE = torch.device("cpu")


def test_nothing_differs_between_equal_devices():
    assert [*accelerator._both("qwen2_5_vl", HERE)] == []


def test_what_differs_is_printed(monkeypatch):
    there = accelerator._there
    monkeypatch.setattr(accelerator, "_there", lambda *given: shifted(there(*given)))
    found = [*accelerator._both("llava", HERE)]

    assert [one.split("\n")[0] for one in found] == [
        "_reports",  # of a packer, with its proof
        *(f"proofs in {dtype}" for dtype in accelerator.DTYPES),
    ]
    assert "ZeroDivisionError" in found[-1]


def shifted(model):
    """A model that fails on the other device."""

    def fail(*given):
        raise ZeroDivisionError("no such kernel")

    model.get_input_embeddings().register_forward_pre_hook(fail)
    return model
