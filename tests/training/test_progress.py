"""What the trainer says while it works."""

import pytest

from nightschool.training.loop import StepResult
from nightschool.training.progress import Narrator
from nightschool.words import duration


def result(step: int, loss: float = 1.0, ends: bool = False, applied: bool = True) -> StepResult:
    return StepResult(step, 0, loss, 1e-4, 1.0, 200, 180, 2.0, applied, ends)


def test_a_line_a_minute_with_the_time_that_is_left() -> None:
    now, said = [0.0], []
    narrator = Narrator(said.append, lambda: now[0])
    narrator.begin("night\n1.jsonl", 100)
    for step in range(1, 61):
        now[0] += 2.0
        narrator.note(result(step), step)
    assert len(said) == 2
    assert said[0] == ("night\\n1.jsonl: step 30 of 100 (30%), loss 1.000, 100 tokens/s, about 2 min left.")
    assert narrator.progress.seconds_left == pytest.approx(80.0)


def test_the_end_of_a_file_tells_what_became_of_the_loss() -> None:
    said: list[str] = []
    narrator = Narrator(said.append, lambda: 0.0)
    narrator.begin("a.jsonl", 30)
    for step in range(1, 31):
        # A step that was not applied tells nothing of the loss.
        narrator.note(result(step, float("nan") if step == 2 else 3.0 - step / 15, step == 30, step != 2), step)
    assert said[0].startswith("Finished a.jsonl: the last 29 of 30 steps in 0 s, loss 2.5")
    assert said[0].endswith("1.300 over its last 10.")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (12000, "3 h 20 min"),
        (7200, "2 h"),
        (187200, "2 days 4 h"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
