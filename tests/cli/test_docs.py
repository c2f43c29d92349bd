"""What the pages say is what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from nightschool import errors
from nightschool.cli.app import COMMANDS
from nightschool.settings import sections

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(generate: ModuleType) -> None:
    assert generate.main(check=True) == 0, "run python docs/generate.py"


def test_control_a_page_that_lacks_a_command_is_found(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in generate.PAGES:
        (tmp_path / name).write_text((DOCS / name).read_text())
    monkeypatch.setattr(generate, "HERE", tmp_path)
    page = tmp_path / "cli.md"
    page.write_text(page.read_text().replace("--until-idle", "--until-done"))
    assert generate.main(check=True) == 1
    assert generate.main(check=False) == 0
    assert generate.main(check=True) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    text = (DOCS / "cli.md").read_text()
    assert f"\n## {command}\n" in text
    assert f"Usage: nightschool {command} " in text


def test_every_module_in_the_folder_is_a_command_or_shared() -> None:
    import nightschool.cli

    folder = Path(str(nightschool.cli.__file__)).parent
    assert {p.stem for p in folder.glob("*.py")} - {"__init__", "app", "common"} == set(COMMANDS)


def test_every_exit_code_is_documented() -> None:
    text = (DOCS / "cli.md").read_text().partition("## Exit codes")[2]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    own = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.NightschoolError)}
    assert codes == own | {0, 2, 130}


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    for section, model in sections().items():
        part = text.partition(f"\n## [{section}]\n")[2].partition("\n## ")[0]
        for key, field in model.model_fields.items():
            assert f"| `{key}` |" in part
            assert (field.description or "").replace("|", "\\|") in part
