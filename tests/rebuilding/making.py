"""Workspaces as a machine would have left them, made by hand: archive, prepared data, checkpoints, ledger. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nightschool import curriculum, durable
from nightschool.curriculum import Entry, Part
from nightschool.intake.containers import kind_named
from nightschool.intake.prepare import folder_name
from nightschool.intake.prepared import write_meta
from nightschool.ledger import Arrival, FileRow, Ledger, StepRow
from nightschool.record import Record, entries_of, root_digest
from nightschool.settings import canonical
from nightschool.workspace import Layout

DAY = "2026-11-22"
ROOT: dict[str, Any] = {"v": 1, "base": {"model.safetensors": "0" * 64}, "seed": 1, "method": "lora"}
DATA: dict[str, Any] = {"v": 2, "max_length": 64}
RUINS = ["deleted", "empty", "truncated", "garbage", "flipped"]
RECIPE = canonical({"v": 1, "data": DATA, "train_batch_size": 1, "epochs": 1})


def workspace(root: Path) -> Layout:
    """A workspace without a model."""
    layout = Layout(root)
    layout.create()
    layout.settings_file.write_text('[model]\nname = "x"\n')
    Ledger.create(layout.ledger).close()
    return layout


def archived(layout: Layout, name: str, content: str, day: str = DAY) -> tuple[str, str]:
    """Put bytes into the archive; (place, SHA-256)."""
    path = layout.archive / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return f"archive/{day}/{name}", hashlib.sha256(content.encode()).hexdigest()


def prepared(layout: Layout, name: str, content: str, sequences: int, recipe: dict[str, Any] = DATA) -> tuple[str, str]:
    """A prepared folder, with no tokens in it; (its name, the digest of its data)."""
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    digest = hashlib.sha256(f"{sha256} {canonical(recipe)}".encode()).hexdigest()
    folder = layout.prepared / folder_name(sha256, recipe, kind_named(name))
    if not folder.exists():
        folder.mkdir()
        counts = {"rows_good": sequences, "rows_bad": 0, "tokens": 10, "label_tokens": 9, "sequences": sequences}
        write_meta(
            folder, {"recipe": recipe, "sha256": sha256, "shape": "text", "data_digest": digest, "counts": counts}
        )
        durable.seal(folder)
    return folder.name, digest


def drop(layout: Layout, name: str, sequences: int = 3, *, ready: bool = True, day: str = DAY, **options: Any) -> int:
    """A file that was dropped, archived and, if `ready`, prepared, as the ledger knows it."""
    place, sha256 = archived(layout, name, f"content of {name}", day)
    with Ledger.open(layout.ledger) as ledger:
        (id,) = ledger.files.arrive([Arrival(name, str(layout.inbox / name), options=options)])
        ledger.files.archived(id, sha256, 10, place)
        if ready:
            folder, digest = prepared(layout, name, f"content of {name}", sequences)
            ledger.files.prepared_as(
                id, folder, shape="text", rows_good=sequences, rows_bad=0, tokens=10, label_tokens=9,
                sequences=sequences, data_digest=digest,
            )  # fmt: skip
    return id


def begin(layout: Layout, *ids: int) -> None:
    """Give the next files their entry, as the trainer does."""
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("root", ROOT)
        rows = [ledger.files.get(id) for id in ids]
        parts = [Part(row.id, str(row.data_digest), int(row.sequences or 0)) for row in rows]
        entry = curriculum.whole(parts, RECIPE)
        ledger.entries.append(entry.parts, entry.recipe, entry.length)
        for id in ids:
            ledger.files.begin(id)


def entries(layout: Layout) -> list[Entry]:
    with Ledger.open(layout.ledger) as ledger:
        return [
            Entry(tuple(Part(*part) for part in row.parts), row.recipe, row.start, row.stop)
            for row in ledger.entries.all()
        ]


def core(layout: Layout) -> dict[str, object]:
    """What training goes by."""
    with Ledger.open(layout.ledger) as ledger:
        files = {
            row.id: (row.name, row.state, row.sha256, row.archive, row.prepared, row.data_digest, row.sequences)
            for row in ledger.files.each()
        }
        queue = [row.name for row in ledger.files.queue()]
        there = [(row.step, row.lineage) for row in ledger.checkpoints.listing("published")]
        root = ledger.machine.get("root")
        return {"files": files, "queue": queue, "entries": entries_of(ledger), "root": root, "there": there}


def loss(step: int) -> float:
    return 3.0 - step / 16


def save(layout: Layout, step: int, *, generation: int = 0, known: int = 3) -> Path:
    """Do the steps up to `step`, and write a checkpoint whose own log has the last `known` of them."""
    ours = entries(layout)
    place = curriculum.place(ours, step - 1)
    assert place is not None
    with Ledger.open(layout.ledger) as ledger:
        last = ledger.steps.last()
        ledger.steps.record([
            StepRow(s, _entry_of(ours, s), loss(s), 1e-3, 0.5, 100, 90, 0.1)
            for s in range(last.step + 1 if last else 1, step + 1)
        ])  # fmt: skip
        name = ledger.called(ours[place.index].file_ids)
    record = Record(
        step, generation, curriculum.lineage(root_digest(ROOT), ours, step), ROOT, curriculum.to_record(ours), {}, [],
        {"weights": "w", "optimizer": "o"}, name,
    )  # fmt: skip
    staged = durable.staging(layout.current_model, str(step))
    (staged / "nightschool.json").write_text(json.dumps(asdict(record)))
    (staged / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (staged / "optimizer.pt").write_bytes(b"moments %d" % step)
    told = range(max(1, step - known + 1), step + 1)
    history = [{"step": s, "loss": loss(s), "learning_rate": 1e-3, "grad_norm": 0.5} for s in told]
    (staged / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    durable.seal(staged)
    durable.publish(staged, layout.checkpoint(step))
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        ledger.checkpoints.publish(step, generation, record.lineage, f"checkpoint-{step}", 1, 2)
        before = 0
        for entry in ours:
            before += entry.steps
            if before <= step:
                ledger.files.learned(entry.file_ids)
    return layout.checkpoint(step)


def _entry_of(ours: list[Entry], step: int) -> int:
    place = curriculum.place(ours, step - 1)
    assert place is not None
    return place.index


def snapshot(layout: Layout, name: str, step: int) -> Path:
    """A snapshot of a checkpoint and the ledger."""
    folder = layout.snapshots / name
    folder.mkdir()
    source = layout.checkpoint(step)
    (folder / source.name).mkdir()
    for path in source.iterdir():
        (folder / source.name / path.name).write_bytes(path.read_bytes())
    with Ledger.open(layout.ledger) as ledger:
        ledger.backup_to(folder / "ledger.db")
    record = json.loads((source / "nightschool.json").read_text())
    told = {
        "name": name, "kind": "daily", "date": DAY, "step": step, "generation": record["generation"],
        "lineage": record["lineage"], "taken_at": f"{DAY}T03:00:00+00:00", "file": record["file"],
    }  # fmt: skip
    durable.seal(folder, {"snapshot": told})
    return folder


def rows(layout: Layout) -> dict[str, FileRow]:
    with Ledger.open(layout.ledger) as ledger:
        return {row.name: row for row in ledger.files.each()}


def states(layout: Layout) -> dict[str, str]:
    return {name: row.state for name, row in rows(layout).items()}


def curve(layout: Layout) -> list[tuple[int, float]]:
    with Ledger.open(layout.ledger) as ledger:
        return [(row.step, row.loss) for page in ledger.steps.losses() for row in page]


def ruin(layout: Layout, how: str) -> None:
    """Damage the ledger."""
    path = layout.ledger
    match how:
        case "deleted":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "garbage":
            path.write_bytes(b"no database " * 1000)
        case "flipped":
            raw = bytearray(path.read_bytes())
            for at in range(4096 + 100, len(raw), 977):
                raw[at] ^= 0x55
            path.write_bytes(raw)
        case _:
            raise AssertionError(how)
