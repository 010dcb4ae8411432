"""Fixtures for a trainer's tests, and `--vlmdebug` for tests that fail.

pytest loads this module, so it imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--vlmdebug`, and `--vlmdebug-profile`, as Hypothesis has `--hypothesis-profile`."""
    group = parser.getgroup("vlmdebug")
    group.addoption(
        "--vlmdebug",
        action="store_true",
        help="add a section to failing tests: which sample and image the exception came from",
    )
    group.addoption(
        "--vlmdebug-profile",
        choices=("fast", "default", "nightly"),
        help="how many batches assert_slices tries: fast takes at most 2 seconds",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Pass the profile on, to the processes of pytest-xdist too."""
    profile = config.getoption("--vlmdebug-profile")
    if profile is not None:
        os.environ["VLMDEBUG_PROFILE"] = profile


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the section to the report of a test that failed."""
    report = yield
    if report.failed and call.excinfo is not None and item.config.getoption("--vlmdebug"):
        from vlmdebug.failing.post_mortem import post_mortem

        try:
            found = post_mortem(call.excinfo.value)
        except Exception as error:  # the test's own failure matters
            report.sections.append(("vlmdebug", f"no sample was looked for: {error!r}"))
        else:
            if not found.ok or found.explained is not None:
                report.sections.append(("vlmdebug", str(found)))
    return report


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
