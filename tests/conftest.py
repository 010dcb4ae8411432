"""What every test file shares: one thread, golden files, tiny models that no test changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported. Tiny models are slower on two threads than on one, and `make test`
# runs a process on every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from architectures import Built, use_torchvision

use_torchvision()

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--overwrite", action="store_true", help="write golden files anew; read the diff then"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the runs in processes of their own: at the end one core would wait for them."""
    items.sort(key=lambda item: item.path.name != "test_torchvision.py")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` asserts that the text is what the file `name` holds."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--overwrite"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())

        assert path.is_file(), f"{path} is missing; pytest --overwrite writes it"
        assert text == path.read_bytes().decode()

    return compare


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    """`built["llava"]` is a tiny model and its processor, shared by all tests of this process.

    A test that trains, patches or breaks one calls `vd.tiny.build` for its own.
    """
    shared = Built()
    yield shared
    assert shared.changed() == [], "a test changed a model that others share"


@pytest.fixture
def compiled(built: Built) -> Iterator[Callable[..., Any]]:
    """`compiled(model)` is `torch.compile` without a compiler, of a model of the test's own.

    What torch keeps of it for the whole process is removed, so that no other test of the process
    depends on it. If something is left, this test fails, and not those after it.
    """
    import torch

    import vlmdebug as vd

    model, inputs = built["llava"][0], vd.tiny.batch("llava", [1, 1])
    with torch.no_grad():
        before = model(**inputs).logits
    yield partial(torch.compile, backend="eager")
    torch._dynamo.reset()
    assert torch.is_grad_enabled() and not torch.compiler.is_compiling()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before), "a model that is not compiled changed"
