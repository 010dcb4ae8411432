"""How the docs are built: `make docs`. Pages on families and the API are written from the code."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
os.environ.update(COLUMNS="80", NO_COLOR="1")  # of the usage of commands

from explorable import explorer  # noqa: E402

import vlmdebug  # noqa: E402
from vlmdebug.cli import _parser  # noqa: E402
from vlmdebug.cli.typed import options_of  # noqa: E402
from vlmdebug.families import FAMILIES  # noqa: E402
from vlmdebug.views.without_kernel import fragment  # noqa: E402

project = "vlmdebug"
author = "The vlmdebug maintainers"
copyright = author
version = release = vlmdebug.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "vlmdebug"
exclude_patterns = ["_build", "generated/options.md"]  # included in command_line.md
myst_enable_extensions = ["deflist"]
nb_execution_mode = "off"  # the tests run the notebooks; their outputs are committed
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
default_role = "code"  # docstrings write `name`, as Markdown does
autodoc_typehints = "none"  # the signature has them
napoleon_google_docstring = True
myst_heading_anchors = 3
html_extra_path = [picture.name for picture in (*HERE.glob("*.png"), *HERE.glob("*.svg"))]
suppress_warnings = ["mystnb.unknown_mime_type"]

GENERATED = HERE / "generated"


def write_pages() -> None:
    """Notebooks, a page for each family, and one for every public name."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        text = text.replace('"# ', f'"# {notebook.name[:2]} ', 1)  # pages name them by number
        (GENERATED / notebook.name).write_text(text, encoding="utf-8")
    explored = fragment(explorer())
    (GENERATED / "explorer.html").write_text(explored, encoding="utf-8")
    for family in FAMILIES.values():
        (GENERATED / f"family_{family.name}.md").write_text(family_page(family), encoding="utf-8")
    values = {name: getattr(vlmdebug, name) for name in vlmdebug.__all__}
    names = [name for name, value in values.items() if hasattr(value, "__qualname__")]
    (GENERATED / "options.md").write_text(options_page(), encoding="utf-8")
    (GENERATED / "api.md").write_text(api_page(names), encoding="utf-8")


def family_page(family) -> str:
    """What the family's file says, and its layout as a table."""
    said = inspect.getdoc(importlib.import_module(type(family).__module__)) or ""
    lines = [
        f"# {family.name}",
        "",
        said,
        "",
        "| key | shape | what one row represents | without media |",
    ]
    lines += ["|---|---|---|---|"]
    without = {"omit": "left out", "either": "left out or empty", "keep": "kept"}
    for key, axis in family.axes.items():
        shape, missing = family.shapes[key], without[family.rules.of(key).when_no_media]
        lines.append(f"| `{key}` | `({shape})` | {axis} | {missing} |")
    models = ", ".join(f"`{model}`" for model in family.models)
    others = "[Layouts](../layouts.md) compares the families."
    return "\n".join([*lines, "", f"Models: {models}. {others}"]) + "\n"


def api_page(names: list[str]) -> str:
    """Every public name with its docstring, under the name by which it is called."""
    found = {name: getattr(vlmdebug, name) for name in sorted(names, key=str.lower)}
    classes = [name for name, value in found.items() if inspect.isclass(value)]
    errors = [name for name in classes if issubclass(found[name], Exception)]
    functions = [name for name in found if name not in classes]
    of_modules = (
        "testing.assert_slices",
        "testing.batches",
        "tiny.build",
        "tiny.batch",
        "learn.predict",
        "learn.exercise",
        "review.paths",
        "review.source",
        "slicers.by_sample",
        "slicers.corrected",
    )
    parts = [
        "# Python reference",
        "",
        "Every public name. After `import vlmdebug as vd`, `vlmdebug.check` is `vd.check`; of",
        "modules, import `vlmdebug.testing` and `vlmdebug.learn` yourself.",
        "",
        *section("Functions", "autofunction", functions),
        *section("Functions of modules", "autofunction", of_modules),
        *section("Classes", "autoclass", [name for name in classes if name not in errors]),
        *section("Errors", "autoclass", errors),
    ]
    return "\n".join(parts)


def section(title: str, kind: str, names: Iterable[str]) -> list[str]:
    """Names of the package with their docstrings, and members if they are classes."""
    members = ["   :members:", ""] if kind == "autoclass" else []
    parts = [f"## {title}", ""]
    for name in names:
        parts += ["```{eval-rst}", f".. {kind}:: vlmdebug.{name}", *members, "```", ""]
    return parts


def options_page() -> str:
    """Every command with its options, as the parsers have them."""
    (commands,) = (one for one in _parser()._actions if one.choices)
    said = {one.dest: one.help for one in commands._choices_actions}
    return "\n".join(
        part
        for name, command in commands.choices.items()
        for part in options_section(name, command, said[name])
    )


def options_section(name: str, command, said: str) -> list[str]:
    """One command: what it does, how it is called, its options, an example."""
    formatter = command._get_formatter()
    usage = command.format_usage().removeprefix("usage: ").rstrip()
    parts = [f"## {name}", "", as_text(command.description or said), "", *block("text", usage)]
    for action in options_of(command):
        if "--help" not in action.option_strings:
            shown = formatter._format_action_invocation(action)
            meaning = formatter._expand_help(action)
            parts += [f"`{shown}`", f": {as_text(meaning)}", ""]
    if command.epilog.startswith("Example: vlmdebug"):
        return [*parts, *block("sh", command.epilog.removeprefix("Example: "))]
    return [*parts, *block("text", command.epilog.rstrip())]


def as_text(sentence: str) -> str:
    """A sentence of a parser as Markdown, in which nothing but code between backticks is markup."""
    sentence = " ".join(sentence.split())
    sentence = f"{sentence[0].upper()}{sentence[1:].rstrip('.')}."
    return re.sub(
        r"`[^`]*`|[\\*_<>\[\]|$]", lambda one: one[0] if one[0][1:] else f"\\{one[0]}", sentence
    )


def block(language: str, text: str) -> list[str]:
    """Lines of code."""
    return [f"```{language}", text, "```", ""]


def setup(app) -> None:
    """Links that pages have here and nowhere else: in a terminal or on GitHub they lead nowhere."""
    app.connect("source-read", lambda app, page, source: source.append(linked(page, source.pop())))


def linked(page: str, text: str) -> str:
    """Layouts in tables link to their pages, and pages of codes to what explains their words."""
    if page in ("layouts", "architectures"):
        names = "|".join(map(re.escape, FAMILIES))
        return re.sub(rf"\| ({names}) \|", r"| [\1](generated/family_\1.md) |", text)
    if page.startswith("codes/"):
        return f"{text}\n[All codes](../layouts.md#codes) · [Glossary](../glossary.md)\n"
    return text


write_pages()
