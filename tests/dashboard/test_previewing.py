"""Previews: made by a child process that nobody waits for in vain, one at a time, behind all other work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nightschool.dashboard.endpoints import TooMuch
from nightschool.dashboard.previewing import KEPT, MOST_WAITING, NICE, Previews
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Preview, Upload
from nightschool.dashboard.staged import Staged
from nightschool.errors import BusyError, DataError
from nightschool.workspace import Layout
from tests import tiny
from tests.dashboard.asking import ENDPOINTS, Asked, asking
from tests.dashboard.served import served
from tests.dashboard.serving import answer, head, sending, until
from tests.snapshots import made

TOML = '[model]\nname = "{}"\n[machine]\nmin_free_gb = 0\n'
GOOD = {
    "name": "x.jsonl", "container": "jsonl", "shape": "text", "complete": True, "rows_good": 2, "rows_bad": 0,
    "rows_held_out": 0, "rows_truncated": 0, "rows_split": 0, "tokens": 9, "tokens_cut": 0, "label_tokens": 9,
    "sequences": 1, "steps": 1, "repairs": {}, "lengths": [[4, 7, 2]], "bad_rows": [], "warnings": [],
    "problem": None, "examples": [],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Staged:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n')
    return Staged(path, Upload(id="x", name=path.name, bytes=14, looks_like="", warnings=[], expires_at=""), 1e9)


class Made:
    """Makes previews by running `code`, and notes each time."""

    def __init__(self, tmp_path: Path, code: str, limit: float = 60.0) -> None:
        self.asked: list[int] = []
        self.code = code
        self.pids = tmp_path / "pids"
        self.previews = Previews(Layout(tmp_path), self._command, limit)

    def _command(self, path: Path, rows: int) -> Sequence[str]:
        self.asked.append(rows)
        note = f"import os, sys, json, time\nwith open({str(self.pids)!r}, 'a') as f: f.write(f'{{os.getpid()}}\\n')\n"
        return [sys.executable, "-c", note + self.code]

    def alive(self) -> list[int]:
        found = [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]


PRINTS = f"print(json.dumps({GOOD!r}))"
SLEEPS = "time.sleep(600)"


async def here() -> bool:
    return False


def test_one_is_made_and_remembered_for_each_number_of_rows(tmp_path: Path, file: Staged) -> None:
    made_by = Made(tmp_path, PRINTS)

    async def ask() -> list[Preview]:
        return [await made_by.previews.of(file, rows, here) for rows in (200, 200, 0, 200)]

    found = asyncio.run(ask())
    assert made_by.asked == [200, 0]
    assert (found[0].rows_good, found[0].lengths) == (2, [(4, 7, 2)])
    assert found[1] is found[0]


def test_h6_what_is_remembered_has_an_end(tmp_path: Path, file: Staged) -> None:
    made_by = Made(tmp_path, PRINTS)

    async def ask() -> None:
        for rows in range(KEPT + 1):
            await made_by.previews.of(file, rows, here)
        await made_by.previews.of(file, KEPT, here)
        await made_by.previews.of(file, 0, here)

    asyncio.run(ask())
    assert made_by.asked == [*range(KEPT + 1), 0]


def test_h6_one_at_a_time_and_not_too_many_wait(tmp_path: Path, file: Staged) -> None:
    flag = tmp_path / "at-work"
    alone = f"""
try:
    os.mkdir({str(flag)!r})
except FileExistsError:
    sys.exit("nightschool: two at once")
