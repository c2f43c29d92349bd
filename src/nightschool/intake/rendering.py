"""What a chat renders to, and which characters of it the assistant wrote.

The assistant's part is found in one of these ways, in this order: `{% generation %}` markers in the template; the
marked version that trl keeps of a known template; rendering the chat up to each answer and comparing (`_by_prefix`);
and, for an answer that the template writes differently once more follows, rendering the whole chat with another text in
its place (`_by_content`). The last two are checked, and refuse the row rather than guess.

What a template silently leaves out would be learned as if it had never been there: such a row is refused too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from nightschool.intake.quickly import REASONING, quickly
from nightschool.intake.shapes import Chat, RowError
from nightschool.intake.template import Template, date_macro

Span = tuple[int, int]
"""Characters of a text: the first, and the one behind the last."""

Messages = list[dict[str, Any]]


def render(template: Template, chat: Chat, kwargs: dict[str, Any], date: str | None) -> tuple[str, list[Span]]:
    """Render a chat; returns the text and the (start, stop) characters that are to be learned, in order.

    Args:
        template: the one chosen.
        chat: the row.
        kwargs: passed to the template; those of the row come over them.
        date: YYYY-MM-DD that the template is told when it asks for today's.

    Raises:
        RowError: the template refuses the chat or leaves a part of it out, or the assistant's part cannot be found.
    """
    if chat.tools or any("tool_calls" in message for message in chat.messages):
        _check_tools(template, chat)
    try:
        return _render(_Renderer(template, chat, kwargs, date, _as_they_are), chat)
    except RowError:
        for form in _other_forms(template, chat.messages):
            try:
                return _render(_Renderer(template, chat, kwargs, date, form), chat)
            except RowError:
                continue
        raise


def _render(draw: _Renderer, chat: Chat) -> tuple[str, list[Span]]:
    template = draw.template
    if template.how == "prefix":
        text, spans = _by_prefix(draw, chat)
    elif template.how == "all":
        text, spans = draw(chat.messages, mark=False)[0], []
        spans = [(0, len(text))]
    else:
        text, spans = draw(chat.messages, mark=True)
    for index, message in enumerate(chat.messages):
        if message["content"].strip() not in text and not _writes(draw, chat.messages, index):
            raise RowError(
                "the chat template leaves a message out",
                f'message {index + 1}, with the role "{message["role"]}"; {_roles(chat.messages)}'[:500],
            )
    if chat.given:
        start = len(_common_start(draw, chat, text))
        spans = [(max(a, start), b) for a, b in spans if b > start]
    return text, [(a, b) for a, b in spans if b > a]


_STAND_IN = "zqnightschoolqz"
"""A text that no template treats in a way of its own, put where another stood to see what becomes of that place."""


def _with_stand_in(messages: Messages, index: int) -> Messages:
    return [*messages[:index], {**messages[index], "content": _STAND_IN}, *messages[index + 1 :]]


def _writes(draw: _Renderer, messages: Messages, index: int) -> bool:
    """Whether the template writes the content of a message at all: trimmed or shortened, it would not be found."""
    try:
        return _STAND_IN in draw(_with_stand_in(messages, index), mark=False)[0]
    except RowError:
        return True  # it looks into the content, so it does not pass it over


def _check_tools(template: Template, chat: Chat) -> None:
    if chat.tools and not _TOOLS.search(template.text):
        raise RowError("the chat template does not write tools", 'the row has "tools"; use a model that knows them')
    if "tool_calls" not in template.text and any("tool_calls" in message for message in chat.messages):
        raise RowError("the chat template does not write calls of tools", "a message of the row has one")


_TOOLS = re.compile(r"\btools\b")


def _other_forms(template: Template, messages: Messages) -> Iterator[Callable[[Messages], Messages]]:
    """Other ways to hand the same messages to a template, for one that wants them so; nothing in it says which.

    Most templates want the arguments of a call as an object, a few as JSON text. Most want the content as a string,
    those of models that see images a list of parts.
    """
    if any("tool_calls" in message for message in messages):
        yield _arguments_as_text
    if _PARTS.search(template.text):
        yield _content_as_parts


_PARTS = re.compile(r"""['"]text['"]|\.text\b""")


