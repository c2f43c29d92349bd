"""Rates equal those of transformers, and depend on steps done only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightschool.errors import SettingsError
from nightschool.schedule import SCHEDULES, check_name, learning_rate


def recipe(name: str, warmup: int = 100, rate: float = 3e-4) -> dict:
    return {"lr_scheduler_type": name, "warmup_steps": warmup, "learning_rate": rate}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 7, 100, 1000])
def test_rates_are_those_of_transformers(name: str, warmup: int) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup)
    for step in range(500):
        # To the last bits: transformers' inverse_sqrt adds in another order.
        assert learning_rate(recipe(name, warmup), step, 0) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-14)
        optimizer.step()
        scheduler.step()


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 5000))
def test_a3_rate_depends_on_steps_done_and_never_reaches_zero(name: str, step: int, since: int, warmup: int) -> None:
    rate = learning_rate(recipe(name, warmup), since + step, since)
    assert rate == learning_rate(recipe(name, warmup), step, 0)
    assert rate > 0 or (step == 0 and warmup > 0 and name != "constant")
    assert rate <= 3e-4


def test_a3_control_a_schedule_with_an_end_does_reach_zero() -> None:
    """What the schedules refused here do at a file's end: the reason they are refused."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=10)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.0]


def test_a3_every_other_schedule_of_transformers_is_refused_with_a_replacement() -> None:
    from transformers.trainer_utils import SchedulerType

    refused = [kind.value for kind in SchedulerType if kind.value not in SCHEDULES]
    assert "linear" in refused
    assert "cosine" in refused
    for name in refused:
        with pytest.raises(SettingsError, match=r"has no end.*Use '(constant_with_warmup|inverse_sqrt)'"):
            check_name(name)
        with pytest.raises(SettingsError):
            learning_rate(recipe(name), 0, 0)


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'constant_with_warmup'"):
        check_name("constant_with_warmups")
