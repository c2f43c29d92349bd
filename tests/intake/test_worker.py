"""The worker: what it does next, who is blamed when it fails, and that a crash changes nothing in the end."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
import tracemalloc
from typing import Any

import pytest

from nightschool import gathering, inforce, queueing
from nightschool.errors import ModelError, SettingsError, StorageError
from nightschool.intake import accept, packing, prepare, watch, worker
from nightschool.intake import tools as intake_tools
from nightschool.intake.recipe import is_current
from nightschool.intake.tools import Tools
from nightschool.ledger import NOW
from tests import tiny

from .workspaces import TODAY, Killed, Workspace, dying, lines

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}


def test_files_are_prepared_a_few_ahead_and_the_head_of_the_queue_always(place, monkeypatch):
    monkeypatch.setattr(gathering, "MOST_BYTES", 0)  # no file is small
    numbers = [place.drop(f"{i}.jsonl", lines({"text": f"file {i}"})) for i in range(5)]
    done = place.work()
    assert done.count("archived") == 5
    assert done.count("ready") == worker.AHEAD
    urgent = place.layout.inbox / "high" / "z.jsonl"
    urgent.write_bytes(lines({"text": "urgent"}))
    (number,) = place.look()
    assert place.work() == ["archived", "ready"]
    assert place.get(number).state == "ready"
    assert [place.get(n).state for n in numbers] == ["ready"] * 3 + ["archived"] * 2


def test_a_file_that_interrupts_is_prepared_before_others_are_even_taken_in(place):
    place.drop("a.jsonl", lines({"text": "a"}))
    urgent = place.drop("u.jsonl", lines({"text": "u"}))
    place.drop("z.jsonl", lines({"text": "z"}))
    place.ledger.line.priority(urgent, NOW)
    assert place.work()[:3] == ["archived", "ready", "archived"]
    assert place.get(urgent).state == "ready"


@pytest.mark.parametrize("text", ["some text", ""], ids=["good", "rejected"])
def test_a_file_that_is_taken_out_of_the_queue_while_it_is_prepared_ends_nothing(place, text):
    number = place.drop("a.jsonl", lines(*({"text": text} for _ in range(600))))
    place.worker().step()

    def between() -> bool:
        if place.get(number).state == "archived":
            queueing.remove(place.ledger, [place.get(number)])
        return False

    place.worker(stopping=between).step()
    assert place.get(number).state == ("set_aside" if text else "rejected")
    assert place.work() == []


def test_small_files_are_prepared_as_many_ahead_as_begin_together(place, monkeypatch):
    """Nothing begins while it is not known whether the next is small: waiting for the trainer would be for ever."""
    monkeypatch.setattr(gathering, "MOST_FILES", 3)
    for number in range(12):
        place.drop(f"{number}.jsonl", lines({"text": f"file {number}"}))
    assert place.work().count("ready") == worker.AHEAD * 3


def test_small_files_that_come_before_what_is_kept_ready_are_prepared_all_the_same(place):
    """Enough is ready, but behind them: if nothing more were prepared, nothing would begin, and so nothing be used."""
    for number in range(worker.AHEAD):
        place.drop(f"{number}.jsonl", lines(*({"text": f"{number} {row}"} for row in range(500))))
    place.work()
    for name in "ab":
        (place.layout.inbox / "high" / f"{name}.jsonl").write_bytes(lines({"text": name}))
    urgent = place.look()
    place.work()
    assert [place.get(number).state for number in urgent] == ["ready", "ready"]
    gather_rows = place.settings.inbox.gather_rows
    begun = gathering.together(place.ledger.files.queue(), gather_rows, lambda row: "{}")
    assert [row.id for row, _ in begun] == urgent


def test_the_folder_of_prepared_data_may_be_removed_as_a_whole(place):
    number = place.drop("a.jsonl", lines({"text": "a"}))
    place.work()
    shutil.rmtree(place.layout.prepared)
    place.drop("b.jsonl", lines({"text": "b"}))
    assert place.work() == ["archived", "ready", "ready"]
    assert (place.layout.prepared / str(place.get(number).prepared)).is_dir()


def test_a_worker_that_is_stopped_in_the_middle_leaves_nothing_behind(place):
    number = place.drop("a.jsonl", lines(*tiny.text_rows(600)))
    calls = iter(range(1000))
    busy = place.worker(stopping=lambda: next(calls) >= 2)
    assert busy.step() == "archived"
    with pytest.raises(worker.Stopped):
        busy.step()
    assert place.get(number).state == "archived"
    assert not list(place.layout.prepared.iterdir())
    assert not list(place.layout.tmp.iterdir())
    assert place.work() == ["ready"], "being stopped does not count against the file"


def test_b7_a_file_that_ends_the_process_again_and_again_is_rejected(place, monkeypatch):
    number = place.drop("a.jsonl", lines({"text": "poison"}))
    good = place.drop("b.jsonl", lines({"text": "fine"}))
    place.worker().step()
    place.worker().step()

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "prepare", die)
        for _ in range(worker.TRIES):
            with pytest.raises(Killed):
                place.worker().step()
            place.restart()
    assert place.work() == ["rejected", "ready"]
    assert "ended the intake process 3 times" in (place.get(number).reason or "")
    assert place.get(good).state == "ready"


def attempts(place: Workspace) -> Any:
    return place.ledger.machine.get(worker.ATTEMPTS)


def take_down_the_machine(place: Workspace, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The whole machine ends `times` times while a file is prepared, and starts again."""

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "prepare", die)
        for _ in range(times):
            with pytest.raises(Killed):
                place.work()
            place.restart()
            worker.count_restart(place.ledger)


