"""The quick way to tokens and to where they stand: the same as the library's, and none where it would not be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nightschool.intake import spelling as spellings
from nightschool.intake import tokenise
from nightschool.intake.spelling import Spelling, spelling, tokens_between
from nightschool.intake.tokenise import Encoded
from tests import tiny

from .test_tokens_of import KINDS
from .tokens import encode
from .workspaces import Workspace, lines

LETTERS = [*"abcxyz .,<|>\n\t", "é", "ß", "😀", "ﬁ", "\u0301", "漢"]


def over_bytes(**changes: Any) -> Tokenizer:
    """As the models of today have them: over bytes, split by a pattern, with special tokens, composed characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    vocabulary |= {"ab": 300, "Ġa": 301, "Ġab": 302, "ĠĠ": 303, "ðŁ": 304, "Ċa": 305, "ĊĠ": 306}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("Ġ", "Ġ"), ("ð", "Ł"), ("Ċ", "a"), ("Ċ", "Ġ")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, dropout=changes.get("dropout")))
    made.normalizer = changes.get("normalizer", normalizers.NFC())
    made.pre_tokenizer = changes.get("before", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    made.post_processor = changes.get("after", processors.ByteLevel(trim_offsets=False))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|", special=True, normalized=False)])
    made.add_tokens([AddedToken("zz", lstrip=True)])
    return made


def wrapped(backend: Tokenizer, kind: type = PreTrainedTokenizerFast) -> Any:
    return kind(tokenizer_object=backend)


BACKEND = over_bytes(
    after=processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing("<| $A", special_tokens=[("<|", 307)]),
        ]
    )
)
QUICK = spelling(wrapped(BACKEND))


def found(quick: Spelling, text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    import numpy as np

    (ids,) = quick.ids([text])
    return quick.spans(text, ids, np.array(ids, np.int32), spans)


@given(text=st.text(st.sampled_from(LETTERS), max_size=25), data=st.data())
def test_tokens_and_places_are_those_that_the_library_tells(text, data):
    assert QUICK is not None
    encoding = BACKEND.encode(text, add_special_tokens=False)
    assert QUICK.ids([text]) == [encoding.ids]
    assert QUICK.ids([text], special=True) == [BACKEND.encode(text).ids]
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    stop = data.draw(st.integers(start + 1, len(text) + 1))
    if stop > len(text):
        return
    spans = found(QUICK, text, [(start, stop)])
    if spans is not None:
        assert spans == [tokens_between(encoding, len(encoding.ids), start, stop)]


@pytest.mark.parametrize("text", ["ab ab\n  漢é😀 <|x", "a\nab", "\n  a"])
def test_texts_as_they_are_usual_are_spelled_by_their_tokens(text):
    assert QUICK is not None
    assert found(QUICK, text, [(0, len(text))]) is not None


@pytest.mark.parametrize("text", ["e\u0301a b", "a  zz b", "", "a"])
def test_a_text_that_its_tokens_do_not_spell_is_left_to_the_library(text):
    """Composed, or with white space that a special token takes in; or too short to be worth it."""
    assert QUICK is not None
    assert found(QUICK, text, []) is None


def test_a_token_that_is_no_bytes_spells_nothing():
    backend = over_bytes()
    backend.add_tokens(["漢"])
    quick = Spelling(backend)
    number = backend.token_to_id("a")
    assert number is not None
    quick._pieces._bytes.pop("a")
    assert found(quick, "a b a", [(0, 1)]) is None
    assert quick._pieces._known[number] == b"\xff"
    assert found(quick, "漢 b b", [(0, 1)]) == [(0, 0)]


class Prepended(PreTrainedTokenizerFast):
    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> Any:
        return super()._encode_plus([f"x{one}" for one in text], *arguments, **options)


TRIMS, FRAMES = processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing("$A")
OTHERS = {
    "trimmed": wrapped(over_bytes(after=TRIMS)),
    "trimmed, among others": wrapped(
        over_bytes(
            after=processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing("$A")])
        )
    ),
    "a space in front": wrapped(over_bytes(before=pre_tokenizers.ByteLevel(add_prefix_space=True))),
    "lower case": wrapped(over_bytes(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))),
    "not over bytes": wrapped(over_bytes(before=pre_tokenizers.Whitespace())),
    "by chance": wrapped(over_bytes(dropout=0.5)),
    "a class of its own": wrapped(over_bytes(), Prepended),
    **{name: wrapped(KINDS[name]) for name in ("byte level, trimmed", "byte fallback", "word pieces", "unigram")},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_tokenizers_are_left_to_the_library(name):
    assert spelling(OTHERS[name]) is None


