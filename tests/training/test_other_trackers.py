"""The same curve in MLflow, trackio and Weights & Biases, as far as they work on one machine: without their servers.

Their packages are many, so they are not among those for development: pip install 'nightschool[wandb,trackio,mlflow]'
makes these tests run.
"""

from __future__ import annotations

import importlib
import json
import math
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nightschool.ledger import HoldoutRow, Ledger
from nightschool.training import destinations
from nightschool.workspace import Layout
from tests.snapshots import made
from tests.training.test_tracking import Life, cut, loss_of, train

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed: nightschool[{name}]")
    for name in ("mlflow", "trackio", "wandb")
}


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    return made.workspace(tmp_path / "my model")


def tell(layout: Layout, name: str) -> list[str]:
    """Two lives of the process over two files, and one after going back into the second; the names of the runs."""
    titles = []

    def life(ledger: Ledger) -> None:
        one = Life(layout, ledger, name)
        one.tell()
        assert one.reporter.cursor.step == ledger.steps.count()
        titles.append(one.reporter.cursor.title)
        one.end()

    with Ledger.open(layout.ledger) as ledger:
        ledger.steps.delete_after(0)
        ledger.entries.replace_all(ledger.entries.all()[:2])
        ledger.holdouts.record([HoldoutRow(0, 1, 5, 30, 2.0, 1.5)])
        train(ledger, 1, 8)
        life(ledger)
        train(ledger, 9, 20)
        last = ledger.steps.last()
        assert last is not None
        ledger.steps.record([replace(last, grad_norm=math.nan)])
        life(ledger)
        cut(ledger, 2, 14, then=4)
        train(ledger, 15, 18, history=100)
        life(ledger)
    first, again, anew = titles
    assert again == first
    assert anew == f"{first}-2"
    return [first, anew]


LOSSES = [
    [(step, loss_of(step)) for step in range(1, 21)],
    [(step, loss_of(step, 100 if step > 14 else 0)) for step in range(1, 19)],
]
"""What each of the two runs is to have."""


@needs["mlflow"]
def test_mlflow_has_each_step_once_and_a_new_run_after_a_cut(layout: Layout) -> None:
    names = tell(layout, "mlflow")
    mlflow: Any = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{layout.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nightschool")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(names)

    def series(name: str, key: str) -> list[tuple[int, float]]:
        return sorted((one.step, one.value) for one in client.get_metric_history(runs[name].info.run_id, key))

    for name, losses in zip(names, LOSSES, strict=True):
        assert series(name, "train/loss") == losses
        assert series(name, "holdout/after") == [(10, 1.5)]
        assert runs[name].data.params["optimizer"] == "adamw_torch"
    assert series(names[1], "file/number") == [(1, 1.0), (11, 2.0), (15, 3.0)]


@needs["trackio"]
def test_trackio_has_each_step_once_and_a_new_run_after_a_cut(layout: Layout, tmp_path: Path) -> None:
    names = tell(layout, "trackio")
    with sqlite3.connect(tmp_path / "trackio" / "nightschool.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    database.close()
    for name, losses in zip(names, LOSSES, strict=True):
        told = [(step, json.loads(values)) for run, step, values in rows if run == name]
        assert [(step, values["train/loss"]) for step, values in told if "train/loss" in values] == losses
        assert [(step, values["holdout/after"]) for step, values in told if "holdout/after" in values] == [(10, 1.5)]
        assert (11, "2.jsonl") in [(step, values.get("file/name")) for step, values in told]


@needs["wandb"]
def test_wandb_offline_has_each_step_once_and_a_new_run_after_a_cut(layout: Layout) -> None:
    names = tell(layout, "wandb")
    destinations.leave("wandb")  # as the process does: only then is everything in the files
    for name, losses in zip(names, LOSSES, strict=True):
        # Offline, each life leaves a file of its own; the run's id in them makes one run of them.
        told = [
            values
            for file in sorted(layout.runs.glob(f"wandb/offline-run-*/run-{name}.wandb"))
            for values in history(file)
        ]
        assert [(values["_step"], pytest.approx(values["train/loss"])) for values in told] == losses
        assert [values["_step"] for values in told if "holdout/after" in values] == [10]
        assert (11, "2.jsonl") in [(values["_step"], values.get("file/name")) for values in told]


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a W&B file: records in blocks of 32 KiB, as LevelDB logs have them, each a protocol buffer."""
    proto: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()
            record.ParseFromString(part)
            part = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
