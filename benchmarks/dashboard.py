"""The page: how long one waits for the chart, and what open tabs cost training.

python -m benchmarks.dashboard [--quick] [--threads N] [--only chart|tabs]

chart   a ledger with a million steps, two hundred files and the events of a year; the page's own process, as users
        have it; a real, headless browser that keeps nothing from before. The time from the navigation to two marks
        that the page sets: when the curve with its axes and names is painted, and when plotly has drawn it, so that
        it can be looked at closer. The first time after the page was started (it has read nothing of the ledger
        yet), the next with a new browser, and once more with that one, which has the scripts by then
tabs    the real trainer and the page's own process beside it. In turns: nobody watches, twice; fifty tabs are
        opened, each as if in a browser of its own (`benchmarks.tabs`); fifty tabs are open. The turns come in every
        order equally often. Tokens per second, over those of both turns in which nobody watches; what these differ
        by themselves (the control: it says what this computer can tell apart); and the trainer's slowest commit
"""

from __future__ import annotations

import itertools
import os
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import common
from nightschool.demo import corpus
from nightschool.intake import packing
from nightschool.intake.tokenise import Encoded, load_tokenizer
from nightschool.ledger import Arrival, EntryRow, Ledger, buckets
from nightschool.ledger.database import Database
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout

GOAL_CHART = 1.0
GOAL_TABS = 0.98
PATIENCE = 120.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
LOOKS = ("first", "next", "again")
TURNS = ("alone", "alone again", "opening", "open")
ORDERS = tuple(itertools.permutations(("alone", "alone again", "open")))
"""Tabs are opened right before they are open."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Attributes:
        history, files: steps and files in the ledger of the first part.
        charts: pages that are started; each is looked at twice.
        rounds: of the second part; a multiple of six has every order of the turns equally often.
        tabs: that are opened.
        steps: of a turn.
        hidden, layers, length: the model, and tokens per step.
    """

    history: int = 1_000_000
    files: int = 200
    charts: int = 10
    rounds: int = 12
    tabs: int = 50
    steps: int = 500
    hidden: int = 128
    layers: int = 2
    length: int = 256
    threads: int = 1


FULL = Plan()
QUICK = Plan(history=100_000, charts=2, rounds=6, steps=100)


def measure(plan: Plan, folder: Path, only: str | None = None) -> dict[str, Any]:
    """Measure both, or one; returns what `write` stores."""
    torch.set_num_threads(plan.threads)
    found: dict[str, Any] = {"benchmark": "dashboard", "where": common.machine(), "plan": asdict(plan)}
    base = common.make_base(folder / "base", plan.hidden, plan.layers)
    if only != "tabs":
        found["chart"] = _charts(plan, base, folder / "long")
    if only != "chart":
        found["tabs"] = _beside(plan, base, folder / "beside")
    return found


