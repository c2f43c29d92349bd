"""The rooms of ARCHITECTURE.md: who may import whom, and who may import what is slow.

The table there is the rule; this test reads it, so that neither it nor the code can drift. That commands do without
slow libraries when they run is tested with the commands, in `tests/cli`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/nightschool"
SLOW = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "pyarrow", "safetensors", "pandas"}
MAY_IMPORT_TORCH = {"nightschool.api.workspace", "nightschool.demo.base"}
"""Besides the room `training`, and inside functions only: see ARCHITECTURE.md."""


@dataclass(frozen=True)
class Import:
    """One import statement: what is imported, and whether that happens when the module itself is imported."""

    name: str
    at_once: bool


def rooms() -> list[str]:
    """The rooms in the order of the table; one may import those before it."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("\n## Rooms\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)/?`", cell)]


def module_of(path: Path) -> str:
    parts = list(path.relative_to(SOURCE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def room_of(module: str) -> str:
    """`nightschool.intake.rows` is in the room `intake`; the package itself is in none."""
    return module.split(".")[1] if "." in module else ""


def imports(source: str) -> Iterator[Import]:
    """Every import of a file, also those inside functions and those for the type checker."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write the whole name: relative imports are not looked at"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield Import(name if name in MODULES else str(node.module), at_once)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        lazy = lazy or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not lazy)

    return walk(ast.parse(source), True)


def wrong(module: str, source: str, order: list[str]) -> list[str]:
    """What a module imports that it may not."""
    found = []
    room = room_of(module)
    for one in imports(source):
        library = one.name.split(".")[0]
        if library == "nightschool":
            other = room_of(one.name)
            if other and other != room and order.index(other) > order.index(room):
                found.append(f"{module} imports {one.name}, which is further down")
            if other == "training" and room != "training":
                found.append(f"{module} imports {one.name}: what needs torch runs as a child process")
        elif room != "training":
            if library == "torch" and module not in MAY_IMPORT_TORCH:
                found.append(f"{module} imports torch")
            if library in SLOW and one.at_once:
                found.append(f"{module} imports {library} when it is itself imported")
    return found


def test_every_module_is_in_a_room_of_the_table_and_every_room_is_there() -> None:
    found = {room_of(module) for module in MODULES} - {"", "__main__"}
    assert found == set(rooms())
    assert len(rooms()) == len(set(rooms()))


def test_rooms_import_only_rooms_above_them() -> None:
    order = [*rooms(), "__main__"]
    # The package itself hands out `Workspace`, which is imported when it is asked for.
    inner = {name: path for name, path in MODULES.items() if name != "nightschool"}
    assert [text for name, path in inner.items() for text in wrong(name, path.read_text(), order)] == []
    assert not [one for one in imports(MODULES["nightschool"].read_text()) if one.at_once and "nightschool" in one.name]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nightschool.ledger.files", "from nightschool.supervisor import policies"),
        ("nightschool.durable.lock", "def f():\n    import nightschool.ledger.ledger"),
        ("nightschool.supervisor.run", "def f():\n    from nightschool.training import trainer"),
        ("nightschool.verify", "from nightschool.training.checkpoint import choose"),
        ("nightschool.intake.rows", "def f():\n    import torch"),
        ("nightschool.api.workspace", "import torch"),
        ("nightschool.intake.packing", "import pyarrow.ipc"),
        ("nightschool.intake.packing", "if True:\n    from trl import pack_dataset"),
        ("nightschool.errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nightschool.cli.app"),
    ],
)
def test_control_a_wrong_import_is_found(module: str, source: str) -> None:
    assert wrong(module, source, rooms())