def test_b7_a_file_that_takes_the_whole_machine_down_is_rejected_in_the_end(place, monkeypatch):
    number = place.drop("a.jsonl", lines({"text": "poison"}))
    take_down_the_machine(place, monkeypatch, worker.TRIES)
    good = place.drop("b.jsonl", lines({"text": "fine"}))
    assert place.work() == ["archived", "rejected", "ready"]
    assert "the whole machine ended 3 times while this file was prepared" in (place.get(number).reason or "")
    assert place.get(good).state == "ready"
    assert attempts(place) is None


def test_b7_control_a_count_that_every_start_forgets_never_ends(place, monkeypatch):
    """What a start did before: the file is tried again for ever."""
    number = place.drop("a.jsonl", lines({"text": "poison"}))
    monkeypatch.setattr(worker, "count_restart", lambda ledger: ledger.machine.delete(worker.ATTEMPTS))
    take_down_the_machine(place, monkeypatch, 3 * worker.TRIES)
    assert place.get(number).state == "archived"


def test_b7_a_power_cut_does_not_count_as_a_crash_of_the_file(place, monkeypatch):
    number = place.drop("a.jsonl", lines({"text": "good"}))
    take_down_the_machine(place, monkeypatch, worker.TRIES - 1)
    assert attempts(place)["files"] == {str(number): [0, 2]}
    assert place.work() == ["ready"]
    assert attempts(place) is None


def test_b7_a_start_while_nothing_was_prepared_counts_nothing(place):
    place.drop("a.jsonl", lines({"text": "good"}))
    place.worker().step()
    for _ in range(5):
        worker.count_restart(place.ledger)
    assert attempts(place) is None
    place.ledger.machine.set(worker.ATTEMPTS, {"running": None, "files": {"1": [2, 1]}})
    worker.count_restart(place.ledger)
    assert attempts(place) == {"running": None, "files": {"1": [2, 1]}}
    assert place.work() == ["ready"]


def test_b7_an_end_while_the_tokenizer_is_loaded_is_not_counted_against_the_file(place, monkeypatch):
    """Loading takes seconds, preparing a small file takes none: ends at random moments fall into the loading."""
    number = place.drop("a.jsonl", lines({"text": "good"}))

    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(intake_tools, "Tools", die)
        for _ in range(2 * worker.TRIES):
            with pytest.raises(Killed):
                place.work()
            place.restart()
            worker.count_restart(place.ledger)
    assert attempts(place) is None
    assert place.work() == ["ready"]
    assert place.get(number).state == "ready"


