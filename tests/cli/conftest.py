from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightschool.cli import main
from nightschool.workspace import Layout


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command; arguments as on the command line."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a base model; nothing here loads it."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def layout(cli: Run, model: Path, tmp_path: Path) -> Layout:
    """A new workspace."""
    found = Layout(tmp_path / "ws")
    assert cli("init", found.root, "--model", model).code == 0
    return found


@pytest.fixture
def here(cli: Run, layout: Layout) -> Run:
    """Run one command on that workspace."""
    return lambda *arguments: cli("-C", layout.root, *arguments)
