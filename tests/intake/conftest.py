"""Shared folders of the intake tests: tokenizers are made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


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
