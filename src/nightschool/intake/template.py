"""Chat templates: which one is used, what its text renders to, and which characters of it the assistant wrote.

The assistant's part is found in one of three ways, in this order: `{% generation %}` markers in the template; the
marked version that trl keeps of a known template; else by rendering the chat up to each answer and comparing
(`_by_prefix`), which is checked and refuses a template that writes earlier turns differently later.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from nightschool.errors import DataError, SettingsError
from nightschool.intake.shapes import Chat, RowError

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
Span = tuple[int, int]


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


# --- rendering


def render(template: Template, chat: Chat, kwargs: dict[str, Any], date: str | None) -> tuple[str, list[Span]]:
    """Render a chat; returns the text and the (start, stop) characters that are to be learned, in order.

    Args:
        template: the one chosen.
        chat: the row.
        kwargs: passed to the template; those of the row come over them.
        date: YYYY-MM-DD that the template is told when it asks for today's.

    Raises:
        RowError: the template refuses the chat, or the assistant's part cannot be found.
    """
    draw = _Renderer(template, chat, kwargs, date)
    if template.how == "prefix":
        text, spans = _by_prefix(draw, chat)
    elif template.how == "all":
        text, spans = draw(chat.messages, mark=False)[0], []
        spans = [(0, len(text))]
    else:
        text, spans = draw(chat.messages, mark=True)
    if chat.given:
        start = len(_common_start(draw, chat, text))
        spans = [(max(a, start), b) for a, b in spans if b > start]
    return text, [(a, b) for a, b in spans if b > a]


class _Renderer:
    def __init__(self, template: Template, chat: Chat, kwargs: dict[str, Any], date: str | None) -> None:
        self._text = template.text
        if template.dated:
            if date is None:
                raise ValueError("a template that asks for the date needs one")
            self._text = date_macro(date) + template.text
        self._kwargs = {**template.special, **kwargs, **chat.template_kwargs}
        self._tools = chat.tools

    def __call__(self, messages: list[dict[str, Any]], mark: bool, prompt: bool = False) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[messages],
                tools=list(self._tools) if self._tools else None,
                chat_template=self._text,
                return_assistant_tokens_mask=mark,
                add_generation_prompt=prompt,
                **self._kwargs,
            )
        except Exception as error:
            # A template is a program by someone else: whatever it raises is about this chat.
            raise RowError("the chat template refuses the chat", f"{_roles(messages)}; {error}"[:500]) from None
        return texts[0], [(int(start), int(stop)) for start, stop in spans[0]] if mark else []


def _by_prefix(draw: _Renderer, chat: Chat) -> tuple[str, list[Span]]:
    """The characters that each answer adds, checked: what comes before it, and the answer, must be in the whole."""
    whole, _ = draw(chat.messages, mark=False)
    spans = []
    for index, message in enumerate(chat.messages):
        if message["role"] != "assistant" or index < chat.given:
            continue
        before = draw(chat.messages[:index], mark=False, prompt=True)[0]
        upto = draw(chat.messages[: index + 1], mark=False)[0]
        if not (upto.startswith(before) and whole.startswith(upto)):
            raise RowError(
                "the chat template writes an answer differently once more follows, so it cannot be told from the rest",
                f"message {index + 1}; put {{% generation %}} markers into the template (model.chat_template), "
                'or set data.loss_on = "all"',
            )
        spans.append((len(before), len(upto)))
    return whole, spans


def _common_start(draw: _Renderer, chat: Chat, whole: str) -> str:
    given = draw(chat.messages[: chat.given], mark=False)[0]
    if not whole.startswith(given):
        raise RowError("the chat template writes the prompt differently once a completion follows")
    return given


def _roles(messages: list[dict[str, Any]]) -> str:
    roles = [str(message["role"]) for message in messages[:8]]
    return f"roles: {', '.join(roles)}{', …' if len(messages) > 8 else ''}"


def end_of_turn(tokenizer: Any, template: Template, kwargs: dict[str, Any], date: str | None) -> list[int]:
    """The tokens that a marked template writes outside its markers to end an answer, up to the first special one.

    Empty where the markers hold the end themselves, or where the template writes none. Found with a small chat: what
    stands behind its last answer cannot be the beginning of another turn.
    """
    if template.how not in ("markers", "trl"):
        return []
    special = set(tokenizer.all_special_ids)
    for messages in (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "a"), ("assistant", "b"))],
    ):
        try:
            text, spans = render(template, Chat(messages), kwargs, date)
        except RowError:
            continue
        if not spans:
            continue
        inside = tokenizer(text[spans[-1][0] : spans[-1][1]].rstrip(), add_special_tokens=False)["input_ids"]
        if inside and inside[-1] in special:
            return []
        after = tokenizer(text[spans[-1][1] :], add_special_tokens=False)["input_ids"]
        for index, token in enumerate(after):
            if token in special:
                return after[: index + 1]
            if tokenizer.decode([token]).strip():
                break
        return []
    return []


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
