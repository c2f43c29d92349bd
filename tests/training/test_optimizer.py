"""Every optimizer that is offered goes on from a checkpoint with the same bits; the others are refused."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nightschool import optimizers as names
from nightschool.errors import CheckpointError, NightschoolError, SettingsError
from nightschool.training import optimizer as optimizers
from tests.training.conftest import RECIPE, bare, make_config

EXTRA = list(names.EXTRA)


class Net(nn.Module):
    """Every kind of parameter: with and without decay, a vector, a scalar-like one."""

    def __init__(self, seed: int = 0, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(6, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, width, bias=False)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x).tanh())) * self.gain


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range, recipe: dict[str, Any]) -> None:
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        optimizer.zero_grad(set_to_none=True)
        net(torch.randn(4, 6, generator=draw)).square().mean().backward()
        optimizers.apply_recipe(optimizer, recipe, recipe["learning_rate"] / (1 + number))
        optimizer.step()


def through_a_file(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def bits(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    found = [p.detach().clone() for p in net.parameters()]
    for parameter in net.parameters():
        values = optimizer.state.get(parameter, {})
        found += [v.detach().clone() for _, v in sorted(values.items()) if isinstance(v, Tensor)]
        found += [torch.tensor(v) for _, v in sorted(values.items()) if isinstance(v, int | float)]
    return found


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def straight_and_resumed(
    name: str, load: Callable[[Any, Any], None], seed: int = 0, width: int = 8
) -> tuple[list, list]:
    """Bits after 6 steps, and after 3 steps, a file, everything built anew, and 3 more."""
    net = Net(seed, width)
    optimizer = optimizers.build(name, net, RECIPE)
    steps(net, optimizer, range(6), RECIPE)
    half = Net(seed, width)
    before = optimizers.build(name, half, RECIPE)
    steps(half, before, range(3), RECIPE)
    weights, state = through_a_file((half.state_dict(), before.state_dict()))
    fresh = Net(seed + 1, width)
    fresh.load_state_dict(weights)
    after = optimizers.build(name, fresh, RECIPE)
    load(after, state)
    steps(fresh, after, range(3, 6), RECIPE)
    return bits(net, optimizer), bits(fresh, after)


@pytest.mark.parametrize("name", names.OFFERED)
@pytest.mark.parametrize("seed", [0, 1])
def test_a15_resumed_equals_undisturbed(name: str, seed: int) -> None:
    undisturbed, resumed = straight_and_resumed(name, optimizers.load, seed)
    assert same(undisturbed, resumed)


@pytest.mark.parametrize("name", names.OFFERED)
def test_a15_also_by_torchs_own_loading(name: str) -> None:
    undisturbed, resumed = straight_and_resumed(name, lambda o, s: o.load_state_dict(s))
    assert same(undisturbed, resumed)


@pytest.mark.parametrize("name", EXTRA)
def test_a15_resumed_equals_undisturbed_with_bitsandbytes(name: str) -> None:
    pytest.importorskip("bitsandbytes", reason="an extra")
    # 8-bit states begin at 4,096 elements.
    undisturbed, resumed = straight_and_resumed(name, optimizers.load, width=128)
    assert same(undisturbed, resumed)
    eight_bit = any(tensor.dtype == torch.uint8 for tensor in undisturbed)
    assert eight_bit is name.endswith("8bit")


@pytest.mark.parametrize("name", [n for n in [*names.OFFERED, *EXTRA] if n != "sgd"])
def test_a4_control_without_the_moments_the_bits_differ(name: str) -> None:
    if name in EXTRA:
        pytest.importorskip("bitsandbytes", reason="an extra")
    undisturbed, resumed = straight_and_resumed(name, lambda optimizer, state: None, width=128)
    assert not same(undisturbed, resumed)


def test_a15_control_adafactor_in_bfloat16_does_not_resume() -> None:
    """Why it is refused: the loaded state is cast to the parameters' type."""
    from transformers.optimization import Adafactor

    def run(stop: int | None) -> list[Tensor]:
        net = Net().to(torch.bfloat16)
        optimizer: Any = Adafactor(net.parameters(), lr=1e-2, scale_parameter=False, relative_step=False)
        for number in range(6):
            if number == stop:
                state = through_a_file(optimizer.state_dict())
                optimizer = Adafactor(net.parameters(), lr=1e-2, scale_parameter=False, relative_step=False)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            draw = torch.Generator().manual_seed(number)
            net(torch.randn(4, 6, generator=draw).to(torch.bfloat16)).square().mean().backward()
            optimizer.step()
        return [v for p in net.parameters() for v in optimizer.state[p].values() if isinstance(v, Tensor)]

    assert not same(run(None), run(3))
    with pytest.raises(SettingsError, match=r"adafactor.*float32"):
        optimizers.build("adafactor", Net().to(torch.bfloat16), RECIPE)


