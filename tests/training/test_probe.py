"""Leaks between packed rows are measured on every architecture, and the models that leak are told apart."""

from typing import Any

import pytest
import torch

from nightschool.training import loss, probe
from tests.training.conftest import bare, make_config

SAFE: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "phi": {},
    "gpt_neox": {},
}
LEAKY: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "jamba": {
        "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
        "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "bamba": {
        "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8,
    },
    "qwen3_next": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
        "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "bloom": {"n_layer": 2, "n_head": 4},
}  # fmt: skip


@pytest.mark.parametrize("kind", SAFE)
@pytest.mark.parametrize("attention", ["eager", None])
def test_models_whose_packed_rows_stay_apart(kind: str, attention: str | None) -> None:
    built = bare(make_config(kind, **SAFE[kind]), attention=attention)
    built.base.train()
    assert probe.packing_leaks(built) is None
    assert built.base.training


@pytest.mark.parametrize("kind", LEAKY)
def test_models_whose_packed_rows_leak(kind: str) -> None:
    built = bare(make_config(kind, **LEAKY[kind]))
    reason = probe.packing_leaks(built)
    assert reason is not None


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral"])
def test_the_same_in_bfloat16(kind: str) -> None:
    built = bare(make_config(kind, **SAFE[kind]))
    built.base.to(torch.bfloat16)
    built.dtype = "bfloat16"
    assert probe.packing_leaks(built) is None


@pytest.mark.parametrize("kind", LEAKY)
def test_leaks_are_found_in_bfloat16_too(kind: str) -> None:
    built = bare(make_config(kind, **LEAKY[kind]))
    built.base.to(torch.bfloat16)
    built.dtype = "bfloat16"
    assert probe.packing_leaks(built) is not None


def test_control_with_a_cache_every_model_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers ignores packed position ids as soon as a cache is made, which is its default."""
    built = bare(make_config("llama"))
    assert probe.packing_leaks(built) is None

    def with_cache(built: Any, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return built.base(input_ids=input_ids, position_ids=position_ids, use_cache=True).logits

    monkeypatch.setattr(probe, "own_logits", with_cache)
    reason = probe.packing_leaks(built)
    assert reason is not None
    assert "row before it" in reason


def test_control_positions_that_go_on_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows kept apart by a mask, but with positions that run on: the content does not leak, the place does."""
    built = bare(make_config("gpt2"))

    def running_on(built: Any, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        total = input_ids.shape[1]
        row = (position_ids[0] == 0).cumsum(0)
        mask = (row[:, None] == row[None, :]) & torch.ones(total, total).tril().bool()
        additive = torch.zeros(1, 1, total, total).masked_fill(~mask, torch.finfo(torch.float32).min)
        places = torch.arange(total)[None]
        return built.base(input_ids=input_ids, position_ids=places, attention_mask=additive, use_cache=False).logits

    monkeypatch.setattr(probe, "own_logits", running_on)
    reason = probe.packing_leaks(built)
    assert reason is not None
    assert "alone" in reason


def test_a_model_that_cannot_be_run_so_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    built = bare(make_config("llama"))

    def fails(*_: Any) -> torch.Tensor:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(probe, "own_logits", fails)
    assert "no kernel for this" in str(probe.packing_leaks(built))


def test_control_a_coarser_probe_would_miss_a_small_leak() -> None:
    """LFM2's short convolutions leak 1e-4 of the logits in a random model: less than 16-bit rounding."""
    built = bare(make_config("lfm2", **LEAKY["lfm2"]))
    row, other = torch.arange(20, 30), torch.arange(50, 60)
    apart = probe._logits(built, [other, row], 1) - probe._logits(built, [row], 0)
    assert apart.abs().max() < 1e-3 * probe._logits(built, [row], 0).abs().max()
    assert "row before it" in str(probe.packing_leaks(built))


def test_the_probe_and_the_loss_run_the_model_alike() -> None:
    """Both go without a cache and with positions, through the same two functions."""
    assert probe.own_logits is loss.own_logits