def test_b7_another_file_in_between_does_not_wipe_the_count(place, monkeypatch):
    number = place.drop("a.jsonl", lines({"text": "poison"}))
    for round in range(worker.TRIES):
        take_down_the_machine(place, monkeypatch, 1)
        (place.layout.inbox / "high" / f"{round}.jsonl").write_bytes(lines({"text": f"urgent {round}"}))
        (urgent,) = place.look()
        one = place.worker()
        assert [one.step(), one.step()] == ["archived", "ready"]
        place.ledger.files.set_state(urgent, "learned")
    assert place.work() == ["rejected"]
    assert place.get(number).state == "rejected"


# --- prepared data that nothing refers to


def prepared(place: Workspace) -> set[str]:
    return {folder.name for folder in place.layout.prepared.iterdir()}


def told(place: Workspace) -> int:
    return place.ledger.machine.get(worker.TOLD)["prepared_bytes"]


def test_prepared_data_that_is_out_of_date_goes_and_what_is_needed_stays(place):
    numbers = [place.drop(f"{i}.jsonl", lines({"text": f"file {i}"})) for i in range(3)]
    place.work()
    old = {n: place.get(n).prepared for n in numbers}
    place.ledger.files.begin(numbers[0])
    assert prepared(place) == set(old.values())
    place.settings = place.with_settings(max_length=16)
    place.work()
    assert prepared(place) == {place.get(n).prepared for n in numbers}
    assert place.get(numbers[0]).prepared == old[numbers[0]]
    assert old[numbers[1]] not in prepared(place)
    assert told(place) == worker.size_below(place.layout.prepared)


def test_prepared_data_of_rejected_files_goes_with_the_next_start(place):
    kept, gone = (place.drop(name, lines({"text": name})) for name in ("a", "b"))
    place.work()
    place.ledger.files.reject(gone, "because")
    (place.layout.prepared / "nobody-knows-it").mkdir()
    (place.layout.prepared / "nobody-knows-it" / "data").write_bytes(b"x" * 100)
    place.work()
    assert prepared(place) == {place.get(kept).prepared}
    assert told(place) == worker.size_below(place.layout.prepared)


@pytest.mark.parametrize("state", ["ready", "training", "trained", "learned", "archived"])
def test_control_prepared_data_that_replay_or_the_queue_needs_stays(place, state):
    number = place.drop("a.jsonl", lines({"text": "a"}))
    place.work()
    place.ledger.files.set_state(number, state)
    place.ledger.amounts.prepared_names()
    worker.Worker(place.layout, place.ledger, place.settings)._clean()
    assert prepared(place) == {place.get(number).prepared}


def test_prepared_data_of_two_files_with_the_same_bytes_stays_for_the_other(place):
    first = place.drop("a.jsonl", lines({"text": "a"}))
    place.work()
    second = place.drop("b.jsonl", lines({"text": "a"}), again=True)
    place.work()
    assert place.get(first).prepared == place.get(second).prepared
    assert told(place) == worker.size_below(place.layout.prepared), "counted once"
    place.ledger.files.set_state(first, "rejected", "because")
    place.work()
    assert prepared(place) == {place.get(second).prepared}


def test_e4_a_file_trains_from_the_archive_once_it_is_accepted(place):
    number = place.drop("folder.jsonl", lines({"text": "a"}))
    assert place.worker().step() == "archived"
    shutil.rmtree(place.layout.inbox)
    assert place.work() == ["ready"]
    assert place.get(number).rows_good == 1


def test_e4_control_without_the_archive_it_does_not(place):
    number = place.drop("a.jsonl", lines({"text": "a"}))
    place.worker().step()
    (place.layout.root / (place.get(number).archive or "")).unlink()
    assert place.work() == ["rejected"]