def test_a15_what_is_not_proved_is_refused() -> None:
    from transformers.training_args import OptimizerNames

    known = {name.value for name in OptimizerNames}
    assert set(names.OFFERED) | set(EXTRA) <= known
    refused = known - set(names.OFFERED) - set(EXTRA)
    assert {"schedule_free_adamw", "galore_adamw", "lomo", "paged_adamw_8bit"} <= refused
    for name in refused:
        with pytest.raises(SettingsError, match="Offered: adamw_torch, adamw_torch_fused"):
            names.check_name(name)
    with pytest.raises(SettingsError, match="did you mean 'adamw_torch'"):
        names.check_name("adamw_torhc")


def test_an_extra_that_is_missing_is_named() -> None:
    try:
        import bitsandbytes  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(NightschoolError, match=r"nightschool\[quantization\]"):
            optimizers.build("adamw_8bit", Net(), RECIPE)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_groups_are_those_of_transformers_trainer(kind: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = bare(make_config(kind)).base
    ours = optimizers.build("adamw_torch", model, RECIPE)
    arguments = TrainingArguments(output_dir=str(tmp_path), weight_decay=0.1, use_cpu=True, report_to=[])
    theirs = Trainer(model, arguments).create_optimizer()
    assert len(ours.param_groups) == len(theirs.param_groups) == 2
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(p) for p in a["params"]] == [id(p) for p in b["params"]]
        assert a["weight_decay"] == b["weight_decay"]
        names = dict(model.named_parameters())
        assert [id(names[name]) for name in a["param_names"]] == [id(p) for p in a["params"]]


def test_two_groups_even_when_one_is_empty() -> None:
    net = nn.Linear(3, 3, bias=False)
    groups = optimizers.build("adamw_torch", net, RECIPE).param_groups
    assert [len(g["params"]) for g in groups] == [1, 0]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.first.requires_grad_(False)
    groups = optimizers.build("adamw_torch", net, RECIPE).param_groups
    assert [g["param_names"] for g in groups] == [["gain", "last.weight"], ["norm.weight", "norm.bias"]]


def test_the_recipe_is_set_again_after_loading() -> None:
    """`load_state_dict` takes over rate, decay, betas and implementation of whoever wrote the state."""
    other = optimizers.build("adamw_torch_fused", Net(), {**RECIPE, "weight_decay": 0.7, "adam_beta1": 0.5})
    steps(Net(), other, range(0), RECIPE)
    net = Net()
    optimizer = optimizers.build("adamw_torch", net, RECIPE)
    optimizer.load_state_dict(through_a_file(other.state_dict()))
    assert optimizer.param_groups[0]["fused"] is True
    assert optimizer.param_groups[0]["weight_decay"] == 0.7
    recipe = {**RECIPE, "adam_epsilon": 1e-6}
    optimizers.apply_recipe(optimizer, recipe, 0.5)
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"]) == (0.5, 0.5)
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)
    assert first["betas"] == (0.9, 0.99)
    assert first["eps"] == second["eps"] == 1e-6
    assert first["fused"] is False


