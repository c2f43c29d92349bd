"""From shapes to tokens and to the mask that says which of them are learned.

    chat                 what the assistant wrote in every answer, with the token that ends the turn
    prompt+completion    the completion and the end-of-sequence token
    text                 everything, and the end-of-sequence token

With `loss_on = "all"` every token is learned. Special tokens at the start are those that the tokenizer adds to plain
text; for chats it is the template that writes them, and none is added again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool.errors import ModelError
from nightschool.intake import rendering
from nightschool.intake.rendering import Span
from nightschool.intake.rows import PREVIEW, BadRow
from nightschool.intake.shapes import REASONING_LEFT_OUT, Chat, Pair, RowError, Shape, Text
from nightschool.intake.spelling import Spelling, spelling, tokens_between
from nightschool.intake.template import Template, check_date

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 128
BATCH_CHARACTERS = 1 << 19
"""Rows go to the tokenizer in batches of at most this size (or one row), so that its many small objects stay few."""

THREADS = 2
"""Batches that are tokenised at the same time, while this thread renders: with one, it would wait for the tokenizer."""


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: `ids` int32 and `train` int8 of one length; `number` is the row's, as reports name it.

    `repairs` names what was put right in the row.
    """

    number: int
    shape: str
    ids: np.ndarray
    train: np.ndarray
    repairs: tuple[str, ...] = ()