def test_settings_beside_a_file_decide_how_it_is_read(place):
    (place.layout.inbox / "a.jsonl.toml").write_text('[columns]\ntext = "body"\n')
    number = place.drop("a.jsonl", lines({"body": "hello"}))
    other = place.drop("b.jsonl", lines({"body": "hello there"}))
    assert place.work() == ["archived", "archived", "ready", "rejected"]
    assert place.get(number).rows_good == 1
    assert place.get(other).state == "rejected", "control: without them its rows have no known column"


def test_a_model_without_a_tokenizer_blames_no_file(tmp_path):
    place = Workspace(tmp_path / "w", tmp_path / "missing")
    number = place.drop("a.jsonl", lines(CHAT))
    with pytest.raises(ModelError):
        place.work()
    assert place.get(number).state == "archived"


def test_a_template_that_is_no_jinja_blames_no_file(place, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for %}")
    settings = place.settings
    broken = settings.model.model_copy(update={"chat_template": str(tmp_path / "t.jinja")})
    place.settings = settings.model_copy(update={"model": broken})
    number = place.drop("a.jsonl", lines(CHAT))
    with pytest.raises(SettingsError, match="no valid Jinja"):
        place.work()
    assert place.get(number).state == "archived"


def test_a_file_that_is_still_written_to_does_not_hold_up_the_others(place):
    first, second = place.drop("a.jsonl", lines({"text": "a"})), place.drop("b.jsonl", lines({"text": "b"}))
    slow = place.worker()
    with (place.layout.inbox / "a.jsonl").open("ab") as file:
        if not watch.held_open(place.layout.inbox / "a.jsonl"):
            pytest.skip("this file system grants no leases")
        assert [slow.step() for _ in range(3)] == ["later", "archived", "ready"]
        head = place.ledger.files.next_to_train()
        assert head is not None
        assert (head.id, head.state) == (second, "ready")
        file.write(b"\n")
    (again,) = place.look()
    assert again > first
    assert slow.step() == "archived"


# --- settings that changed, and data that is gone


@pytest.mark.parametrize("change", [{"max_length": 16}, {"packing": True}, {"loss_on": "all"}, {"overflow": "split"}])
def test_a12_a_file_that_has_not_begun_is_prepared_again_when_a_setting_changed(place, change):
    number = place.drop("a.jsonl", lines(CHAT))
    assert place.work() == ["archived", "ready"]
    old = place.get(number).prepared
    assert place.work() == [], "unchanged, it stays as it is"
    place.settings = place.with_settings(**change)
    assert place.work() in (["ready"], ["rejected"])
    assert place.get(number).state == "rejected" or place.get(number).prepared != old


def test_a12_a_file_that_has_begun_keeps_what_it_was_prepared_with(place):
    number = place.drop("a.jsonl", lines(CHAT))
    place.work()
    place.ledger.files.begin(number)
    old = place.get(number).prepared
    place.settings = place.with_settings(loss_on="all")
    assert place.work() == []
    assert place.get(number).prepared == old


def test_a_file_set_back_to_archived_is_prepared_under_todays_settings(place):
    """As the trainer does with a file whose data is gone or stale, the old folder still there."""
    number = place.drop("a.jsonl", lines(CHAT))
    place.work()
    old = place.get(number).prepared
    place.ledger.files.set_state(number, "archived")
    assert place.work() == ["ready"]
    assert place.get(number).prepared == old
    place.ledger.files.set_state(number, "archived")
    place.settings = place.with_settings(loss_on="all")
    assert place.work() == ["ready"]
    assert place.get(number).prepared != old


def test_settings_that_are_accepted_while_it_works_count_from_the_next_step_on(place):
    number = place.drop("a.jsonl", lines({"text": "a"}))
    busy = place.worker()
    assert [busy.step(), busy.step()] == ["archived", "ready"]
    text = f'[model]\nname = "{place.model}"\n[data]\nmax_length = 77\n[training]\nepochs = 3\n'
    place.layout.settings_file.write_text(text)
    assert busy.step() is None, "what was not accepted does not count"
    inforce.accept(place.layout, text.encode())
    assert busy.step() == "ready", "what has not begun is prepared again"
    folder = place.layout.prepared / str(place.get(number).prepared)
    assert prepare.read_meta(folder)["recipe"]["max_length"] == 77
    assert place.ledger.machine.get(worker.TOLD)["epochs"] == 3
    assert busy.step() is None


