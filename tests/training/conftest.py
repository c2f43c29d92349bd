"""Tiny models for the training tests, saved once per session and built anew where a test needs its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nightschool.settings import Settings, parse_settings
from nightschool.training import loss, model
from tests import tiny

torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "vocab_size": tiny.VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 256,
    "bos_token_id": 257, "eos_token_id": 258,
}  # fmt: skip

RECIPE: dict[str, Any] = {
    "learning_rate": 1e-2, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.1,
    "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
}  # fmt: skip


def make_settings(folder: Path | str, **sections: dict[str, Any]) -> Settings:
    """Settings for the base model in `folder`; sections as keyword arguments."""
    sections["model"] = {"name": str(folder), **sections.get("model", {})}
    return parse_settings(sections)


def make_config(kind: str, **config: Any) -> Any:
    """A tiny config of any architecture transformers has, by its model type."""
    import transformers

    if kind in ("llama", "gpt2"):
        return tiny.make_config(kind, **config)
    return transformers.AutoConfig.for_model(kind, **{**SMALL, **config})


def bare(config: Any, seed: int = 0, attention: str | None = None) -> Any:
    """What `loss` and `probe` need of a Built, around a random model that is not trained here."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    built: Any = SimpleNamespace(
        model=base, base=base, device=torch.device("cpu"), dtype="float32", method="full", head=None,
        tokenizer=SimpleNamespace(pad_token_id=256), attention=str(base.config._attn_implementation), folder=Path(),
    )  # fmt: skip
    return built


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that gives the folder of a saved tiny base model; the same arguments give the same folder."""
    made: dict[str, Path] = {}

    def get(kind: str = "llama", **config: Any) -> Path:
        key = repr((kind, sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(kind)
            if kind in ("llama", "gpt2"):
                tiny.make_model(folder, kind, **config)
            else:
                tiny.make_tokenizer(folder)
                bare(make_config(kind, **config)).base.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(scope="session")
def build(base_folder: Callable[..., Path]) -> Callable[..., model.Built]:
    """A function that builds a model to train: build('llama', lora={...}, training={...})."""

    def get(kind: str = "llama", config: dict[str, Any] | None = None, seed: int = 42, **sections: Any) -> model.Built:
        settings = make_settings(base_folder(kind, **(config or {})), **sections)
        dtype = model.resolve_dtype(settings.model.dtype, settings.training.method, "cpu")
        built = model.build(settings, {"dtype": dtype, "seed": seed}, "cpu")
        loss.check_head(built)
        return built

    return get


def some_ids(n: int, seed: int = 0, lines: int = 1) -> torch.Tensor:
    """Random bytes as token ids, [lines, n]."""
    return torch.randint(0, 256, (lines, n), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def made_by_trainer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A function that gives the folder of a Hugging Face Trainer, by the name of a case in `theirs`."""
    from tests.training import rig, theirs

    known: dict[str, theirs.Theirs] = {}

    def get(case: str) -> theirs.Theirs:
        if case not in known:
            kind, method, arguments = theirs.CASES[case]
            root = tmp_path_factory.mktemp(case)
            known[case] = theirs.make(root, rig.make_base(root / "base", kind), method, **arguments)
        return known[case]

    return get