def test_as_the_models_of_today_have_them_they_are_taken():
    split = pre_tokenizers.Split(" ", "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    after = processors.Sequence([processors.ByteLevel(trim_offsets=False), FRAMES])
    assert spelling(wrapped(over_bytes(before=pre_tokenizers.Sequence([split, level]), after=after)))
    assert spelling(wrapped(over_bytes(normalizer=None, after=None)))


def test_control_a_tokenizer_that_trims_would_tell_other_places():
    backend = over_bytes(after=TRIMS)
    encoding = backend.encode("b a", add_special_tokens=False)
    assert found(Spelling(backend), "b a", [(0, 2)]) == [(0, 1)]
    assert tokens_between(encoding, len(encoding.ids), 0, 2) == (0, 0)


def test_control_tokens_that_are_not_checked_against_the_text_would_stand_elsewhere(monkeypatch):
    backend = over_bytes()
    text = "a  zz b"
    encoding = backend.encode(text, add_special_tokens=False)
    spell = spellings._Pieces.spell
    monkeypatch.setattr(spellings._Pieces, "spell", lambda self, data, ids: spell(self, data, ids) or True)
    assert found(Spelling(backend), text, [(5, 7)]) != [tokens_between(encoding, len(encoding.ids), 5, 7)]


# --- rows, and whole files


def special_rows() -> list[dict[str, Any]]:
    """Chats whose answers begin and end in all kinds of ways; some are not spelled by their tokens."""
    edges = ["", " ", "\n", "  \n", "é", "漢", "😀", "<|im_end|>", "\u0301", "x"]
    answers = [f"{a}Yes{b}" for a in edges for b in edges]
    return [
        {"messages": [{"role": "user", "content": f"{answer}?"}, {"role": "assistant", "content": answer}] * 2}
        for answer in answers
    ]


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@pytest.mark.parametrize("kind", ["marked", "unmarked"])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
def test_rows_become_the_same_with_and_without_the_quick_way(kind, loss_on, normalizer, request, monkeypatch):
    rows = [*special_rows(), *tiny.chat_rows(30), *tiny.pair_rows(5), *tiny.text_rows(5)]
    asked: list[int] = []
    call = tokenise.Tokeniser._call

    def counting(self: Any, texts: list[str], **options: Any) -> Any:
        asked.append(len(texts) if options else 0)
        return call(self, texts, **options)

    monkeypatch.setattr(tokenise.Tokeniser, "_call", counting)

    def encoded() -> list[Any]:
        asked.clear()
        tokenizer = tokenise.load_tokenizer(request.getfixturevalue(kind))
        if normalizer is not None:
            tokenizer._tokenizer.normalizer = normalizer
        return [
            (one.number, one.shape, one.ids.tolist(), one.train.tolist()) if isinstance(one, Encoded) else str(one)
            for one in encode(tokenizer, *rows, loss_on=loss_on)
        ]

    quick = encoded()
    assert sum(asked) < 40, "it took the quick way for most chats"
    with monkeypatch.context() as patch:
        patch.setattr(tokenise, "spelling", lambda _: None)
        assert encoded() == quick
        assert sum(asked) == 130


def test_a_file_has_the_same_digest_with_and_without_the_quick_way(tmp_path, model, monkeypatch):
    data = lines(*special_rows(), *tiny.chat_rows(300), *tiny.pair_rows(20))

    def digest(name: str) -> str | None:
        place = Workspace(tmp_path / name, model, packing=True, holdout=0.01)
        number = place.drop("a.jsonl", data)
        assert place.work() == ["archived", "ready"]
        return place.get(number).data_digest

    quick = digest("quick")
    monkeypatch.setattr(tokenise, "spelling", lambda _: None)
    assert digest("slow") == quick


def test_control_a_place_that_is_one_off_gives_another_digest(tmp_path, model, monkeypatch):
    spans = Spelling.spans

    def digest(name: str) -> str | None:
        place = Workspace(tmp_path / name, model)
        number = place.drop("a.jsonl", lines(*tiny.chat_rows(5)))
        assert place.work() == ["archived", "ready"]
        return place.get(number).data_digest

    right = digest("right")
    monkeypatch.setattr(Spelling, "spans", lambda *given: [(first, last - 1) for first, last in spans(*given) or []])
    assert digest("wrong") != right
