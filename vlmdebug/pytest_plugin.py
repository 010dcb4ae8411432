"""Fixtures for a trainer's tests; pytest loads this module, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_vlm() -> Callable[[str], tuple[Any, Any]]:
    """`tiny_vlm("gemma4")` is a tiny random model and its processor, built once a session.

    They are shared between tests: a test that trains or changes one should build its own with
    `vlmdebug.tiny.build`.
    """
    from vlmdebug import tiny

    return cache(tiny.build)


@pytest.fixture
def assert_slices() -> Callable[..., None]:
    """`vlmdebug.testing.assert_slices`, as a fixture."""
    from vlmdebug.testing import assert_slices

    return assert_slices