def test_is_current_compares_what_it_is_given():
    made = {"v": 1, "max_length": 8, "max_bad_rows": 0.2, "date": None, "tokenizer": "a", "chat_template_kwargs": {}}
    assert is_current(made, made)
    assert is_current(made, {"max_length": 8})
    assert is_current(made, made | {"max_bad_rows": 0.5, "date": "2026-11-22"})
    for key, value in {"v": 2, "max_length": 9, "tokenizer": "b", "chat_template_kwargs": {"x": 1}, "new": 1}.items():
        assert not is_current(made, made | {key: value}), key
    assert not is_current({}, made)


# --- a crash between any two steps


def fill(place: Workspace) -> None:
    place.drop("good.jsonl", lines({"text": "a"}, {"text": "b"}))
    place.drop("partly.jsonl", lines(*[{"text": str(i)} for i in range(9)], b"bad"))
    place.drop("broken.jsonl", lines(b"bad", {"text": "c"}))
    while row := place.ledger.files.next_to_take():
        accept.take(place.layout, place.ledger, row, TODAY)


def test_law_3_a_crash_between_any_two_steps_of_preparing_ends_in_the_same_result(tmp_path, model, monkeypatch):
    calm = Workspace(tmp_path / "calm", model)
    tools = Tools(calm.settings)
    monkeypatch.setattr(intake_tools, "Tools", lambda *_: tools)
    fill(calm)
    with dying(calm, 10_000) as counted:
        calm.work()
    expected = calm.picture()
    states = [row.state for row in calm.rows()]
    assert states == ["ready", "ready", "rejected"]
    before = Workspace(tmp_path / "before", model)
    fill(before)
    before.ledger.close()
    for point in range(counted.count):
        shutil.copytree(before.layout.root, tmp_path / str(point))
        place = Workspace(tmp_path / str(point), model)
        with contextlib.suppress(Killed), dying(place, point):
            place.work()
        place.restart()
        place.work()
        assert place.picture() == expected, (point, counted.names[point])
        assert not list(place.layout.tmp.iterdir())
        assert not [p for p in place.layout.rejected.iterdir() if p.name.startswith(".")]
        place.ledger.close()


# --- memory (B11)


def test_b11_memory_does_not_grow_with_the_file(place, monkeypatch):
    """A file six times as long does not take twice the memory."""
    monkeypatch.setattr(packing, "BLOCK_ROWS", 50)
    tools = Tools(place.settings)
    monkeypatch.setattr(intake_tools, "Tools", lambda *_: tools)
    place.drop("warm.jsonl", lines({"text": "x"}))
    place.work()

    def peak(count: int, kind: str) -> int:
        rows = [{"text": f"{kind} {count} {i} " + "word " * 400} for i in range(count)]
        number = place.drop(f"{kind}-{count}.jsonl", lines(*rows))
        del rows
        tracemalloc.start()
        place.work()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        place.ledger.files.begin(number)  # or too many would be ready for the next one to be prepared
        return found

    # The smaller one fills every buffer there is.
    small, large = peak(600, "bounded"), peak(3600, "bounded")
    assert large < 2 * small
    # Control: with all rows in one block it grows.
    monkeypatch.setattr(packing, "BLOCK_ROWS", 10**9)
    monkeypatch.setattr(packing, "BLOCK_TOKENS", 10**9)
    assert peak(3600, "unbounded") > 2 * large


