"""What others make of our folders: PEFT and transformers load them, the Hugging Face Trainer goes on from them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

WARMUP = 12
TRAINING: dict[str, Any] = {"learning_rate": 4e-3, "warmup_steps": WARMUP, "weight_decay": 0.1, "micro_batch_size": 1}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.0}


@dataclass
class Made:
    """A run of ten steps, ended inside its warm-up, and what its trainer's live model says."""

    base: Path
    layout: Layout
    logits: Tensor
    step: int

    @property
    def checkpoint(self) -> Path:
        return self.layout.checkpoint(self.step)


def some_ids() -> Tensor:
    return torch.randint(97, 123, (2, 20), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    training = model.training
    model.eval()
    found = model(input_ids=some_ids(), use_cache=False).logits
    model.train(training)
    return found


def _keeps_its_model(trainer: Trainer) -> None:
    trainer.loop.release = lambda: None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Made]:
    known: dict[tuple[str, str], Made] = {}

    def get(kind: str, method: str) -> Made:
        if (kind, method) not in known:
            root = tmp_path_factory.mktemp(f"{kind}-{method}")
            base = rig.make_base(root / "base", kind)
            layout = rig.workspace(
                root / "run",
                base,
                training={**TRAINING, "method": method},
                **({"lora": LORA} if method == "lora" else {}),
            )
            rig.add(layout, "a", rig.sequences(40, 1))
            trainer = rig.run(layout, on_start=_keeps_its_model)
            known[kind, method] = Made(base, layout, logits_of(trainer.loop.built.model), trainer.loop.done)
        return known[kind, method]

    return get


def load_base(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_current_model_as_it_stands(made: Callable[[str, str], Made], kind: str) -> None:
    from peft import PeftModel

    run = made(kind, "lora")
    loaded = PeftModel.from_pretrained(load_base(run.base), run.layout.current_model)
    assert torch.equal(logits_of(loaded), run.logits)
    # Control: without the adapter the logits are others.
    assert (logits_of(load_base(run.base)) - run.logits).abs().max() > 1e-3


def test_peft_finds_base_and_tokenizer_by_itself(made: Callable[[str, str], Made]) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    run = made("llama", "lora")
    loaded = AutoPeftModelForCausalLM.from_pretrained(run.layout.current_model, dtype=torch.float32)
    assert torch.equal(logits_of(loaded), run.logits)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (run.layout.current_model, run.base))
    text = "Why do stars not fall?"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.chat_template == theirs.chat_template is not None


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_transformers_loads_a_fully_trained_model(made: Callable[[str, str], Made], kind: str) -> None:
    run = made(kind, "full")
    latest = run.layout.current_model / "latest"
    assert latest.resolve() == run.checkpoint
    assert torch.equal(logits_of(load_base(latest)), run.logits)
    assert (logits_of(load_base(run.base)) - run.logits).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_safetensors_files_say_that_they_are_pytorchs(made: Callable[[str, str], Made], method: str) -> None:
    from safetensors import safe_open

    for path in made("llama", method).checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            assert opened.metadata()["format"] == "pt"
            assert list(opened.keys())


# The Hugging Face Trainer goes on from our checkpoint.


@dataclass
class Watched:
    """What was seen of a Hugging Face Trainer: its state after loading, and its first updates."""

    begun_at: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    ended_at: int = -1


def model_of(run: Made, method: str) -> Any:
    model = load_base(run.base)
    model.config.use_cache = False
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **LORA))
    return model


def go_on(run: Made, method: str, checkpoint: Path, scratch: Path, steps: int = 4) -> Watched:
    """Let a Hugging Face Trainer resume, and watch it."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainerCallback, TrainingArguments

    watched = Watched()

    def trained(model: Any) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            if watched.begun_at < 0:
                watched.begun_at = state.global_step
                watched.weights = trained(seen["model"])
                watched.optimizer = copy.deepcopy(seen["optimizer"].state_dict())

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            watched.rates.append(seen["optimizer"].param_groups[0]["lr"])
            if not watched.gradients:
                live = seen["model"].named_parameters()
                watched.gradients = {name: p.grad.clone() for name, p in live if p.requires_grad}

        def on_step_end(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            watched.ended_at = state.global_step
            if not watched.after:
                watched.after = trained(seen["model"])

    rows: Any = [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in some_ids()] * 40
    arguments = TrainingArguments(
        output_dir=str(scratch), max_steps=run.step + steps, per_device_train_batch_size=1,
        learning_rate=TRAINING["learning_rate"], lr_scheduler_type="constant_with_warmup", warmup_steps=WARMUP,
        weight_decay=TRAINING["weight_decay"], optim="adamw_torch", use_cpu=True, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, seed=1, ignore_data_skip=True,
    )  # fmt: skip
    trainer = TheirTrainer(
        model=model_of(run, method), args=arguments, train_dataset=rows, callbacks=[Watch()],
        data_collator=lambda batch: {k: torch.tensor([row[k] for row in batch]) for k in batch[0]},
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return watched


def saved_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    lora = folder / "adapter_model.safetensors"
    if not lora.exists():
        return load_file(folder / "model.safetensors")
    return {
        name.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight"): tensor
        for name, tensor in load_file(lora).items()
    }


def first_update(watched: Watched, moments: dict[str, Any]) -> dict[str, Tensor]:
    """What torch's AdamW makes of the weights and gradients that were seen, with these moments."""
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in watched.weights.items()}
    for name, gradient in watched.gradients.items():
        parameters[name].grad = gradient.clone()
    named = [group["param_names"] for group in moments["param_groups"]]
    optimizer = torch.optim.AdamW([{"params": [parameters[name] for name in names]} for names in named], foreach=False)
    fresh = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict({**fresh, "state": moments["state"]})
    for group, decay in zip(optimizer.param_groups, (TRAINING["weight_decay"], 0.0), strict=True):
        group.update(lr=watched.rates[0], weight_decay=decay)
    optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


