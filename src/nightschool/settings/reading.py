"""Reading `nightschool.toml`: every problem is named, with what to write instead."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nightschool import hours, optimizers, schedule, yielding
from nightschool.errors import SettingsError
from nightschool.foreign import FOREIGN_NAMES, lora_keys
from nightschool.lora_options import check_lora
from nightschool.settings.schema import Settings, sections

SECRET = ("notify", "page")
"""Sections whose values are not shown: there are passwords in addresses, and a token."""


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: as of `read_toml`, or a key is unknown or malformed; every problem is named, with the nearest
            known key or, for the names other trainers use, ours.
    """
    return parse_settings(read_toml(path), str(path), base=path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """What a settings file says, unchecked.

    Raises:
        SettingsError: it is missing, cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing. `nightschool init` writes one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}. Give this user the right to read it.") from None


def parse_settings(raw: dict[str, Any], where: str = "settings", base: Path | None = None) -> Settings:
    """Check settings given as nested dicts; see `load_settings`. Relative model folders are read from `base`."""
    problems = [*_unknown(raw)]
    if not problems:
        try:
            settings = Settings.model_validate(raw)
        except ValidationError as error:
            problems = [_sentence(e) for e in error.errors()]
        else:
            problems = _not_offered(settings)
            if not problems:
                return _resolved(settings, base)
    raise SettingsError(f"{where}: " + " ".join(problems))


def _not_offered(settings: Settings) -> list[str]:
    """What is well-formed but does not resume to the same bits, or needs an end that this run does not have."""
    checks: list[tuple[Callable[[Any], Any], Any]] = [
        (schedule.check_name, settings.training.lr_scheduler_type),
        (optimizers.check_name, settings.training.optimizer),
        (hours.parse, settings.machine.hours),
        (yielding.check_names, settings.machine.yield_to),
    ]
    if settings.training.method == "lora":
        checks.append((check_lora, settings.lora_config()))
    problems = []
    for check, value in checks:
        try:
            check(value)
        except SettingsError as error:
            problems.append(str(error))
    return problems


def _resolved(settings: Settings, base: Path | None) -> Settings:
    """Paths in the file are meant from the file's own folder, not from where the command runs; ~ is the user's home."""
    changed: dict[str, Any] = {}
    for key in ("name", "chat_template"):
        value = getattr(settings.model, key)
        if not value:
            continue
        # Here and nowhere else, so that all who read the settings mean the same file.
        meant = os.path.expanduser(value)  # noqa: PTH111 (leaves the home of an unknown user as it is)
        if base is not None and not Path(meant).is_absolute() and (base / meant).exists():
            meant = str((base / meant).resolve())
        if meant != value:
            changed[key] = meant
    return settings.model_copy(update={"model": settings.model.model_copy(update=changed)}) if changed else settings


def _unknown(raw: dict[str, Any]) -> list[str]:
    known = sections()
    problems = []
    for section, content in raw.items():
        if section == "lora" and isinstance(content, dict):
            names = lora_keys()
            problems += [_advice("lora", key, names) for key in content if names and key not in names]
        elif section not in known:
            every = [f"{s}.{k}" for s, m in known.items() for k in m.model_fields]
            problems.append(_advice("", section, [*known, "lora"], every))
        elif isinstance(content, dict):
            names = list(known[section].model_fields)
            every = [f"{s}.{k}" for s, m in known.items() for k in m.model_fields]
            problems += [_advice(section, key, names, every) for key in content if key not in names]
    return problems


def _advice(section: str, key: str, names: list[str], elsewhere: list[str] | None = None) -> str:
    full = f"{section}.{key}" if section else key
    if key in FOREIGN_NAMES:
        return f"`{full}` is another program's name: {FOREIGN_NAMES[key]}."
    moved = [e for e in elsewhere or [] if e.split(".")[1] == key]
    if moved:
        return f"`{full}` is unknown here: it is `{moved[0]}`."
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = (
        f"did you mean `{section + '.' if section else ''}{near[0]}`?"
        if near
        else f"known: {', '.join(sorted(names))}."
    )
    return f"`{full}` is unknown; {hint}"


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"`{name}` is missing."
    message = error["msg"].removeprefix("Value error, ")
    if error["loc"][:1] and error["loc"][0] in SECRET:
        return f"`{name}`: {message}."
    return f"`{name}`: {message} (it is {error['input']!r})." if name else f"{message}."
