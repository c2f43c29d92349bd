"""`make demo` does what the README says."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightschool.demo import corpus, plot, story
from nightschool.errors import NightschoolError
from nightschool.workspace import Layout


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_demo_learns_is_killed_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    said: list[str] = []
    told = story.tell(tmp_path / "demo", said.append)
    assert told.equal, told.differences
    assert told.resumed_at < told.killed_at <= told.boundaries[1]
    assert told.boundaries[0] < told.killed_at
    assert told.files == list(story.SHARES)
    assert [line.split()[0] for line in said] == ["1.", "2.", "3.", "Watch", "4.", "5."]

    def mean(first: int, last: int) -> float:
        return sum(told.losses[first:last]) / (last - first)

    assert sum(told.losses[-20:]) / 20 < sum(told.losses[:20]) / 20 - 0.3
    for boundary in told.boundaries:
        # No jump: nothing was forgotten between two files.
        assert mean(boundary, boundary + 10) < mean(boundary - 10, boundary) + 0.15
    # The comparison can fail: one flipped bit is a difference.
    newest = Layout(told.workspace).checkpoints()[-1][1] / "adapter_model.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-1] ^= 1
    newest.chmod(0o644)
    newest.write_bytes(bytes(raw))
    other = Layout(tmp_path / "demo" / "undisturbed")
    assert story.compare(Layout(told.workspace), other) == ["the adapters differ"]


class School:
    """Stands for a workspace whose second file has the steps 64 to 105, and for its ledger."""

    def __init__(self, saved: int, noted: int, step_seconds: float) -> None:
        self.root = self.state = self.log_file = Path("school")
        self.machine: dict[str, dict[str, str]] = {}
        self.entries = SimpleNamespace(
            all=lambda: [SimpleNamespace(start=0, stop=63), SimpleNamespace(start=0, stop=42)]
        )
        self.steps = SimpleNamespace(last=lambda: SimpleNamespace(step=noted, seconds=step_seconds))
        self.checkpoints = lambda: [(saved, self.root)]
        self.looks = 0

    def poll(self) -> int | None:
        """The run ends after fifty looks."""
        self.looks += 1
        return None if self.looks < 50 else 0


@pytest.mark.parametrize("noted", [62, 81])
def test_it_is_killed_in_the_second_file_however_short_steps_are(noted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the ledger are a second old: with steps of a hundredth they may never tell of its middle."""
    school: Any = School(saved=80, noted=noted, step_seconds=0.01)
    monkeypatch.setattr(story.Ledger, "open", lambda layout: nullcontext(school))
    school.ledger = None
    story._wait_for_the_middle(school, school, print)
    assert school.looks < 50


@pytest.mark.parametrize("saved", [60, 100, 120])
def test_control_it_is_not_killed_elsewhere(saved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    school: Any = School(saved=saved, noted=81, step_seconds=0.01)
    monkeypatch.setattr(story.Ledger, "open", lambda layout: nullcontext(school))
    school.ledger = None
    with pytest.raises(NightschoolError, match="ended early"):
        story._wait_for_the_middle(school, school, print)


def test_a_folder_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(NightschoolError, match="no earlier demo"):
        story.tell(tmp_path, lambda _: None)
    assert (tmp_path / "precious").exists()


def test_the_passages_are_python_s_own_documentation_whole() -> None:
    text = "".join(corpus.topics())
    assert all(passage.strip() in text for passage in corpus.passages()[:50])
    assert sum(map(len, corpus.passages())) > 0.95 * len(text)


def test_the_plot_shows_curve_boundaries_and_kill() -> None:
    drawn = plot.loss_curve([3 - step / 50 for step in range(100)], [40], 55, 80, 20, colour=False)
    assert "kill -9" in drawn
    assert "loss, smoothed" in drawn
    assert "\x1b" not in drawn
    assert max(map(len, drawn.splitlines())) <= 80
    without = plot.loss_curve([3 - step / 50 for step in range(100)], [], None, 80, 20, colour=False)
    assert drawn.count("│") > without.count("│") + 10
    assert "kill" not in without


def test_smoothing_has_no_bias_at_its_beginning() -> None:
    assert plot.smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
