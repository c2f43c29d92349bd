"""Tokens, and which of them stand for which characters, in less time than the tokenizer takes for both.

The `tokenizers` library keeps for every token the characters it stands for, and that costs a good part of tokenising.
Where the tokens of a text, put one behind the other, spell exactly its bytes, everybody can tell where each of them
stands, and the library need not. That they do is checked for every single text; for one where they do not, and for
every kind of tokenizer of which this is not known, the library is asked as before (`tokens_between`).
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Span = tuple[int, int]


class Spelling:
    """A tokenizer whose tokens spell the bytes of a text, used without what transformers puts around it.

    Its settings (truncation, padding, special tokens) are used as they are: transformers sets them when it is called
    for the first time, and that must be over. Several threads may use it at once.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._pieces = _Pieces(backend)

    def ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """The tokens of texts, with `special` also those that the tokenizer puts around them."""
        return [found.ids for found in self._backend.encode_batch_fast(texts, add_special_tokens=special)]

    def spans(self, text: str, ids: Sequence[int], array: np.ndarray, spans: Sequence[Span]) -> list[Span] | None:
        """What `tokens_between` finds for each (start, stop) of characters; None if the tokens do not spell the text.

        Args:
            text: what was tokenised.
            ids: its tokens.
            array: the same as an array.
            spans: characters, the first and the one behind the last; at least one character each.
        """
        data = text.encode()
        if not self._pieces.spell(data, ids):
            return None
        if len(data) != len(text):
            spans = [(len(text[:start].encode()), len(text[:stop].encode())) for start, stop in spans]
        ends = self._pieces.sizes[array].cumsum()
        # From the first token that ends behind the start to the last that begins before the stop, where the one before
        # it ends.
        return [(bisect_right(ends, start), bisect_left(ends, stop)) for start, stop in spans]


def spelling(tokenizer: Any) -> Spelling | None:
    """A quicker way to the same tokens and places, for a tokenizer of transformers of which it is known to be the same.

    None for all others: those that change the text, that call a part of a character or of the white space a place of
    its own, or whose class does more than to pass the text on.
    """
    try:
        from transformers.tokenization_utils_base import PreTrainedTokenizerBase
        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        kind, backend = type(tokenizer), tokenizer._tokenizer
        passes_on = (
            kind.__call__ is PreTrainedTokenizerBase.__call__
            and kind._encode_plus is TokenizersBackend._encode_plus
            and not hasattr(tokenizer, "_switch_to_input_mode")
        )
        return Spelling(backend) if passes_on and _spells(backend) else None
    except Exception:
        return None  # another version of the library, or no such tokenizer at all


def _spells(backend: Any) -> bool:
    """Whether a tokenizer is one over bytes that leaves the text and the places of tokens as they are."""
    before, after = _parts(backend.pre_tokenizer, "pretokenizers"), _parts(backend.post_processor, "processors")
    return (
        type(backend.model).__name__ == "BPE"
        and not backend.model.dropout
        and all(part["type"] == "NFC" for part in _parts(backend.normalizer, "normalizers"))
        and any(part["type"] == "ByteLevel" for part in before)
        and not any(part.get("add_prefix_space") for part in before)
        # Trimmed, the white space of a token is in none.
        and all(part["type"] in ("ByteLevel", "TemplateProcessing") for part in after)
        and not any(part.get("trim_offsets") for part in after)
    )


def _parts(component: Any, several: str) -> list[dict[str, Any]]:
    """What a component of a tokenizer says of itself, or of those that it is a sequence of."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return state[several] if state["type"] == "Sequence" else [state]


class _Pieces:
    """The bytes that each token spells, found when they are first asked for. `sizes` has how many they are."""

    def __init__(self, backend: Any) -> None:
        import numpy as np

        self._backend = backend
        self._added = {number: token.content.encode() for number, token in backend.get_added_tokens_decoder().items()}
        self._bytes = _alphabet()
        self._known: list[bytes | None] = []
        self._learning = Lock()
        self.sizes = np.zeros(0, np.int64)

    def spell(self, data: bytes, ids: Sequence[int]) -> bool:
        """Whether two or more tokens spell these bytes. If so, their `sizes` are known."""
        if len(ids) < 2:
            return False  # `itemgetter` gives a tuple only for two and more
        look_up = itemgetter(*ids)
        try:
            return b"".join(look_up(self._known)) == data
        except (IndexError, TypeError):  # one that is not known yet
            with self._learning:
                self._learn(ids)
            return b"".join(look_up(self._known)) == data

    def _learn(self, ids: Sequence[int]) -> None:
        import numpy as np

        if (more := max(ids) + 1 - len(self._known)) > 0:
            more += len(self._known)
            # In this order, here and below: another thread that finds the bytes finds their number too.
            self.sizes = np.concatenate([self.sizes, np.zeros(more, np.int64)])
            self._known.extend([None] * more)
        for token in ids:
            if self._known[token] is None:
                piece = self._piece(token)
                self.sizes[token] = len(piece)
                self._known[token] = piece

    def _piece(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        written = [self._bytes.get(letter) for letter in self._backend.id_to_token(token)]
        # A byte that no text has in UTF-8: whatever holds such a token is not spelled by it.
        return b"\xff" if None in written else bytes(byte for byte in written if byte is not None)


def _alphabet() -> dict[str, int]:
    """The letters by which tokenizers write bytes: printable ones as they are in Latin-1, the others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def tokens_between(encoding: Any, count: int, start: int, stop: int) -> Span:
    """What `tokens_of` finds, in a few calls where both ends of the characters lie inside of tokens.

    Args:
        encoding: of a text, as the `tokenizers` library gives it; the others as there.
    """
    first, behind = encoding.char_to_token(start), encoding.char_to_token(stop - 1)
    chars = encoding.token_to_chars
    if first is None or behind is None:
        return tokens_of(chars, count, start, stop)
    behind += 1
    # Several tokens may stand for one character; for those of no width see below.
    while behind < count and ((place := chars(behind))[0] < stop or place == (stop, stop)):
        behind += 1
    return first, behind - 1


def tokens_of(chars: Callable[[int], Span], count: int, start: int, stop: int) -> Span:
    """The first and the last token of the characters from `start` up to `stop`; none if the first is behind the last.

    Looks at a few tokens only: making a list of where all of them stand takes as long as a good part of tokenising.

    Args:
        chars: gives the characters (from, up to) of a token; neither goes back from one token to the next.
        count: number of tokens.
        start: first character.
        stop: the one behind the last.
    """
    first = bisect_right(range(count), start, key=lambda token: chars(token)[1])
    behind = bisect_left(range(count), stop, lo=first, key=lambda token: chars(token)[0])
    # Some tokenizers trim white space off the places: then a token of nothing else has a width of zero, at its end,
    # and still belongs here if that is where the span ends.
    while behind < count and chars(behind) == (stop, stop):
        behind += 1
    return first, behind - 1
