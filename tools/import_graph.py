"""Draw the package as rooms and arrows: which folder imports which, on how many floors.

    python tools/import_graph.py [--modules] [PATH of vlmdebug/]

A room is a folder (or a module of the root); its floor is one above the highest room that it
imports. Imports inside functions count too; those under `if TYPE_CHECKING` do not, because they
never run.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

NAME = "vlmdebug"
Graph = dict[str, set[str]]


def imports_of(package: Path) -> Graph:
    """Every module of the package, with the package's modules that it imports."""
    files = {module_of(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: set(_named(name, path, files)) - {name} for name, path in files.items()}


def module_of(path: Path, package: Path) -> str:
    """`running.check` for `vlmdebug/running/check.py`; the root itself is `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
    return ".".join(parts)


def _named(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (_known(one.name, files) for one in node.names if one.name.startswith(NAME))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == NAME:
            for one in node.names:
                yield _known(f"{node.module}.{one.name}", files)


def _known(dotted: str, files: Mapping[str, Path]) -> str:
    """The module `vlmdebug.folder.name`, or the module that defines that name."""
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in files:
        parts.pop()
    return ".".join(parts) or "__init__"


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those that only a type checker reads."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _running(child)


def rooms_of(modules: Graph) -> Graph:
    """Folders, and modules of the root, with what they import."""
    rooms: Graph = {}
    for name, imported in modules.items():
        room = name.split(".")[0]
        rooms.setdefault(room, set()).update(one.split(".")[0] for one in imported)
    return {room: imported - {room} for room, imported in rooms.items()}


def cycles_of(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, the largest first (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return sorted(found, key=len, reverse=True)


def floors_of(graph: Graph) -> dict[str, int]:
    """The floor of each room; rooms of one cycle share a floor."""
    group = {name: tuple(cycle) for cycle in cycles_of(graph) for name in cycle}
    floors: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in floors:
            own = group.get(name, (name,))
            below = {other for one in own for other in graph[one]} - set(own)
            height = max((floor(other) + 1 for other in below), default=0)
            floors.update(dict.fromkeys(own, height))
        return floors[name]

    for name in graph:
        floor(name)
    return floors


def drawn(graph: Graph, title: str) -> str:
    """The graph as text, the highest floor first."""
    floors, cycles = floors_of(graph), cycles_of(graph)
    arrows = sum(map(len, graph.values()))
    lines = [
        f"{title}: {len(graph)} rooms on {max(floors.values(), default=0) + 1} floors, "
        f"{arrows} arrows, {len(cycles)} cycles" + "".join(f" of {len(one)}" for one in cycles)
    ]
    for height in sorted(set(floors.values()), reverse=True):
        lines.append(f"floor {height}")
        for room in sorted(room for room in graph if floors[room] == height):
            lines.append(f"  {room:16} -> {', '.join(sorted(graph[room])) or 'nothing'}")
    lines += [f"cycle: {', '.join(one)}" for one in cycles]
    return "\n".join(lines)


def main() -> None:
    """Print the rooms, or with --modules every module."""
    parser = argparse.ArgumentParser(description="Draw the package as rooms and arrows.")
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parents[1] / NAME)
    parser.add_argument("--modules", action="store_true", help="every module is a room")
    arguments = parser.parse_args()
    modules = imports_of(arguments.package)
    if arguments.modules:
        print(drawn(modules, "modules"))
        return
    print(drawn(rooms_of(modules), "rooms"))
    print(drawn(modules, "modules").splitlines()[0])


if __name__ == "__main__":
    main()
