"""Workspaces with checkpoints made by hand, a few bytes each: whole and of one run, but nothing that trains."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable
from nightschool.curriculum import Entry, Part
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.record import RECORD, Record, entries_of, root_digest
from nightschool.settings import canonical
from nightschool.snapshots.states import Kind, Snapshot
from nightschool.snapshots.take import take
from nightschool.workspace import Layout

ROOT: dict[str, Any] = {"v": 1, "base": {"config.json": "0" * 64}, "method": "lora", "seed": 42, "tokenizer": "t"}
RECIPE = canonical({"v": 1, "data": {}, "train_batch_size": 1, "epochs": 1, "learning_rate": 1e-3})
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DAY = date(2026, 11, 22)
TOML = '[model]\nname = "base"\n'
FILES = 4
STEPS = 10
"""Steps of each file."""


def workspace(root: Path, *, toml: str = TOML, steps: int = FILES * STEPS) -> Layout:
    """A workspace in which four files of ten steps each were begun, and `steps` steps are recorded."""
    layout = Layout(root)
    layout.create()
    layout.settings_file.write_text(toml)
    for name in TOKENIZER:
        (layout.current_model / name).write_text(f"the {name}")
    with Ledger.create(layout.ledger) as ledger, ledger.transaction():
        ledger.machine.set("root", ROOT)
        names = [f"{number}.jsonl" for number in range(1, FILES + 1)]
        for number, name in enumerate(names, 1):
            archive = layout.archive / "2026-11-20" / name
            archive.parent.mkdir(exist_ok=True)
            archive.write_text(f"rows of {name}\n" * 20)
            (id,) = ledger.files.arrive([Arrival(name, f"/dropped/{name}")])
            found = durable_hash(archive)
            ledger.files.archived(id, found.sha256, found.bytes, str(archive.relative_to(root)))
            ledger.files.prepared_as(
                id, f"p{number}", shape="text", rows_good=10, rows_bad=0, tokens=100, label_tokens=100, sequences=STEPS,
                data_digest=f"d{number}",
            )  # fmt: skip
            if (number - 1) * STEPS < steps:
                ledger.entries.append([(id, f"d{number}", STEPS)], RECIPE, STEPS)
                ledger.files.begin(id)
        ledger.steps.record([StepRow(step, (step - 1) // STEPS, 1.0, 1e-3, 1.0, 10, 10, 0.1) for step in _to(steps)])
    return layout


def _to(steps: int) -> range:
    return range(1, steps + 1)


def durable_hash(path: Path) -> durable.Copied:
    import hashlib

    data = path.read_bytes()
    return durable.Copied(hashlib.sha256(data).hexdigest(), len(data))


def entries() -> list[Entry]:
    """All of the four files."""
    return [Entry((Part(n, f"d{n}", STEPS),), RECIPE, 0, STEPS) for n in range(1, FILES + 1)]


def checkpoint(layout: Layout, step: int, *, full: bool = False, size: int = 200, publish: bool = True) -> Path:
    """A whole checkpoint of the workspace's run, as the saver leaves it; not `publish`: still staged."""
    with Ledger.open(layout.ledger) as ledger:
        own = entries_of(ledger) or entries()
        root = ledger.machine.get("root")
    record = Record(
        step=step, generation=0, lineage=curriculum.lineage(root_digest(root), own, step), root=root,
        curriculum=curriculum.to_record(own), numerics={}, numerics_changes=[], digests={"weights": f"w{step}"},
        file=f"{(step - 1) // STEPS + 1}.jsonl",
    )  # fmt: skip
    staged = durable.staging(layout.current_model, str(step))
    model = ("config.json", "model.safetensors") if full else ("adapter_config.json", "adapter_model.safetensors")
    for name in (*model, "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        (staged / name).write_bytes(f"{name} at {step} ".encode() * (size // 10))
    (staged / RECORD).write_text(json.dumps(asdict(record)))
    durable.seal(staged)
    if not publish:
        return staged
    durable.publish(staged, layout.checkpoint(step))
    with Ledger.open(layout.ledger) as ledger:
        ledger.checkpoints.publish(
            step=step, generation=0, lineage=record.lineage, path=f"checkpoint-{step}", bytes_adapter=size,
            bytes_optimizer=size,
        )  # fmt: skip
    return layout.checkpoint(step)


def snapshot(layout: Layout, name: str = "2026-11-22", kind: Kind = "daily", day: date = DAY) -> Snapshot:
    """Take one, now."""
    with Ledger.open(layout.ledger) as ledger:
        return take(layout, ledger, name=name, kind=kind, day=day, now=NOW)


def events(layout: Layout, kind: str) -> list[str]:
    """The texts of the ledger's events of one kind."""
    with Ledger.open(layout.ledger) as ledger:
        return [event.text for event in ledger.events.of_kind(kind)]
