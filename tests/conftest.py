"""Golden files: what a view gives, word for word, kept beside the tests. And torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import use_torchvision

use_torchvision()

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--overwrite", action="store_true", help="write golden files anew; read the diff then"
    )


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