def _arguments_as_text(messages: Messages) -> Messages:
    return [
        {**message, "tool_calls": [_call_as_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _call_as_text(call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call_as_text(call["function"])}
    if isinstance(call.get("arguments"), dict):
        return {**call, "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return call


def _content_as_parts(messages: Messages) -> Messages:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def leaves_out_reasoning(chat: Chat, text: str) -> bool:
    """Whether the rendered text lacks reasoning that a message holds beside its content."""
    for message in chat.messages:
        if len(message) > 2:
            reasoning = next((r for key in REASONING if isinstance(r := message.get(key), str)), "")
            if reasoning.strip() not in text:
                return True
    return False


class _Renderer:
    """Renders messages of one chat with the variables that belong to it; `form` is applied to them first."""

    def __init__(
        self,
        template: Template,
        chat: Chat,
        kwargs: dict[str, Any],
        date: str | None,
        form: Callable[[Messages], Messages],
    ) -> None:
        self.template = template
        self._text = template.text
        if template.dated:
            if date is None:
                raise ValueError("a template that asks for the date needs one")
            self._text = _dated(template.text, date)
        self._kwargs = {**template.special, **kwargs, **chat.template_kwargs}
        self._tools = chat.tools
        self._form = form

    def __call__(self, messages: Messages, mark: bool, prompt: bool = False) -> tuple[str, list[Span]]:
        if self._form is _as_they_are and not self._tools:
            found = quickly(self._text, messages, self._kwargs, mark, prompt)
            if found is not None:
                return found
        return self._by_transformers(messages, mark, prompt)

    def _by_transformers(self, messages: Messages, mark: bool, prompt: bool) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[self._form(messages)],
                tools=list(self._tools) if self._tools else None,
                chat_template=self._text,
                return_assistant_tokens_mask=mark,
                add_generation_prompt=prompt,
                **self._kwargs,
            )
        except Exception as error:
            # A template is a program by someone else: whatever it raises is about this chat.
            raise RowError("the chat template refuses the chat", f"{_roles(messages)}; {error}"[:500]) from None
        if self._form is _content_as_parts and _A_PART in texts[0]:
            raise RowError("the chat template refuses the chat", "it writes lists as Python does")
        return texts[0], [(int(start), int(stop)) for start, stop in spans[0]] if mark else []


_A_PART = "{'type': 'text', 'text': "


def _as_they_are(messages: Messages) -> Messages:
    return messages


@lru_cache(maxsize=8)
def _dated(text: str, date: str) -> str:
    return date_macro(date) + text


def _by_prefix(draw: _Renderer, chat: Chat) -> tuple[str, list[Span]]:
    """The characters that each answer adds, checked: what comes before it, and the answer, must be in the whole."""
    whole, _ = draw(chat.messages, mark=False)
    spans = []
    last = len(chat.messages) - 1
    for index, message in enumerate(chat.messages):
        if message["role"] != "assistant" or index < chat.given:
            continue
        before = draw(chat.messages[:index], mark=False, prompt=True)[0]
        upto = whole if index == last else draw(chat.messages[: index + 1], mark=False)[0]
        if upto.startswith(before) and whole.startswith(upto):
            spans.append((len(before), len(upto)))
            continue
        span = _by_content(draw, chat.messages, index, whole)
        if span is None:
            raise RowError(
                "the chat template writes an answer in a way in which it cannot be told from the rest",
                f"message {index + 1}; put {{% generation %}} markers into the template (model.chat_template), "
                'or set data.loss_on = "all"',
            )
        spans.append(span)
    return whole, spans


def _by_content(draw: _Renderer, messages: Messages, index: int, whole: str) -> Span | None:
    """The characters that stand for a message's content, or None where that cannot be told for sure.

    The chat is rendered with another content in its place. Where everything before and after that is as it was, what
    lies between in the whole is what the template made of the real one. The end of the turn is not in it.
    """
    if not messages[index].keys() <= {"role", "content"}:
        return None  # calls and reasoning are written elsewhere in the turn
    try:
        other = draw(_with_stand_in(messages, index), mark=False)[0]
    except RowError:
        return None
    if other.count(_STAND_IN) != 1:
        return None
    before, after = other.split(_STAND_IN)
    if len(before) + len(after) > len(whole) or not (whole.startswith(before) and whole.endswith(after)):
        return None
    return len(before), len(whole) - len(after)


def _common_start(draw: _Renderer, chat: Chat, whole: str) -> str:
    given = draw(chat.messages[: chat.given], mark=False)[0]
    if not whole.startswith(given):
        raise RowError("the chat template writes the prompt differently once a completion follows")
    return given


def _roles(messages: Messages) -> str:
    roles = [str(message["role"]) for message in messages[:8]]
    return f"roles: {', '.join(roles)}{', …' if len(messages) > 8 else ''}"


def end_of_turn(tokenizer: Any, template: Template, kwargs: dict[str, Any], date: str | None) -> list[int]:
    """The tokens that a template writes behind its markers, or behind the content, to end an answer: up to the first
    special one.

    Empty where the markers hold the end themselves, or where the template writes none. Found with a small chat: what
    stands behind its last answer cannot be the beginning of another turn.
    """
    if template.how == "all":
        return []
    special = set(tokenizer.all_special_ids)
    for messages in (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "a"), ("assistant", "b"))],
    ):
        try:
            text, spans = render(template, Chat(messages), kwargs, date)
            if template.how == "prefix":
                draw = _Renderer(template, Chat(messages), kwargs, date, _as_they_are)
                span = _by_content(draw, messages, len(messages) - 1, text)
                spans = [span] if span else []
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