time.sleep(0.05)
os.rmdir({str(flag)!r})
{PRINTS}
"""
    made_by = Made(tmp_path, alone)

    async def ask() -> list[Any]:
        asks = [made_by.previews.of(file, rows, here) for rows in range(MOST_WAITING + 2)]
        return await asyncio.gather(*asks, return_exceptions=True)

    found = asyncio.run(ask())
    assert [type(one) for one in found] == [Preview] * MOST_WAITING + [TooMuch] * 2
    assert found[-1].status == 429


def test_two_who_ask_for_the_same_get_the_same(tmp_path: Path, file: Staged) -> None:
    made_by = Made(tmp_path, PRINTS)

    async def ask() -> list[Preview]:
        return await asyncio.gather(*(made_by.previews.of(file, 5, here) for _ in range(3)))

    found = asyncio.run(ask())
    assert found[0] is found[1] is found[2]
    assert made_by.asked == [5]


@pytest.mark.parametrize(("code", "said"), [
    ("print('a warning', file=sys.stderr); sys.exit('nightschool: The base model is not there.')",
     "The base model is not there."),
    ("sys.exit(3)", "ended with code 3"),
    ("raise RuntimeError('secret of the inside')", "ended with code 1"),
    ("os.kill(os.getpid(), 9)", "ended by signal 9"),
    ("print('{}')", "cannot be read"),
    ("print('no JSON')", "cannot be read"),
])  # fmt: skip
def test_what_goes_wrong_is_a_sentence_and_not_remembered(tmp_path: Path, file: Staged, code: str, said: str) -> None:
    made_by = Made(tmp_path, code)
    with pytest.raises(DataError, match=said) as raised:
        asyncio.run(made_by.previews.of(file, 1, here))
    assert "Traceback" not in str(raised.value)
    assert "secret" not in str(raised.value)
    made_by.code = PRINTS
    assert asyncio.run(made_by.previews.of(file, 1, here)).rows_good == 2


def test_h6_one_that_takes_too_long_is_ended(tmp_path: Path, file: Staged) -> None:
    made_by = Made(tmp_path, SLEEPS, limit=1.0)
    with pytest.raises(DataError, match="Ask for fewer rows"):
        asyncio.run(made_by.previews.of(file, 1, here))
    assert made_by.alive() == []


def test_h6_one_that_says_too_much_is_ended(tmp_path: Path, file: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightschool.dashboard import previewing

    monkeypatch.setattr(previewing, "OUTPUT_BYTES", 1 << 20)
    made_by = Made(tmp_path, "while True: print('x' * 10000)")
    with pytest.raises(DataError, match="too large"):
        asyncio.run(made_by.previews.of(file, 1, here))
    assert made_by.alive() == []


def test_it_is_ended_with_all_that_it_started_when_nobody_waits_any_more(tmp_path: Path, file: Staged) -> None:
    note = f"with open({str(tmp_path / 'pids')!r}, 'a') as f: print(os.getpid(), file=f)"
    made_by = Made(tmp_path, f"os.fork()\n{note}\n{SLEEPS}")

    async def ask() -> None:
        async def gone() -> bool:
            return len(set(made_by.alive())) == 2

        with pytest.raises(BusyError, match="Nobody waits"):
            await made_by.previews.of(file, 1, gone)

    asyncio.run(ask())
    until(lambda: not [pid for pid in made_by.alive() if _runs(pid)])


def _runs(pid: int) -> bool:
    """Not a process that has ended and only waits to be collected, by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_ended_when_the_page_ends(tmp_path: Path, file: Staged) -> None:
    made_by = Made(tmp_path, SLEEPS)

    async def ask() -> None:
        task = asyncio.ensure_future(made_by.previews.of(file, 1, here))
        while not made_by.alive():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    assert made_by.alive() == []


KILLED = """
import asyncio, sys
from pathlib import Path
from nightschool.dashboard.previewing import Previews
from nightschool.dashboard.shapes import Upload
from nightschool.dashboard.staged import Staged
from nightschool.workspace import Layout

async def here():
    return False

root = Path(sys.argv[1])
upload = Upload(id="x", name="x.jsonl", bytes=14, looks_like="", warnings=[], expires_at="")
file = Staged(root / "x.jsonl", upload, 1e9)
asyncio.run(Previews(Layout(root), lambda path, rows: [sys.executable, "-c", sys.argv[2], path]).of(file, 1, here))
"""


