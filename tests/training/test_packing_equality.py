"""Packing rows into one pass changes nothing that is learned; where a model cannot keep rows apart, none are packed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_record
from nightschool.training import loss
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests import device
from tests.training import plain, rig

LEAKY: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
}
"""A state-space model, and a hybrid of convolutions and attention."""


def train(root: Path, base: Path, force: str | None = None, attention: str = "auto", **training: Any) -> Layout:
    """Train in full on forty steps; `force` is told to the loop as the reason not to pack, or "pack" for none."""
    layout = rig.workspace(
        root, base, model={"name": str(base), "device": device.NAME, "attn_implementation": attention},
        training={"method": "full", "learning_rate": 2e-3, **training},
    )  # fmt: skip
    rig.add(layout, "a", rig.sequences(80, 1))
    rig.add(layout, "b", rig.sequences(79, 2))

    def on_start(trainer: Trainer) -> None:
        if force is not None:
            trainer.loop.leak = None if force == "pack" else force

    rig.run(layout, on_start=on_start)
    return layout


def curve(layout: Layout) -> torch.Tensor:
    found = torch.tensor([value for _, value, _ in rig.outcome(layout).curve], dtype=torch.float64)
    assert len(found) == 40
    return found


def rows_in_a_line(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each line that goes through the model holds, padding left out."""
    real, found = loss.sum_loss, []

    def sum_loss(built: Any, batch: Any, *more: Any) -> Any:
        pad = built.tokenizer.pad_token_id
        for ids, positions in zip(batch.input_ids.tolist(), batch.position_ids.tolist(), strict=True):
            found.append(sum(at == 0 and token != pad for token, at in zip(ids, positions, strict=True)))
        return real(built, batch, *more)

    monkeypatch.setattr(loss, "sum_loss", sum_loss)
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_and_unpacked_give_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, attention: str
) -> None:
    base = rig.make_base(tmp_path / "base", kind)
    rows = rows_in_a_line(monkeypatch)
    packed = train(tmp_path / "packed", base, attention=attention)
    assert set(rows) == {2, 3}
    rows.clear()
    unpacked = train(tmp_path / "unpacked", base, force="the test wants it", attention=attention)
    assert set(rows) == {1}
    assert (curve(packed) - curve(unpacked)).abs().max() < 1e-5
    assert rig.outcome(packed).lineage == rig.outcome(unpacked).lineage
    assert read_record(packed.checkpoints()[-1][1]).numerics["attention"] == attention


def test_control_rows_that_see_each_other_give_other_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With transformers' own default, a cache is made and the position ids of packed rows are ignored."""
    base = rig.make_base(tmp_path / "base")

    def hidden_states(built: Any, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return built.base.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=True
        ).last_hidden_state  # fmt: skip

    right = train(tmp_path / "right", base)
    monkeypatch.setattr(loss, "hidden_states", hidden_states)
    leaking = train(tmp_path / "leaking", base, force="pack")
    assert (curve(right) - curve(leaking)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", LEAKY)
def test_a_model_that_cannot_keep_rows_apart_trains_unpacked_and_says_why(
    base_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    from transformers import AutoModelForCausalLM

    base = base_folder(kind, **LEAKY[kind])
    rows = rows_in_a_line(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="nightschool.trainer"):
        layout = train(tmp_path / "run", base)
    assert set(rows) == {1}
    assert any("packed row" in line or "row's logits" in line or "position ids" in line for line in caplog.messages), (
        caplog.messages
    )
    assert read_record(layout.checkpoints()[-1][1]).numerics["packed"] is False

    with Ledger.open(layout.ledger) as ledger:
        entries = entries_of(ledger)
    data = dict(zip([e.data_digest for e in entries], (rig.sequences(80, 1), rig.sequences(79, 2)), strict=True))
    alone = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = torch.tensor(plain.losses(alone.train(), entries, data, 42), dtype=torch.float64)
    assert (curve(layout) - reference).abs().max() < 1e-5

    # Control: packed all the same, its rows see each other, and the losses tell.
    leaking = train(tmp_path / "leaking", base, force="pack")
    assert (curve(leaking) - reference).abs().max() > 1e-4


def test_law_1_holds_unpacked(base_folder: Callable[..., Path], tmp_path: Path) -> None:
    base = base_folder("lfm2", **LEAKY["lfm2"])
    wanted = rig.outcome(train(tmp_path / "whole", base))
    layout = rig.workspace(tmp_path / "run", base, training={"method": "full", "learning_rate": 2e-3})
    rig.add(layout, "a", rig.sequences(80, 1))
    rig.add(layout, "b", rig.sequences(79, 2))
    for step in (13, 27):
        with pytest.raises(rig.Killed):
            rig.run(layout, on_step=rig.kill_at(step))
    rig.run(layout)
    assert rig.outcome(layout) == wanted
