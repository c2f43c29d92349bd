"""Names in `machine.yield_to`. Whether such a program runs is tested in `tests/supervisor/test_others.py`."""

from __future__ import annotations

import pytest

from nightschool.errors import SettingsError
from nightschool.settings import parse_settings
from nightschool.yielding import check_names


@pytest.mark.parametrize("name", ["", " ", "steam ", "/usr/bin/steam", "bin/steam", ".", "..", "a\0b"])
def test_a_name_that_no_program_has_is_refused_when_the_settings_are_read(name: str) -> None:
    with pytest.raises(SettingsError, match=r"machine\.yield_to"):
        check_names(["ollama", name])
    with pytest.raises(SettingsError, match=r"machine\.yield_to"):
        parse_settings({"model": {"name": "m"}, "machine": {"yield_to": [name]}})


def test_control_names_that_programs_have_are_taken() -> None:
    names = ["steam", "ollama", "python3.12", "a b", "größe", "Xorg"]
    check_names(names)
    check_names([])
    assert parse_settings({"model": {"name": "m"}, "machine": {"yield_to": names}}).machine.yield_to == names
