"""From shapes to tokens and to the mask that says which of them are learned.

    chat                 what the assistant wrote in every answer, with the token that ends the turn
    prompt+completion    the completion and the end-of-sequence token
    text                 everything, and the end-of-sequence token

With `loss_on = "all"` every token is learned. Special tokens at the start are those that the tokenizer adds to plain
text; for chats it is the template that writes them, and none is added again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool.errors import ModelError
from nightschool.intake import template as templates
from nightschool.intake.rows import PREVIEW, BadRow
from nightschool.intake.shapes import Chat, Pair, RowError, Shape, Text
from nightschool.intake.template import Span, Template

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 128
BATCH_CHARACTERS = 1 << 19
"""Rows go to the tokenizer in batches of at most this size (or one row), so that its many small objects stay few."""


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: `ids` int32 and `train` int8 of one length; `number` is the row's, as reports name it."""

    number: int
    shape: str
    ids: np.ndarray
    train: np.ndarray


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a base model folder. Nothing is downloaded.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code, clean_up_tokenization_spaces=False
        )
    except Exception as error:
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}") from error


class Tokeniser:
    """Turns checked rows into tokens and masks. Gives the same for a row whatever other rows come with it."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        kwargs: dict[str, Any] | None = None,
        date: str | None = None,
    ) -> None:
        templates.check_date(date)
        self._tokenizer = tokenizer
        self._template = template
        self._all = template.how == "all"
        self._kwargs = kwargs or {}
        self._date = date
        self._eos: int | None = tokenizer.eos_token_id
        self._special = set(tokenizer.all_special_ids)
        self._ending: list[int] | None = None

    def encode(self, rows: Iterable[tuple[int, Shape | BadRow]]) -> Iterator[Encoded | BadRow]:
        """Encode rows, each with its number, a batch at a time and in their order.

        What cannot be used comes out as a BadRow, perhaps before usable rows that came earlier.
        """
        batch: list[tuple[int, Shape, str, list[Span]]] = []
        size = 0
        for number, row in rows:
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                batch.append((number, row, *self._text(row)))
            except RowError as error:
                yield BadRow(number, error.reason, error.detail, _preview(row))
                continue
            size += len(batch[-1][2])
            if len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
                yield from self._flush(batch)
                batch, size = [], 0
        yield from self._flush(batch)

    def _text(self, row: Shape) -> tuple[str, list[Span]]:
        if isinstance(row, Text):
            return row.text, []
        if isinstance(row, Pair):
            return row.prompt + row.completion, []
        if not self._tokenizer.is_fast and not self._all:
            raise ModelError(
                f"The tokenizer {type(self._tokenizer).__name__} cannot say which characters a token stands for, so "
                'the answers of a chat cannot be found. Set data.loss_on = "all", or use a model with a tokenizer.json.'
            )
        return templates.render(self._template, row, self._kwargs, self._date)

    def _flush(self, batch: list[tuple[int, Shape, str, list[Span]]]) -> Iterator[Encoded | BadRow]:
        """Encode a batch: one call for the chats, one for all plain text, one for the prompts alone."""
        import numpy as np

        chats = [i for i, entry in enumerate(batch) if isinstance(entry[1], Chat)]
        plain = [i for i, entry in enumerate(batch) if not isinstance(entry[1], Chat)]
        pairs = [i for i in plain if isinstance(batch[i][1], Pair)]
        ids: dict[int, list[int]] = {}
        offsets: dict[int, list[Span]] = {}
        if chats:
            texts = [batch[i][2] for i in chats]
            found = self._call(texts, add_special_tokens=False, return_offsets_mapping=not self._all)
            ids.update(zip(chats, found["input_ids"], strict=True))
            if not self._all:
                offsets.update(zip(chats, found["offset_mapping"], strict=True))
        if plain:
            ids.update(zip(plain, self._call([batch[i][2] for i in plain])["input_ids"], strict=True))
        prompts: dict[int, list[int]] = {}
        if pairs:
            texts = [row.prompt for i in pairs if isinstance(row := batch[i][1], Pair)]
            prompts.update(zip(pairs, self._call(texts)["input_ids"], strict=True))
        for i, (number, row, _, spans) in enumerate(batch):
            tokens = ids.pop(i)
            if not isinstance(row, Chat) and self._eos is not None and (not tokens or tokens[-1] != self._eos):
                tokens = [*tokens, self._eos]
            array = np.array(tokens, dtype=np.int32)
            if self._all or isinstance(row, Text):
                train = np.ones(len(array), dtype=np.int8)
            elif isinstance(row, Pair):
                train = np.ones(len(array), dtype=np.int8)
                train[: _common(prompts[i], tokens)] = 0
            else:
                train = self._mask(tokens, offsets.pop(i), spans)
            # Nothing comes before the first token to predict it from.
            train[:1] = 0
            if train.any():
                yield Encoded(number, row.shape, array, train)
            else:
                yield BadRow(number, "no tokens to learn", self._why(row), _preview(row))

    def _call(self, texts: list[str], **options: Any) -> Any:
        return self._tokenizer(
            texts, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
        )

    def _mask(self, tokens: list[int], offsets: list[Span], spans: list[Span]) -> np.ndarray:
        """Mark the tokens of the character spans, and the end of each turn."""
        import numpy as np

        train = np.zeros(len(tokens), dtype=np.int8)
        where = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        for start, stop in spans:
            # Some tokenizers trim white space off the offsets: then a token of nothing else has a width of zero, at its
            # end, and still belongs here if that is where the span ends.
            trimmed = (where[:, 0] == where[:, 1]) & (where[:, 1] == stop)
            inside = np.flatnonzero((where[:, 1] > start) & ((where[:, 0] < stop) | trimmed))
            if not len(inside):
                continue
            first, last = int(inside[0]), int(inside[-1])
            if self._template.how == "prefix":
                last = self._without_space(tokens, first, last)
            train[first : last + 1] = 1
            ending = self._end_of_turn()
            if ending and tokens[last + 1 : last + 1 + len(ending)] == ending:
                train[last + 1 : last + 1 + len(ending)] = 1
        return train

    def _without_space(self, tokens: list[int], first: int, last: int) -> int:
        """The last token of a turn: white space that a template writes behind the token that ends it is not learned."""
        end = last
        while end > first and tokens[end] not in self._special and not self._tokenizer.decode([tokens[end]]).strip():
            end -= 1
        return end if tokens[end] in self._special else last

    def _end_of_turn(self) -> list[int]:
        if self._ending is None:
            self._ending = templates.end_of_turn(self._tokenizer, self._template, self._kwargs, self._date)
        return self._ending

    def _why(self, row: Shape) -> str:
        if isinstance(row, Chat):
            roles = {message["role"] for message in row.messages[row.given :]}
            if "assistant" not in roles:
                return f'no message has the role "assistant"; the roles are {", ".join(sorted(roles))[:200]}'
            return "the chat template marks nothing of the assistant's messages"
        return "nothing follows the first token"


def _preview(row: Shape) -> str:
    if isinstance(row, Chat):
        return json.dumps(row.messages, ensure_ascii=False)[:PREVIEW]
    return (row.text if isinstance(row, Text) else row.prompt + row.completion)[:PREVIEW]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two lists have in common at their start.

    For a prompt, and the same prompt with its completion: a token that spans the boundary belongs to the completion.
    """
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
