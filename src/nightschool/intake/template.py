"""Chat templates: which one is used to train with, and the date that it is told."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from nightschool.errors import DataError, SettingsError

DEFAULT_TEMPLATE = (
    "%BOS%{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + (eos_token or '') }}{% endgeneration %}"
    "{% else %}{{ message['content'] + (eos_token or '') }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For base models that come without a template: ChatML, but a turn ends with the model's own end-of-sequence token, so
that generation stops there without any new token. `<|im_start|>` is plain text to such a tokenizer."""

How = Literal["markers", "trl", "prefix", "all"]
"""How the assistant's part is found: by markers in the model's template, by those in the version that trl keeps of it,
by rendering and comparing; or everything is learned."""


@dataclass(frozen=True)
class Template:
    """The template that chats are rendered with, and how the assistant's part is found in the result."""

    text: str
    how: How
    special: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def dated(self) -> bool:
        """Whether the text asks for today's date."""
        return "strftime_now" in self.text


def own_template(tokenizer: Any, file: Path | None = None) -> str:
    """The template for talking with the model: the one in `file`, else the tokenizer's, else the default.

    Raises:
        SettingsError: `file` cannot be read.
    """
    if file is not None:
        try:
            return file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The file {file} in `model.chat_template` cannot be read: {error}.") from None
    text = tokenizer.chat_template
    if isinstance(text, dict):
        text = text.get("default")
    if text:
        return text
    writes_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return DEFAULT_TEMPLATE.replace("%BOS%", "{{ bos_token }}" if writes_bos else "")


def choose(tokenizer: Any, loss_on: str, file: Path | None = None) -> Template:
    """Choose the template to train with. Sets `tokenizer.chat_template` to the one for talking with the model.

    Raises:
        SettingsError: `file` cannot be read, or the template is no valid Jinja.
    """
    text = own_template(tokenizer, file)
    _check_syntax(text, file)
    tokenizer.chat_template = text
    special = dict(tokenizer.special_tokens_map)
    if loss_on == "all":
        return Template(text, "all", special)
    if _MARKER.search(text):
        return Template(text, "markers", special)
    marked = _marked_by_trl(tokenizer)
    if marked is not None and _MARKER.search(marked):
        return Template(marked, "trl", special)
    return Template(text, "prefix", special)


def _check_syntax(text: str, file: Path | None) -> None:
    """A template that does not even parse is no fault of the rows."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template(conversations=[[]], chat_template=text)
    except TemplateSyntaxError as error:
        where = f"in {file}" if file else "of the base model"
        raise SettingsError(
            f"The chat template {where} is no valid Jinja (line {error.lineno}: {error.message}). "
            "Correct it, or name another file in `model.chat_template`."
        ) from None
    except Exception:
        return  # it parses; what it thinks of an empty chat is no matter


_MARKER = re.compile(r"\{%-?\s*generation\s*[-+]?%\}")


def _marked_by_trl(tokenizer: Any) -> str | None:
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except Exception:
        # It renders probes with a template that may refuse anything. Failing to is as good as not knowing it.
        return None


# --- the date

_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZC"


def date_macro(date: str) -> str:
    """A Jinja macro that takes the place of `strftime_now` and always says `date` (YYYY-MM-DD), at midnight.

    It must be part of the text: a function passed in as a variable reaches a template as an inert string.
    """
    day = datetime.strptime(date, "%Y-%m-%d")
    steps = ["replace('%%', '\\x00')"]
    for character in _DIRECTIVES:
        for directive in (f"%{character}", f"%-{character}"):
            value = day.strftime(directive).replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
            steps.append(f"replace('{directive}', '{value}')")
    steps.append("replace('\\x00', '%')")
    # The plus keeps the template's own first line break from being trimmed.
    return "{% macro strftime_now(format) %}{{ format | " + " | ".join(steps) + " }}{% endmacro +%}"


def check_date(date: str | None) -> None:
    """Raise DataError unless `date` is None or YYYY-MM-DD."""
    try:
        if date is not None:
            datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise DataError(f"{date!r} is no date of the form YYYY-MM-DD.") from None
