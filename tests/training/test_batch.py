"""Packing, padding and splitting move tokens about; they change neither what is learned nor how much."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightschool.training import loss
from nightschool.training.batch import IGNORED, Batch, collate
from tests.training.conftest import bare, make_config

PAD = 256


def sequence(lengths: list[int], seed: int = 0, learned: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    total = sum(lengths)
    train = (draw.random(total) < learned).astype(np.int8)
    train[np.cumsum([0, *lengths[:-1]])] = 0
    return draw.integers(0, 256, total).astype(np.int32), train, np.array(lengths, dtype=np.int32)


def cell(*rows: list[int], learned: float = 0.7) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [sequence(lengths, seed, learned) for seed, lengths in enumerate(rows)]


def learned_pairs(batches: list[Batch]) -> list[tuple[tuple[int, ...], int]]:
    """For each label: the tokens of its row up to there, and the token to come. What the model learns, as a set."""
    pairs = []
    for batch in batches:
        for ids, positions, labels in zip(batch.input_ids, batch.position_ids, batch.labels, strict=True):
            for at in torch.nonzero(labels != IGNORED).flatten().tolist():
                row = ids[at - int(positions[at]) : at + 1].tolist()
                pairs.append((tuple(row), int(labels[at])))
    return sorted(pairs)


MODES = {"packed": (True, False), "flat": (True, True), "split": (False, False), "split, flat asked": (False, True)}


@pytest.mark.parametrize("mode", MODES)
def test_labels_are_the_next_token_of_the_same_row(mode: str) -> None:
    ids = np.arange(10, 20)
    train = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1, 1])
    packed, flatten = MODES[mode]
    batches = collate([(ids, train, np.array([4, 6]))], "cpu", packed=packed, pad_id=PAD, flatten=flatten)
    wanted = [((10,), 11), ((10, 11), 12)]
    wanted += [(tuple(range(14, 14 + n)), 14 + n) for n in (1, 2, 4, 5)]
    assert learned_pairs(batches) == sorted(wanted)
    assert sum(batch.label_tokens for batch in batches) == int(train.sum())


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from(sorted(MODES)),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a11_every_way_to_batch_learns_the_same_tokens(rows: list[list[int]], mode: str, share: float) -> None:
    sequences = cell(*rows, learned=share)
    packed, flatten = MODES[mode]
    batches = collate(sequences, "cpu", packed=packed, pad_id=PAD, flatten=flatten)
    assert sum(batch.label_tokens for batch in batches) == sum(int(train.sum()) for _, train, _ in sequences)
    wanted = []
    for ids, train, lengths in sequences:
        ends = np.cumsum(lengths)
        for end, length in zip(ends, lengths, strict=True):
            row, mask = ids[end - length : end].tolist(), train[end - length : end]
            wanted += [(tuple(row[:at]), row[at]) for at in range(1, len(row)) if mask[at]]
    assert learned_pairs(batches) == sorted(wanted)
    budget = len(sequences) * max(len(ids) for ids, _, _ in sequences)
    for batch in batches:
        assert batch.input_ids.numel() <= budget
        assert batch.label_tokens > 0
        flat = batch.labels.reshape(-1)
        assert torch.equal(batch.label_index, torch.nonzero(flat != IGNORED).flatten())


def test_flat_has_no_padding_and_splitting_has_one_row_a_line() -> None:
    sequences = cell([5, 7], [3], [12])
    (flat,) = collate(sequences, "cpu", packed=True, pad_id=PAD, flatten=True)
    assert flat.input_ids.shape == (1, 27)
    assert (flat.position_ids == 0).sum() == 4
    (packed,) = collate(sequences, "cpu", packed=True, pad_id=PAD, flatten=False)
    assert packed.input_ids.shape == (3, 12)
    assert (packed.input_ids[1, 3:] == PAD).all()
    assert packed.position_ids[1].tolist() == [0, 1, 2, *range(9)]
    split = collate(sequences, "cpu", packed=False, pad_id=PAD, flatten=False)
    for batch in split:
        real = batch.input_ids != PAD
        # In each line one row, then padding.
        assert all(line.tolist() == sorted(line.tolist(), reverse=True) for line in real.int())


def test_a11_control_labels_shifted_over_a_seam_are_found() -> None:
    """Shifting the packed line as a whole, as a plain next-token loss does, predicts across rows."""
    ids, train, lengths = sequence([4, 4], learned=1.0)
    naive = Batch(
        torch.from_numpy(ids)[None].long(),
        torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]),
        torch.tensor([[*ids[1:].tolist(), IGNORED]]),
        torch.arange(7),
        7,
    )
    right = collate([(ids, train, lengths)], "cpu", packed=True, pad_id=PAD, flatten=False)
    assert learned_pairs([naive]) != learned_pairs(right)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma3_text"])
def test_packed_and_padded_rows_are_what_each_is_alone(kind: str, attention: str) -> None:
    """The claim that everything here stands on: position ids alone keep rows and padding apart."""
    built = bare(make_config(kind), attention=attention)
    built.base.eval()
    sequences = cell([9, 4, 6], [5], [7, 8], [1, 2, 1])
    (batch,) = collate(sequences, "cpu", packed=True, pad_id=PAD, flatten=False)
    with torch.no_grad():
        together = loss.own_logits(built, batch.input_ids, batch.position_ids)
        for line, (ids, _, lengths) in enumerate(sequences):
            at = 0
            for length in lengths:
                row = torch.from_numpy(ids[at : at + length]).long()[None]
                alone = loss.own_logits(built, row, torch.arange(length)[None])
                assert torch.allclose(together[line, at : at + length], alone[0], atol=1e-5)
                at += length


def test_control_with_an_attention_mask_or_a_cache_rows_do_leak() -> None:
    built = bare(make_config("llama"))
    built.base.eval()
    ids, _, _ = sequence([9, 4])
    row = torch.from_numpy(ids).long()[None]
    places = torch.tensor([[*range(9), *range(4)]])
    with torch.no_grad():
        alone = built.base(input_ids=row[:, 9:], use_cache=False).logits[0]
        masked = built.base(
            input_ids=row, position_ids=places, attention_mask=torch.ones_like(row), use_cache=False
        ).logits[0, 9:]
        cached = built.base(input_ids=row, position_ids=places, use_cache=True).logits[0, 9:]
    assert (masked - alone).abs().max() > 1e-2
    assert (cached - alone).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_split_rows_give_the_sum_of_the_rows_alone(kind: str) -> None:
    """What is done for models whose packed rows leak: same labels, same sum, though lines are padded."""
    config = make_config(kind, **({"state_size": 4, "time_step_rank": 4} if kind == "mamba" else {}))
    built = bare(config)
    built.base.eval()
    loss.check_head(built)
    sequences = cell([9, 4, 6], [5], [7, 8])
    split = collate(sequences, "cpu", packed=False, pad_id=PAD, flatten=False)
    alone = [
        batch
        for ids, train, lengths in sequences
        for end, length in zip(np.cumsum(lengths), lengths, strict=True)
        for batch in collate(
            [(ids[end - length : end], train[end - length : end], np.array([length]))],
            "cpu",
            packed=True,
            pad_id=PAD,
            flatten=False,
        )
    ]
    with torch.no_grad():
        together = sum(loss.sum_loss(built, batch).item() for batch in split)
        separate = sum(loss.sum_loss(built, batch).item() for batch in alone)
    assert len(split) < len(alone)
    assert together == pytest.approx(separate, rel=1e-6)


def test_nothing_to_learn_gives_no_batch() -> None:
    for packed, flatten in MODES.values():
        assert collate(cell([4], learned=0.0), "cpu", packed=packed, pad_id=PAD, flatten=flatten) == []
