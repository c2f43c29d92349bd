"""What `preview` warns of: rows that can be learned, but perhaps not to the effect that is wanted. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nightschool.intake.shapes import Chat, Shape

if TYPE_CHECKING:
    from nightschool.intake.template import Template
    from nightschool.intake.tokenise import Encoded

_THINKS = re.compile(r"\benable_thinking\b|<think>|\breasoning_content\b")
_REASONING = ("reasoning_content", "reasoning", "thinking")


def warnings(
    tokenizer: Any,
    template: Template,
    rows: Mapping[int, Shape],
    encoded: Iterable[Encoded],
    kwargs: Mapping[str, Any] | None = None,
) -> list[str]:
    """What is odd about some rows, as sentences; each says in how many rows and where first.

    Args:
        tokenizer: the model's.
        template: the one that the chats were rendered with.
        rows: what the rows mean, by number. Rows that are not in it are passed over.
        encoded: the same rows as tokens, before anything is cut or packed.
        kwargs: `model.chat_template_kwargs`.

    Returns:
        at most one sentence each of: a thinking model meets rows without thinking; an answer has no end token; a begin
        token stands twice.
    """
    seen = 0
    chats = 0
    thoughtless, endless, twice = _Tally(), _Tally(), _Tally()
    thinks = any(_THINKS.search(text) for text in (template.text, tokenizer.chat_template or ""))
    bos, special = tokenizer.bos_token_id, set(tokenizer.all_special_ids)
    blanks = _Blanks(tokenizer)
    for result in encoded:
        row = rows.get(result.number)
        if row is None:
            continue
        seen += 1
        ids = result.ids.tolist()
        if isinstance(row, Chat):
            chats += 1
            if thinks and {**(kwargs or {}), **row.template_kwargs}.get("enable_thinking") is not False:
                thoughtless.add(result.number, not any(map(_holds_thinking, row.messages)))
        if template.how != "all" or not isinstance(row, Chat):
            endless.add(
                result.number, not all(_ended(ids, run, special, blanks) for run in _runs(result.train.tolist()))
            )
        twice.add(result.number, bos is not None and ids[:2] == [bos, bos])
    found = []
    if thoughtless.count:
        found.append(
            f"The model's chat template knows thinking, but {thoughtless.of(chats)} hold none: learning them "
            "teaches the model to answer without it. If that is wanted, set "
            "model.chat_template_kwargs = {enable_thinking = false}."
        )
    if endless.count:
        found.append(
            f"{endless.of(seen)} have an answer without an end token: the model does not learn when to stop. "
            "Look at the chat template (model.chat_template) and at the tokenizer's eos_token."
        )
    if twice.count:
        found.append(
            f"{twice.of(seen)} begin with the token {tokenizer.bos_token} twice: it stands in the text "
            "as well as in what is put before it. Take it out of the rows or of the chat template."
        )
    return found


class _Tally:
    """How many rows something is true of, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0

    def add(self, number: int, true: bool) -> None:
        if true:
            self.count += 1
            self.first = min(self.first or number, number)

    def of(self, total: int) -> str:
        """In words: "3 of 20 rows (first: row 4)"."""
        return f"{self.count} of {total} rows (first: row {self.first})"


class _Blanks:
    """Whether a token is white space, decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bool] = {}

    def __call__(self, token: int) -> bool:
        if token not in self._known:
            self._known[token] = not self._tokenizer.decode([token]).strip()
        return self._known[token]


def _holds_thinking(message: dict[str, Any]) -> bool:
    if message["role"] != "assistant":
        return False
    return "<think>" in message["content"] or any(message.get(key) for key in _REASONING)


def _runs(train: list[int]) -> list[tuple[int, int]]:
    """(first, behind the last) of each run of learned tokens."""
    found = []
    start = None
    for index, flag in enumerate([*train, 0]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            found.append((start, index))
            start = None
    return found


def _ended(ids: list[int], run: tuple[int, int], special: set[int], blanks: _Blanks) -> bool:
    """Whether a run of learned tokens ends with a special one, white space behind it aside."""
    start, stop = run
    while stop > start and ids[stop - 1] not in special and blanks(ids[stop - 1]):
        stop -= 1
    return stop > start and ids[stop - 1] in special