@pytest.mark.parametrize("tied", [True, False], ids=["on a lifeline", "control"])
def test_it_ends_when_the_page_is_killed(layout: Layout, file: Staged, tied: bool) -> None:
    """The command itself, but that it reads for ever, and has started something. The control has no lifeline."""
    root, pids = layout.root, file.path.parent / "pids"
    reads = f"""
import os, sys, time
from nightschool.cli import main, preview
def look(*_):
    os.fork()
    with open({str(pids)!r}, "a") as f: print(os.getpid(), file=f)
    {SLEEPS}
preview._look = look
main(["-C", {str(root)!r}, "preview", *sys.argv[1:{None if tied else 2}]])
"""
    (root / "x.jsonl").write_text('{"text": "a"}\n')
    page = subprocess.Popen([sys.executable, "-c", KILLED, str(root), reads])

    def alive() -> list[int]:
        return [pid for pid in map(int, pids.read_text().split() if pids.exists() else ()) if _runs(pid)]

    try:
        until(lambda: len(alive()) == 2)
        page.kill()
        page.wait()
        if tied:
            until(lambda: not alive())
        else:
            time.sleep(1.0)
            assert len(alive()) == 2
    finally:
        page.kill()
        for pid in alive():
            os.kill(pid, signal.SIGKILL)


def test_it_stands_behind_all_other_work_without_network_and_gpu(tmp_path: Path, file: Staged) -> None:
    """It is put there from outside, a moment after its start: so it looks until it is there, for a minute."""
    expected = [str(min(19, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))), "", "1", "1000"]
    code = f"""
end, told = time.monotonic() + 60, None
while told != {expected!r} and time.monotonic() < end:
    time.sleep(0.01)
    told = [str(os.getpriority(os.PRIO_PROCESS, 0)), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HF_HUB_OFFLINE"],
            open("/proc/self/oom_score_adj").read().strip()]
print(json.dumps({{**{GOOD!r}, "warnings": told}}))
"""
    assert asyncio.run(Made(tmp_path, code).previews.of(file, 1, here)).warnings == expected


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    base = tiny.make_tokenizer(tmp_path / "base")
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_text("{}")
    return made.workspace(tmp_path / "ws", toml=TOML.format(base), steps=20)


@pytest.fixture
def page(layout: Layout) -> Iterator[Asked]:
    with asking(layout) as asked:
        yield asked


ASKS = """
import json, sys
from pathlib import Path
from nightschool.workspace import Layout
from tests.dashboard.asking import asking
rows = b'{"prompt": "What? ", "completion": "This."}\\n' * 30 + b'{"prompt": 1}\\n'
with asking(Layout(Path(sys.argv[1]))) as page:
    sent = page.send("rows.jsonl", rows)
    found = page.get(f"/api/uploads/{sent['id']}/preview?rows=0")
    page.post(f"/api/uploads/{sent['id']}/add")
slow = {"torch", "transformers", "tokenizers", "datasets", "pyarrow"} & set(sys.modules)
print(json.dumps([found, sorted(slow)]))
"""


@pytest.mark.slow
def test_a_real_one_and_the_page_itself_imports_nothing_slow(layout: Layout) -> None:
    done = subprocess.run([sys.executable, "-c", ASKS, str(layout.root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, slow = json.loads(done.stdout)
    assert (found["name"], found["container"], found["shape"]) == ("rows.jsonl", "jsonl", "prompt+completion")
    assert (found["complete"], found["rows_good"], found["rows_bad"]) == (True, 30, 1)
    assert found["bad_rows"][0]["line"] == 31
    learned = [piece["text"] for part in found["examples"][0] for piece in part["pieces"] if piece["learned"]]
    assert learned[0].startswith("This.")
    assert slow == []


def test_numbers_of_rows_that_make_no_sense_are_refused(page: Asked) -> None:
    sent = page.send("rows.jsonl", b'{"text": "a"}\n')
    for rows in ("-1", "many", "1e9", "1000001"):
        page.get(f"/api/uploads/{sent['id']}/preview?rows={rows}", 422)


def test_a_tab_that_is_closed_ends_the_work(tmp_path: Path, layout: Layout) -> None:
    made_by = Made(tmp_path, SLEEPS)
    services = Services(layout)
    services.previews = made_by.previews
    with served(services, ENDPOINTS) as at:
        body = b'{"text": "a"}\n'
        with sending(at, "x.jsonl", len(body), body) as client:
            assert answer(client)[0] == 200
        (id,) = services.uploads._staged
        with at.connect() as client:
            client.sendall(head("GET", f"/api/uploads/{id}/preview", None))
            until(lambda: bool(made_by.alive()))
        until(lambda: not made_by.alive())
    services.close()
