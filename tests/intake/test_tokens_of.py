"""Finding a mask without listing where every token stands: the same as with the list, for every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from nightschool.intake.spelling import tokens_between, tokens_of

LETTERS = [*"abcxyz .,<|>\n", "é", "ß"]


def byte_level(trim: bool) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    vocabulary |= {"ab": 300, "Ġa": 301, "Ġab": 302, "ĠĠ": 303}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("Ġ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|", special=True, normalized=False)])
    return tokenizer


def with_bytes_for_what_is_unknown() -> Tokenizer:
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "▁a": 5}
    vocabulary |= {f"<0x{byte:02X}>": 6 + byte for byte in range(256)}
    merges = [("a", "b"), ("▁", "a")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def with_a_normalizer() -> Tokenizer:
    words = ["[UNK]", *"abcexyz.,<|>", "##a", "##b", "##c", "##e", "ss"]
    tokenizer = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def by_likelihood() -> Tokenizer:
    vocabulary = [("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("▁ab", -1.5), ("b", -2.0), ("xyz", -1.0), (".", -3.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


KINDS = {
    "byte level": byte_level(trim=False),
    "byte level, trimmed": byte_level(trim=True),
    "byte fallback": with_bytes_for_what_is_unknown(),
    "word pieces": with_a_normalizer(),
    "unigram": by_likelihood(),
}


def with_the_list(offsets: list[tuple[int, int]], start: int, stop: int) -> list[int]:
    """The tokens of these characters, by looking at all of them."""
    where = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    trimmed = (where[:, 0] == where[:, 1]) & (where[:, 1] == stop)
    return np.flatnonzero((where[:, 1] > start) & ((where[:, 0] < stop) | trimmed)).tolist()


def quickly(encoding: Any, start: int, stop: int) -> list[int]:
    first, last = tokens_of(encoding.token_to_chars, len(encoding.ids), start, stop)
    return list(range(first, last + 1))


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from([*LETTERS, "😀", "ﬁ", "\u0301", "漢"]), max_size=25), data=st.data())
def test_the_tokens_of_a_span_are_those_that_the_whole_list_gives(kind, text, data):
    encoding = KINDS[kind].encode(text, add_special_tokens=False)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    found = with_the_list(encoding.offsets, start, stop)
    if start < stop:
        assert quickly(encoding, start, stop) == found
        first, last = tokens_between(encoding, len(encoding.ids), start, stop)
        assert list(range(first, last + 1)) == found


def test_control_without_the_trimmed_tokens_white_space_at_the_end_is_lost():
    encoding = KINDS["byte level, trimmed"].encode("a ", add_special_tokens=False)
    assert with_the_list(encoding.offsets, 0, 2) == quickly(encoding, 0, 2) == [0, 1]
    first, behind = 0, next((i for i, (begin, _) in enumerate(encoding.offsets) if begin >= 2), 2)
    assert list(range(first, behind)) == [0]
