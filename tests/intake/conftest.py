"""Shared folders of the intake tests: tokenizers are made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny

from .workspaces import Workspace


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template has generation markers."""
    return tiny.make_tokenizer(tmp_path_factory.mktemp("marked"))


@pytest.fixture(scope="session")
def unmarked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template has none."""
    return tiny.make_tokenizer(tmp_path_factory.mktemp("unmarked"), generation_markers=False)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer without a template."""
    return tiny.make_tokenizer(tmp_path_factory.mktemp("bare"), template=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what intake needs of a base model: a configuration and a tokenizer."""
    folder = tiny.make_tokenizer(tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Workspace:
    """A workspace whose base model is a tiny one."""
    return Workspace(tmp_path / "w", model)