@dataclass(slots=True)
class _Waiting:
    """A row on its way: its text, and the characters of it that are learned."""

    number: int
    row: Shape
    text: str
    spans: list[Span]
    repairs: tuple[str, ...]


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
        check_date(date)
        self._tokenizer = tokenizer
        self._template = template
        self._all = template.how == "all"
        self._kwargs = kwargs or {}
        self._date = date
        self._eos: int | None = tokenizer.eos_token_id
        self._special = set(tokenizer.all_special_ids)
        self._ending: list[int] | None = None
        self._blanks: dict[int, bool] = {}
        self._settled = False
        self._spelling: Spelling | None = None

    def encode(self, rows: Iterable[tuple[int, Shape | BadRow]]) -> Iterator[Encoded | BadRow]:
        """Encode rows, each with its number, a batch at a time and in their order.

        What cannot be used comes out as a BadRow, perhaps before usable rows that came earlier. While the tokenizer
        works on batches, outside of Python, the next ones are rendered.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizer") as pool:
            running: deque[tuple[list[_Waiting], Future[_Found]]] = deque()
            for batch in self._batches(rows):
                if isinstance(batch, BadRow):
                    yield batch
                    continue
                self._settle()
                running.append((batch, pool.submit(self._tokens, batch)))
                if len(running) > THREADS:
                    first, found = running.popleft()
                    yield from self._finish(first, found.result())
            for first, found in running:
                yield from self._finish(first, found.result())

    def _batches(self, rows: Iterable[tuple[int, Shape | BadRow]]) -> Iterator[list[_Waiting] | BadRow]:
        batch: list[_Waiting] = []
        size = 0
        for number, row in rows:
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                waiting = self._text(number, row)
            except RowError as error:
                yield BadRow(number, error.reason, error.detail, _preview(row))
                continue
            batch.append(waiting)
            size += len(waiting.text)
            if len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _text(self, number: int, row: Shape) -> _Waiting:
        if isinstance(row, Text):
            return _Waiting(number, row, row.text, [], ())
        if isinstance(row, Pair):
            return _Waiting(number, row, row.prompt + row.completion, [], ())
        if not self._tokenizer.is_fast and not self._all:
            raise ModelError(
                f"The tokenizer {type(self._tokenizer).__name__} cannot say which characters a token stands for, so "
                'the answers of a chat cannot be found. Set data.loss_on = "all", or use a model with a tokenizer.json.'
            )
        text, spans = rendering.render(self._template, row, self._kwargs, self._date)
        repairs = row.repairs
        if rendering.leaves_out_reasoning(row, text):
            repairs = (*repairs, REASONING_LEFT_OUT)
        return _Waiting(number, row, text, spans, repairs)

    def _settle(self) -> None:
        """Let the tokenizer change its settings while nothing else uses it: later several threads do."""
        if not self._settled:
            self._call(["a"])
            self._end_of_turn()
            self._spelling = spelling(self._tokenizer)
            self._settled = True

    def _tokens(self, batch: list[_Waiting]) -> _Found:
        """Call the tokenizer: once for the chats, once for all plain text, once for the prompts alone."""
        chats = [i for i, waiting in enumerate(batch) if isinstance(waiting.row, Chat)]
        plain = [i for i, waiting in enumerate(batch) if not isinstance(waiting.row, Chat)]
        pairs = [i for i in plain if isinstance(batch[i].row, Pair)]
        found = _Found({}, {}, {}, {})
        if chats and self._spelling is not None:
            chats = self._spelled(batch, chats, found)
        if chats:
            result = self._call([batch[i].text for i in chats], add_special_tokens=False)
            found.ids.update(zip(chats, result["input_ids"], strict=True))
            if not self._all:
                for i, encoding in zip(chats, result.encodings, strict=True):
                    count = len(found.ids[i])
                    found.spans[i] = [tokens_between(encoding, count, *span) for span in batch[i].spans]
        if plain:
            found.ids.update(zip(plain, self._plain([batch[i].text for i in plain]), strict=True))
        if pairs:
            texts = [row.prompt for i in pairs if isinstance(row := batch[i].row, Pair)]
            found.prompts.update(zip(pairs, self._plain(texts), strict=True))
        return found

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """The tokens of plain text, with the special ones around it."""
        if self._spelling is not None:
            return self._spelling.ids(texts, special=True)
        return self._call(texts)["input_ids"]

    def _spelled(self, batch: list[_Waiting], chats: list[int], found: _Found) -> list[int]:
        """Do what `_tokens` does for chats, in the quick way; those that are left over."""
        import numpy as np

        assert self._spelling is not None
        left = []
        for i, ids in zip(chats, self._spelling.ids([batch[i].text for i in chats]), strict=True):
            array = np.array(ids, dtype=np.int32)
            spans = [] if self._all else self._spelling.spans(batch[i].text, ids, array, batch[i].spans)
            if spans is None:
                left.append(i)
            else:
                found.ids[i], found.arrays[i], found.spans[i] = ids, array, spans
        return left

    def _finish(self, batch: list[_Waiting], found: _Found) -> Iterator[Encoded | BadRow]:
        import numpy as np

        for i, waiting in enumerate(batch):
            row, tokens = waiting.row, found.ids.pop(i)
            if not isinstance(row, Chat) and self._eos is not None and (not tokens or tokens[-1] != self._eos):
                tokens = [*tokens, self._eos]
            array = found.arrays.get(i)
            if array is None:
                array = np.array(tokens, dtype=np.int32)
            if self._all or isinstance(row, Text):
                train = np.ones(len(array), dtype=np.int8)
            elif isinstance(row, Pair):
                train = np.ones(len(array), dtype=np.int8)
                train[: _common(found.prompts[i], tokens)] = 0
            else:
                train = self._mask(tokens, found.spans[i])
            # Nothing comes before the first token to predict it from.
            train[:1] = 0
            if train.any():
                yield Encoded(waiting.number, row.shape, array, train, waiting.repairs)
            else:
                yield BadRow(waiting.number, "no tokens to learn", self._why(row), _preview(row))

    def _call(self, texts: list[str], **options: Any) -> Any:
        return self._tokenizer(
            texts, return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
        )

    def _mask(self, tokens: list[int], spans: list[Span]) -> np.ndarray:
        """Mark the tokens of the spans, and the end of each turn."""
        import numpy as np

        train = np.zeros(len(tokens), dtype=np.int8)
        ending = self._end_of_turn()
        for first, last in spans:
            if first > last:
                continue
            if self._template.how == "prefix":
                last = self._without_space(tokens, first, last)
            train[first : last + 1] = 1
            if ending and tokens[last + 1 : last + 1 + len(ending)] == ending:
                train[last + 1 : last + 1 + len(ending)] = 1
        return train

    def _without_space(self, tokens: list[int], first: int, last: int) -> int:
        """The last token of a turn: white space that a template writes behind the token that ends it is not learned."""
        end = last
        while end > first and tokens[end] not in self._special and self._is_blank(tokens[end]):
            end -= 1
        return end if tokens[end] in self._special else last

    def _is_blank(self, token: int) -> bool:
        blank = self._blanks.get(token)
        if blank is None:
            blank = self._blanks[token] = not self._tokenizer.decode([token]).strip()
        return blank

    def _end_of_turn(self) -> list[int]:
        if self._ending is None:
            self._ending = rendering.end_of_turn(self._tokenizer, self._template, self._kwargs, self._date)
        return self._ending

    def _why(self, row: Shape) -> str:
        if isinstance(row, Chat):
            roles = {message["role"] for message in row.messages[row.given :]}
            if "assistant" not in roles:
                return f'no message has the role "assistant"; the roles are {", ".join(sorted(roles))[:200]}'
            return "the chat template marks nothing of the assistant's messages"
        return "nothing follows the first token"


@dataclass(frozen=True, slots=True)
class _Found:
    """What the tokenizer found, by place in the batch.

    Attributes:
        ids: the tokens.
        arrays: the same as arrays, where they are made already.
        spans: of chats, the first and the last token of what is learned; none where the first is behind the last.
        prompts: tokens of the prompts alone.
    """

    ids: dict[int, list[int]]
    arrays: dict[int, np.ndarray]
    spans: dict[int, list[Span]]
    prompts: dict[int, list[int]]


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
