"""Every source of a fact about a model exists in the release of transformers that was read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlmdebug
from vlmdebug.families.release import installed

RELEASE = "5.23"
PACKAGE = Path(vlmdebug.__file__).parent
FOLDERS = ("core", "families", "tracking", "checking", "outcomes")
FILES = "modeling|processing|image_processing|video_processing|masking"
SOURCE = re.compile(rf"\b((?:{FILES})_\w+)(?:\.(\w+))?")
READ = re.compile(r"transformers\s+5\.\d|\b5\.2\d\b")


def sources(text: str) -> list[tuple[str, str]]:
    """File and function of each source, such as `modeling_llava.forward`; the function may lack."""
    return [(found[1], found[2] or "") for found in SOURCE.finditer(text)]


def named() -> list[tuple[str, str, str]]:
    """Module of vlmdebug, file and function of every source."""
    return sorted(
        {
            (path.relative_to(PACKAGE).as_posix(), *source)
            for folder in FOLDERS
            for path in (PACKAGE / folder).glob("*.py")
            for source in sources(path.read_text(encoding="utf-8"))
        }
    )


def defines(root: Path, file: str, function: str) -> bool:
    """Whether a file of transformers has a function, method or class of that name."""
    model = re.sub(rf"^(?:image_|video_)?(?:{FILES})_", "", file)
    places = (root / f"{file}.py", root / "models" / model / f"{file}.py")
    texts = [path.read_text(encoding="utf-8") for path in places if path.is_file()]
    return any(re.search(rf"\b(?:def|class) {function}\b", text) for text in texts)


def test_every_source_names_file_and_function() -> None:
    assert [(module, file) for module, file, function in named() if not function] == []


@pytest.mark.parametrize("module", sorted({module for module, _, _ in named()}))
def test_a_module_with_sources_names_the_release(module: str) -> None:
    assert READ.search((PACKAGE / module).read_text(encoding="utf-8"))


@pytest.mark.skipif(installed() != RELEASE, reason=f"the sources were read in {RELEASE}")
@pytest.mark.parametrize(("file", "function"), sorted({source[1:] for source in named()}))
def test_source_exists(file: str, function: str) -> None:
    root = Path(pytest.importorskip("transformers").__file__).parent

    assert defines(root, file, function)


def test_a_source_that_does_not_exist_would_be_seen(tmp_path: Path) -> None:
    models = tmp_path / "models" / "x"
    models.mkdir(parents=True)
    (models / "modeling_x.py").write_text("def forward(): ...\n", encoding="utf-8")

    assert sources("As `modeling_x.forward` does (5.23).") == [("modeling_x", "forward")]
    assert defines(tmp_path, "modeling_x", "forward")
    assert not defines(tmp_path, "modeling_x", "get_features")
    assert not defines(tmp_path, "modeling_y", "forward")