@pytest.mark.parametrize(("kind", "method"), [("llama", "lora"), ("llama", "full"), ("gpt2", "full")])
def test_the_hugging_face_trainer_goes_on(
    made: Callable[[str, str], Made], tmp_path: Path, kind: str, method: str
) -> None:
    run = made(kind, method)
    ours = torch.load(run.checkpoint / "optimizer.pt", weights_only=True)
    watched = go_on(run, method, run.checkpoint, tmp_path / "out")
    assert watched.begun_at == run.step
    assert watched.ended_at == run.step + 4

    saved = saved_weights(run.checkpoint)
    for name, tensor in watched.weights.items():
        assert torch.equal(tensor, saved[name]), name
    assert [len(group["params"]) for group in watched.optimizer["param_groups"]] == [
        len(group["params"]) for group in ours["param_groups"]
    ]
    assert watched.optimizer["state"].keys() == ours["state"].keys()
    for number, values in ours["state"].items():
        assert float(values["step"]) == run.step
        for key, value in values.items():
            assert torch.equal(watched.optimizer["state"][number][key], value), (number, key)

    wanted = first_update(watched, ours)
    for name, tensor in watched.after.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-7)
    # Control: with fresh moments the same gradients lead elsewhere.
    fresh = first_update(watched, {**ours, "state": {}})
    assert max(float((watched.after[name] - fresh[name]).abs().max()) for name in fresh) > 1e-4


def test_a3_the_hugging_face_trainer_goes_on_with_our_learning_rates(
    made: Callable[[str, str], Made], tmp_path: Path
) -> None:
    """In the middle of the warm-up: its rates are the very ones our next steps have."""
    run = made("llama", "lora")
    watched = go_on(run, "lora", run.checkpoint, tmp_path / "out")
    longer = Layout(shutil.copytree(run.layout.root, tmp_path / "longer", symlinks=True))
    rig.add(longer, "b", rig.sequences(16, 2))
    rig.run(longer)
    rates = [rate for step, _, rate in rig.outcome(longer).curve if step > run.step]
    assert watched.rates == pytest.approx(rates, rel=1e-12)
    assert rates[0] < rates[1] < rates[2] == rates[3] == TRAINING["learning_rate"]


def test_control_without_scheduler_the_optimizer_is_silently_not_loaded(
    made: Callable[[str, str], Made], tmp_path: Path
) -> None:
    run = made("llama", "lora")
    without = shutil.copytree(run.checkpoint, tmp_path / run.checkpoint.name)
    (without / "scheduler.pt").unlink()
    watched = go_on(run, "lora", without, tmp_path / "out")
    assert watched.begun_at == run.step
    assert watched.optimizer["state"] == {}


def test_trainer_state_is_one_the_hugging_face_trainer_reads(made: Callable[[str, str], Made]) -> None:
    from transformers import TrainerState

    run = made("llama", "lora")
    state = TrainerState.load_from_json(str(run.checkpoint / "trainer_state.json"))
    assert state.global_step == run.step
    raw = json.loads((run.checkpoint / "trainer_state.json").read_text())
    assert 0 < len(raw["log_history"]) <= 20
    assert raw["log_history"][-1]["step"] == run.step


def test_the_adapter_at_the_root_is_that_of_the_newest_checkpoint(made: Callable[[str, str], Made]) -> None:
    run = made("llama", "lora")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run.layout.current_model / name).read_bytes() == (run.checkpoint / name).read_bytes()


def test_what_a_checkpoint_holds(made: Callable[[str, str], Made]) -> None:
    """The names are a promise to other programs."""
    names = {path.name for path in made("llama", "lora").checkpoint.iterdir()}
    assert names == {
        "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json",
        "nightschool.json", "MANIFEST.json",
    }  # fmt: skip


def test_the_live_model_is_what_was_saved(made: Callable[[str, str], Made], tmp_path: Path) -> None:
    """A trainer that resumes says the same as the one before it did."""
    run = made("gpt2", "lora")
    copied = Layout(shutil.copytree(run.layout.root, tmp_path / "copy", symlinks=True))
    said: list[Tensor] = []

    def on_start(trainer: Trainer) -> None:
        said.append(logits_of(trainer.loop.built.model))

    rig.run(copied, on_start=on_start)
    assert torch.equal(said[0], run.logits)
