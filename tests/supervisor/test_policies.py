from __future__ import annotations

import signal

import pytest

from nightschool import errors
from nightschool.supervisor import policies
from nightschool.supervisor.policies import Record, Situation, Work, after_exit, state_word, work_of


def test_backoff_doubles_up_to_the_longest_delay() -> None:
    assert [policies.backoff(n, 1, 10) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert policies.backoff(10_000, 1, 300) == 300


def test_a_child_that_was_asked_is_stopped_whatever_its_code() -> None:
    for code in (0, -signal.SIGTERM, -signal.SIGKILL, 9):
        assert after_exit(code, True, 5, Record(5, crashes=2)).what == "stopped"


@pytest.mark.parametrize(
    "kind", [errors.SettingsError, errors.CheckpointError, errors.ModelError, errors.TrainingError]
)
def test_a_permanent_error_is_not_tried_again(kind: type[errors.NightschoolError]) -> None:
    verdict = after_exit(kind.exit_code, False, 100, Record(), "The model is gone.")
    assert (verdict.what, verdict.code, verdict.why) == ("fail", kind.exit_code, "The model is gone.")


def test_c5_full_disk_waits_ever_longer_and_never_gives_up() -> None:
    record, delays = Record(), []
    for _ in range(50):
        verdict = after_exit(8, False, 0, record)
        assert verdict.what == "disk"
        record = verdict.record
        delays.append(verdict.delay)
    assert delays[:4] == [10, 20, 40, 80]
    assert delays[-1] == policies.LONGEST_STORAGE_DELAY
    assert record.crashes == 0


def test_f1_f3_a_gpu_that_is_lost_or_taken_is_waited_for_and_blames_no_file() -> None:
    record, delays = Record(), []
    for _ in range(50):
        verdict = after_exit(policies.DEVICE, False, 0, record, "The GPU failed.", on_file=True)
        assert (verdict.what, verdict.why) == ("gpu", "The GPU failed.")
        record = verdict.record
        delays.append(verdict.delay)
    assert delays[:4] == [5, 10, 20, 40]
    assert delays[-1] == policies.LONGEST_DELAY
    assert record.crashes == 0


def test_f3_control_crashes_at_one_place_do_blame_it() -> None:
    record, said = Record(), []
    for _ in range(policies.FILE_CRASHES):
        verdict = after_exit(1, False, 0, record, on_file=True)
        record = verdict.record
        said.append(verdict.what)
    assert said == ["restart", "restart", "blame"]


def test_a_held_lock_is_waited_for() -> None:
    assert after_exit(5, False, 0, Record(), "process 12 holds it").what == "busy"


@pytest.mark.parametrize("code", [1, 2, 77, -signal.SIGKILL, -signal.SIGSEGV, 0])
def test_anything_else_is_a_crash_and_restarts_with_backoff(code: int) -> None:
    first = after_exit(code, False, 0, Record())
    second = after_exit(code, False, 0, first.record)
    assert (first.what, first.delay, second.delay) == ("restart", 1, 2)


def crashes_until_failed(progress_per_life: int, lives: int = 40) -> int | None:
    record, progress = Record(), 0
    for life in range(1, lives + 1):
        progress += progress_per_life
        verdict = after_exit(-signal.SIGSEGV, False, progress, record)
        if verdict.what == "fail":
            assert verdict.code == errors.TrainingError.exit_code
            assert "SIGSEGV" in verdict.why
            return life
        record = verdict.record
    return None


def test_b7_five_crashes_without_a_new_step_are_the_end_and_progress_starts_the_count_anew() -> None:
    assert crashes_until_failed(0) == 5
    assert crashes_until_failed(1) is None


def test_steps_done_again_after_a_restart_are_no_progress() -> None:
    # Step 100 reached, crash, back to the checkpoint at 50, 100 reached again, crash: nothing is gained.
    record = Record()
    verdicts = []
    for _ in range(policies.CRASHES + 1):
        for reached in (100, 50):
            verdict = after_exit(-9, False, reached, record)
            record = verdict.record
            verdicts.append(verdict.what)
    assert "fail" in verdicts


def test_how_a_process_ended_is_said_in_words() -> None:
    assert "SIGKILL" in policies.describe_exit(-9)
    assert "memory" in policies.describe_exit(-9)
    assert policies.describe_exit(3) == "ended with exit code 3"
    assert "signal 99" in policies.describe_exit(-99)


def test_every_exit_code_of_an_error_is_known_to_the_policy() -> None:
    own = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.NightschoolError)}
    assert own - {errors.NightschoolError.exit_code} == {
        *policies.PERMANENT,
        policies.FILE,
        policies.STORAGE,
        policies.BUSY,
        policies.DEVICE,
    }


def test_work_is_summed_up_by_stage() -> None:
    work = work_of({"arrived": 1, "archived": 2, "ready": 3, "training": 1, "trained": 1, "learned": 9}, inbox=4)
    assert (work.to_prepare, work.to_train, work.inbox, work.finished) == (3, 5, 4, 9)
    assert not work.idle
    assert work_of({"learned": 3, "rejected": 1}, 0).idle


def test_handled_grows_with_every_move_of_a_file() -> None:
    path = ["arrived", "archived", "ready", "training", "trained", "learned"]
    grown = [work_of({state: 1}, 0).handled for state in path]
    assert grown == sorted(grown)
    assert grown[0] < grown[1] < grown[2]


READY = Work(ready=1)
PAUSED = ("paused", "`nightschool resume` goes on")


@pytest.mark.parametrize(
    ("situation", "word"),
    [
        (Situation(Work()), "idle"),
        (Situation(Work(inbox=1)), "idle"),
        (Situation(Work(arrived=1)), "preparing"),
        (Situation(READY), "starting"),
        (Situation(READY, trainer_alive=True), "starting"),
        (Situation(READY, trainer_alive=True, phase="loading"), "starting"),
        (Situation(READY, trainer_alive=True, phase="training", file="a"), "training"),
        (Situation(READY, rest=PAUSED, trainer_alive=True), "saving"),
        (Situation(READY, rest=PAUSED), "paused"),
        (Situation(READY, rest=PAUSED, problem=("restarting", "x")), "paused"),
        (Situation(READY, rest=PAUSED, problem=("failed", "x")), "failed"),
        (Situation(READY, problem=("waiting for disk", "x")), "waiting for disk"),
        (Situation(READY, stopping=True, trainer_alive=True, problem=("failed", "x")), "stopping"),
    ],
)
def test_one_plain_word_with_a_reason(situation: Situation, word: str) -> None:
    found, reason = state_word(situation)
    assert found == word
    assert reason