@pytest.mark.parametrize("name", [*names.OFFERED, *EXTRA])
def test_reset_is_a_new_optimizer(name: str) -> None:
    if name in EXTRA:
        pytest.importorskip("bitsandbytes", reason="an extra")
    net = Net(width=128)
    used = optimizers.build(name, net, RECIPE)
    steps(net, used, range(3), RECIPE)
    twin = copy.deepcopy(net)
    optimizers.reset(used)
    steps(net, used, range(3, 6), RECIPE)
    new = optimizers.build(name, twin, RECIPE)
    steps(twin, new, range(3, 6), RECIPE)
    assert same(bits(net, used), bits(twin, new))


def state_of(net: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = optimizers.build("adamw_torch", net, RECIPE)
    steps(net, optimizer, range(1), RECIPE)
    return optimizer, through_a_file(optimizer.state_dict())


def test_a_state_that_fits_is_accepted() -> None:
    optimizer, state = state_of(Net())
    optimizers.check_groups(state, optimizer)
    for group in state["param_groups"]:
        del group["param_names"]
    optimizers.check_groups(state, optimizer)


def test_swapped_parameters_of_one_shape_are_refused() -> None:
    """`torch` loads this without a word, and each moment lands on the other's parameter."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = optimizers.build("adamw_torch", net, RECIPE)
    net(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = through_a_file(optimizer.state_dict())
    swapped = copy.deepcopy(state)
    swapped["param_groups"][0]["param_names"].reverse()
    copy.deepcopy(optimizer).load_state_dict(swapped)
    with pytest.raises(CheckpointError, match=r"order .*1\.weight where this run has 0\.weight"):
        optimizers.check_groups(swapped, optimizer)


def test_states_of_other_models_are_refused_with_the_difference() -> None:
    optimizer, state = state_of(Net())
    cases = {
        "3 parameter groups": lambda s: s["param_groups"].append(s["param_groups"][1]),
        "moments for other, which is not trained here": lambda s: s["param_groups"][0]["param_names"].append("other"),
        "none for norm.bias": lambda s: s["param_groups"][1]["param_names"].remove("norm.bias"),
        "has shape": lambda s: s["state"][s["param_groups"][0]["params"][0]].update(exp_avg=torch.zeros(3, 3)),
    }
    for match, damage in cases.items():
        broken = copy.deepcopy(state)
        damage(broken)
        with pytest.raises(CheckpointError, match=match):
            optimizers.check_groups(broken, optimizer)
    nameless = copy.deepcopy(state)
    for group in nameless["param_groups"]:
        del group["param_names"]
    nameless["param_groups"][0]["params"].pop()
    with pytest.raises(CheckpointError, match="group 0 has"):
        optimizers.check_groups(nameless, optimizer)
    with pytest.raises(CheckpointError):
        optimizers.load(optimizer, nameless)


@pytest.mark.parametrize(
    ("writer", "reader"), [("adamw_torch_fused", "adamw_torch"), ("adamw_torch", "adamw_torch_fused")]
)
def test_a_state_goes_from_one_implementation_of_adamw_to_another(writer: str, reader: str) -> None:
    """Trainer's default is the fused one: its checkpoints load, and this run's implementation stays."""
    net = Net()
    wrote = optimizers.build(writer, net, RECIPE)
    steps(net, wrote, range(3), RECIPE)
    reads = optimizers.build(reader, net, RECIPE)
    optimizers.load(reads, through_a_file(wrote.state_dict()))
    assert reads.param_groups[0]["fused"] is (reader == "adamw_torch_fused")
    assert all(torch.equal(reads.state[p]["exp_avg"], wrote.state[p]["exp_avg"]) for p in net.parameters())
    steps(net, reads, range(3, 5), RECIPE)
    assert all(float(reads.state[p]["step"]) == 5 for p in net.parameters())


def test_the_names_that_settings_accept_are_those_that_can_be_built() -> None:
    assert set(optimizers._MAKERS) == set(names.OFFERED)
    assert set(optimizers._EXTRA) == set(names.EXTRA)