def test_a_file_whose_taking_takes_long_stands_in_the_ledger_meanwhile(place, monkeypatch):
    seen: list[object] = []
    real = accept.take

    def take(layout: object, ledger: Any, row: Any, today: str) -> object:
        end = time.monotonic() + (60 if slow else 0.3)
        while time.monotonic() < end and ledger.machine.get(worker.ATTEMPTS) is None:
            time.sleep(0.01)
        seen.append(ledger.machine.get(worker.ATTEMPTS))
        if refuses:
            raise StorageError("full", errno.ENOSPC)
        return real(layout, ledger, row, today)  # type: ignore[arg-type]

    monkeypatch.setattr(accept, "take", take)
    for slow, refuses in ((True, False), (False, False), (True, True)):
        monkeypatch.setattr(worker, "SLOW_SECONDS", 0.01 if slow else 5.0)
        number = place.drop("a.jsonl", lines({"text": f"a{slow}{refuses}"}))
        with pytest.raises(StorageError) if refuses else contextlib.nullcontext():
            place.worker().step()
        assert seen.pop() == ({"running": number, "files": {str(number): [0, 0]}} if slow else None)
        assert place.ledger.machine.get(worker.ATTEMPTS) is None
        assert (place.get(number).state == "arrived") == refuses


def hang_while_taking(place: Workspace, number: int, times: int, watched: bool = True) -> None:
    """As a worker leaves it that was ended in the middle of it."""
    for _ in range(times):
        files = (place.ledger.machine.get(worker.ATTEMPTS) or {"files": {}})["files"]
        running = {"running": number, "files": {str(number): [0, 0], **files}}
        place.ledger.machine.set(worker.ATTEMPTS, running)
        if watched:
            worker.count_hang(place.ledger)
        place.restart()


def test_b7_a_file_that_cannot_be_taken_without_hanging_is_refused_where_it_lies_and_others_proceed(place):
    bad = place.drop("bad.jsonl", lines({"text": "a"}))
    good = place.drop("good.jsonl", lines({"text": "b"}))
    hang_while_taking(place, bad, worker.TRIES)
    assert place.work()[0] == "rejected"
    row = place.get(bad)
    assert (row.state, row.reason) == (
        "rejected", "taking it out of the inbox hung 3 times; when it can be read there, drop it again"
    )  # fmt: skip
    assert (place.layout.inbox / "bad.jsonl").read_bytes() == lines({"text": "a"}), "not a byte is lost"
    assert "it was left where it is" in (place.layout.rejected / "bad.jsonl.why.txt").read_text()
    assert place.get(good).state == "ready"
    assert place.ledger.machine.get(worker.ATTEMPTS) is None


def test_one_hang_less_or_ends_that_are_nobodys_fault_refuse_nothing(place):
    for times, watched in ((worker.TRIES - 1, True), (3 * worker.TRIES, False)):
        bad = place.drop("bad.jsonl", lines({"text": f"a{times}"}))
        hang_while_taking(place, bad, times, watched)
        place.work()
        assert place.get(bad).state == "ready"
        assert place.ledger.machine.get(worker.ATTEMPTS) is None


def test_a_file_whose_bytes_are_here_already_is_taken_however_often_it_hung(place):
    """Rejected, it would be cleared away as one that is done with: the only copies of its bytes would go."""
    bad = place.drop("bad.jsonl", lines({"text": "a"}))
    hang_while_taking(place, bad, worker.TRIES)
    staged = place.layout.incoming / "taken" / str(bad)
    staged.parent.mkdir(parents=True, exist_ok=True)
    staged.write_bytes(lines({"text": "a"}))
    place.work()
    assert place.get(bad).state == "ready"
    assert (place.layout.root / place.get(bad).archive).read_bytes() == lines({"text": "a"})


def test_a_hang_while_a_file_is_prepared_is_counted_once(place):
    number = place.drop("a.jsonl", lines({"text": "a"}))
    place.worker().step()
    place.ledger.machine.set(worker.ATTEMPTS, {"running": number, "files": {str(number): [1, 0]}})
    worker.count_hang(place.ledger)
    assert place.ledger.machine.get(worker.ATTEMPTS)["files"] == {str(number): [1, 0]}
    place.ledger.machine.set(worker.ATTEMPTS, {"running": 99, "files": {}})
    worker.count_hang(place.ledger)
    place.ledger.machine.delete(worker.ATTEMPTS)
    worker.count_hang(place.ledger)