@contextmanager
def page(layout: Layout) -> Iterator[tuple[str, psutil.Process]]:
    """The page's own process over a workspace, and where it is."""
    with (layout.root / "page.out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nightschool.dashboard", "--workspace", str(layout.root), "--port", "0"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield _address(layout, process), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _address(layout: Layout, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + PATIENCE
    with Ledger.open(layout.ledger) as ledger:
        while True:
            told = ledger.machine.get("page") or {}
            if told.get("pid") == process.pid:
                return str(told["url"])
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the page was not served; see page.out in {layout.root}")
            time.sleep(0.02)


# --- the chart


def _charts(plan: Plan, base: Path, root: Path) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    layout = common.workspace(root, base, plan.threads)
    with Ledger.open(layout.ledger) as ledger:
        _live_through(ledger, plan)
    looks: dict[str, list[dict[str, float]]] = {name: [] for name in LOOKS}
    others = []
    with sync_playwright() as playwright:
        for _ in range(plan.charts):
            with page(layout) as (url, _process):
                others.append(_busy())
                # A new browser with a new profile keeps nothing, not even compiled scripts.
                with _new_browser(playwright) as context:
                    looks["first"].append(_look(context.new_page(), url))
                with _new_browser(playwright) as context:
                    looks["next"].append(_look(context.new_page(), url))
                    looks["again"].append(_look(context.new_page(), url))
    return {
        "steps": plan.history,
        "others_cores": common.spread(others),
        **{
            name: {key: common.spread([one[key] for one in found]) for key in found[0]} for name, found in looks.items()
        },
    }


@contextmanager
def _new_browser(playwright: Any) -> Iterator[Any]:
    browser = playwright.chromium.launch(executable_path=_browser(), args=list(BROWSER_OPTIONS))
    try:
        yield browser.new_context()
    finally:
        browser.close()


def _look(tab: Any, url: str) -> dict[str, float]:
    """Seconds from the navigation to the chart, and what of it was waited for."""
    tab.goto(url, wait_until="commit")
    told = tab.evaluate(
        """async () => {
            await new Promise((drawn) =>
                new PerformanceObserver((list) => list.getEntriesByName("chart").length && drawn())
                    .observe({ type: "mark", buffered: true }));
            const took = (one) => (one ? one.responseEnd - one.requestStart : 0);
            const script = performance.getEntriesByType("resource").find((one) => /plotly[^/]*[.]js/.test(one.name));
            const [document] = performance.getEntriesByType("navigation");
            return {
                curve: performance.getEntriesByName("curve")[0].startTime,
                chart: performance.getEntriesByName("chart")[0].startTime,
                document: took(document),
                plotly: script ? script.responseEnd : 0,
            };
        }"""
    )
    return {name: value / 1000 for name, value in told.items()}


def _browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise RuntimeError(f"none of {', '.join(BROWSERS)} is installed")
    return found


def _busy(seconds: float = 0.3) -> float:
    """Cores that are in use while nothing of this benchmark is at work."""
    before = common._foreign_seconds()
    time.sleep(seconds)
    return max(0.0, common._foreign_seconds() - before) / seconds


def _live_through(ledger: Ledger, plan: Plan) -> None:
    """A long life: steps, files and events, written as they would be but all at once."""
    chance = random.Random(0)
    each = max(1, plan.history // plan.files)
    with ledger.transaction():
        names = [Arrival(f"chats-{number:03}.jsonl", f"/dropped/{number}") for number in range(plan.files)]
        ids = ledger.files.arrive(names)
        ledger.entries.replace_all(
            [EntryRow(at, ((id, f"digest {id}", each),), "{}", each, 0, each, "") for at, id in enumerate(ids)]
        )
        for number in range(365):
            at = plan.history * number // 365
            ledger.events.add("resumed", f"Resumed from checkpoint-{at}.", step=at)
            ledger.events.add("snapshot", f"Took the snapshot {number}.", step=at, name=str(number), kind="nightly")
        ledger._database.write_many(
            "INSERT INTO steps VALUES (?, ?, ?, 0.0001, ?, 2048, 2000, 0.25, '')",
            (
                (step, step // each, 1.8 + 2 / (1 + step / 50_000) + chance.gauss(0, 0.1), chance.uniform(0.2, 1.0))
                for step in range(1, plan.history + 1)
            ),
        )
        buckets.make_all(ledger._database)


# --- training beside open tabs


def _beside(plan: Plan, base: Path, root: Path) -> dict[str, Any]:
    layout = common.workspace(root, base, plan.threads, training={"train_batch_size": 1})
    ids = load_tokenizer(base)("\n".join(corpus.passages()[:60]), add_special_tokens=False)["input_ids"]
    rows = [
        Encoded(number + 1, "text", np.array(ids[start : start + plan.length], np.int32), np.ones(plan.length, np.int8))
        for number, start in enumerate(range(0, len(ids) - plan.length, plan.length))
    ]
    sequences = packing.sequences(rows, plan.length, packing=False)
    # Opening the tabs takes a while too, during which training goes on.
    needed = (3 * plan.rounds + 1) * (5 * plan.steps + 2000)
    common.add_file(layout, "text", sequences, epochs=1 + needed // len(sequences))
    with page(layout) as (url, process), _tabs(url, plan.tabs) as tabs:
        contest = _Beside(plan, process, tabs)
        common.run_trainer(layout, contest.turns)
    kept = contest.rounds.kept
    return {
        "tabs": plan.tabs,
        "counted": contest.rounds.described(),
        "tokens_per_second": {name: common.spread([one[name]["speed"] for one in kept]) for name in TURNS},
        "ratios": {name: common.spread([_over_alone(one, name) for one in kept]) for name in TURNS[1:]},
        "slowest_commit": {name: max(one[name]["commit"] for one in kept) for name in TURNS},
        "commits": {name: common.spread([c for one in kept for c in one[name]["commits"]]) for name in TURNS},
        "page_cores": {name: common.spread([one[name]["cores"] for one in kept]) for name in TURNS},
        "tabs_cores": {name: common.spread([one[name]["tabs"] for one in kept]) for name in TURNS},
        "page_memory": common.spread([one["open"]["memory"] for one in kept]),
    }


def _over_alone(found: dict[str, Any], name: str) -> float:
    """The speed of a turn over that of both in which nobody watches; of the control, over the other one's."""
    unwatched = [found["alone"]["speed"], found["alone again"]["speed"]]
    return found[name]["speed"] / (unwatched[0] if name == "alone again" else statistics.harmonic_mean(unwatched))


class _Tabs:
    """The process that opens tabs, and closes them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, word: str) -> None:
        """Tell it to `open` or `close` them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def said(self, word: str) -> bool:
        """Whether it has said so. Raises RuntimeError where it said something else, or ended."""
        try:
            found = self._said.get_nowait()
        except queue.Empty:
            return False
        if found != word:
            raise RuntimeError(f"benchmarks.tabs said {found!r} instead of {word!r}: a tab has failed")
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.strip())
        self._said.put("nothing more")


@contextmanager
def _tabs(url: str, number: int) -> Iterator[_Tabs]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tabs", url, str(number)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY,
    )  # fmt: skip
    try:
        yield _Tabs(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        process.wait(PATIENCE)


class _Beside:
    """The trainer's turns with nobody who watches, with tabs that are opened, and with open ones."""

    def __init__(self, plan: Plan, process: psutil.Process, tabs: _Tabs) -> None:
        self._plan, self._page, self._tabs = plan, process, tabs
        self._others = (process, psutil.Process(tabs.pid))
        self._commits: list[float] = []
        self.rounds: common.Rounds[dict[str, Any]] = common.Rounds(plan.rounds, self._used)

    def _used(self) -> float:
        return sum(one.cpu_times().user for one in self._others)

    def turns(self, trainer: Trainer) -> Generator[None]:
        """The plan of the trainer: see `common.Turns`."""
        _timed(trainer.ledger, self._commits)
        for _ in range(self._plan.steps):
            yield
        for hand_in in self.rounds:
            found: dict[str, Any] = {}
            for name in ORDERS[self.rounds.done % len(ORDERS)]:
                if name != "open":
                    yield from self._turn(found, name)
                    continue
                self._tabs.tell("open")
                yield from self._turn(found, "opening")
                while not self._tabs.said("opened"):
                    yield
                yield from self._turn(found, "open")
                self._tabs.tell("close")
                while not self._tabs.said("closed"):
                    yield
            hand_in(found)

    def _turn(self, found: dict[str, Any], name: str) -> Generator[None]:
        self._commits.clear()
        used = [sum(one.cpu_times()[:2]) for one in self._others]
        began = time.perf_counter()
        for _ in range(self._plan.steps):
            yield
        seconds = time.perf_counter() - began
        commits = list(self._commits)
        cores = [(sum(one.cpu_times()[:2]) - before) / seconds for one, before in zip(self._others, used, strict=True)]
        found[name] = {
            "speed": self._plan.steps * self._plan.length / seconds,
            "commit": max(commits, default=0.0),
            "commits": commits or [0.0],
            "cores": cores[0],
            "tabs": cores[1],
            "memory": self._page.memory_info().rss,
        }


def _timed(ledger: Ledger, seconds: list[float]) -> None:
    """Note how long each of its transactions takes, from asking for the lock to the end of the commit."""
    database = ledger._database
    real = Database.transaction

    @contextmanager
    def transaction() -> Iterator[None]:
        outermost, began = not database._depth, time.perf_counter()
        with real(database):
            yield
        if outermost:
            seconds.append(time.perf_counter() - began)

    database.transaction = transaction  # type: ignore[method-assign]


# --- the report


def show(result: dict[str, Any]) -> str:
    """The result as people read it."""
    parts = [common.heading(result["where"])]
    if "chart" in result:
        chart = result["chart"]
        rows = [
            [name, *(common.shown(chart[name][key]) for key in ("curve", "chart", "document", "plotly"))]
            for name in LOOKS
        ]
        head = [
            "look after a start",
            "curve painted, s",
            "plotly's chart",
            "the document's answer",
            "plotly there",
        ]
        parts += [
            f"{chart['steps']:,} steps in the ledger; median (quartiles). Goal: the curve in less than {GOAL_CHART} s.",
            common.table(head, rows),
            f"Other programs used {common.shown(chart['others_cores'], 2)} cores before the looks.",
        ]
    if "tabs" in result:
        tabs = result["tabs"]
        rows = [
            [
                name, common.shown(tabs["tokens_per_second"][name], 0),
                common.shown(tabs["ratios"][name]) if name in tabs["ratios"] else "",
                f"{statistics.median(tabs['commits'][name]['values']) * 1e3:.1f}",
                f"{tabs['slowest_commit'][name] * 1e3:.1f}", common.shown(tabs["page_cores"][name], 2),
                common.shown(tabs["tabs_cores"][name], 2),
            ]
            for name in TURNS
        ]  # fmt: skip
        head = [
            "tabs",
            "tokens/s",
            "over alone",
            "commit, ms",
            "slowest commit, ms",
            "the page's cores",
            "the tabs' own",
        ]
        parts += [
            f"Training beside {tabs['tabs']} tabs; median (quartiles). Goal over alone, while they are open: "
            f"at least {GOAL_TABS}.",
            common.table(head, rows),
            f"The page's process holds {tabs['page_memory']['median'] / 1e6:.0f} MB.\n{common.told(tabs['counted'])}",
        ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write out/benchmarks/dashboard.json."""
    parser = common.parser("dashboard", "The wait for the chart, and what open tabs cost training.")
    parser.add_argument("--only", choices=("chart", "tabs"), help="measure one of the two")
    options = parser.parse_args(arguments)
    plan = replace(QUICK if options.quick else FULL, threads=options.threads)
    common.quiet_libraries()
    os.environ.setdefault("OMP_NUM_THREADS", str(plan.threads))
    with common.scratch(options.out) as folder:
        result = measure(plan, folder, options.only)
    print(show(result))
    print(f"\nWritten to {common.write(options.out, 'dashboard', result)}.")


if __name__ == "__main__":
    main()
