"""Taking over the state of a Hugging Face Trainer: its weights and moments become the first checkpoint of a new run.

A child process does this, in a workspace that is being made and that nobody else can find yet.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nightschool import basemodel, curriculum, durable, schedule
from nightschool.errors import CheckpointError, NightschoolError
from nightschool.ledger import Ledger, StepRow
from nightschool.record import Record, root_digest
from nightschool.settings import Settings, TrainingSettings, parse_settings
from nightschool.takeover import PLAN, Source, find, values
from nightschool.takeover.source import SCHEDULER
from nightschool.training import checkpoint, determinism, model, moments, optimizer, root
from nightschool.training.claiming import claim
from nightschool.training.device import make_accelerator
from nightschool.training.loop import Loop
from nightschool.training.saver import Job, Saver
from nightschool.training.trainer import HISTORY
from nightschool.training.weights import write_tokenizer

if TYPE_CHECKING:
    from nightschool.workspace import Layout


@dataclass
class _Read:
    """What optimizer.pt and scheduler.pt say: settings for [training], the state, and sentences for the user."""

    training: dict[str, Any]
    state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def work(layout: Layout) -> None:
    """`adopt`, as a child process: a JSON object to a line, {"say": …}, and at the end {"done": …} or {"error": …}."""

    def tell(**told: Any) -> None:
        print(json.dumps(told), flush=True)

    plan = json.loads((layout.tmp / PLAN).read_text(encoding="utf-8"))
    try:
        tell(done=adopt(layout, plan, lambda text: tell(say=text)))
    except NightschoolError as error:
        tell(error=str(error))
        sys.exit(error.exit_code)


def adopt(layout: Layout, plan: dict[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
    """Write the first checkpoint of the run in `layout`, with all that the ledger has to know.

    Args:
        layout: folders and an empty ledger.
        plan: see `PLAN`.
        say: called with a line before each long piece of work.

    Returns:
        {"settings": all sections for nightschool.toml, "notes": [sentences]}.

    Raises:
        CheckpointError: the state does not fit the model, or is not what was saved.
        SettingsError, ModelError: the settings or the base model cannot be used.
    """
    source = find(Path(plan["folder"]))
    found = _read(source, plan["given"].get("training", {}).get("learning_rate"))
    sections = _together(plan["settings"], {"training": found.training}, plan["given"])
    settings = parse_settings(sections)
    claim(layout, settings, say)
    say(f"Loading the base model {settings.model.name}.")
    determinism.configure(settings.numerics)
    base = basemodel.resolve(settings.model.name, settings.model.revision)
    accelerator = make_accelerator(settings)
    dtype = model.resolve_dtype(settings.model.dtype, settings.training.method, accelerator.device)
    fixed = root.compute(settings, base, dtype, layout.fingerprint_cache)
    loop = Loop(settings, fixed, accelerator, _no_file)
    notes = [*found.notes, *(note for note in (loop.head_note, loop.leak) if note)]

    say(f"Taking over weights{' and moments' if found.state else ''} of {source.name}.")
    model.load_trainable(loop.built.model, loop.built.method, source.folder)
    if found.state is not None:
        note = moments.load(loop.optimizer, loop.built.model, found.state, source.folder / checkpoint.OPTIMIZER)
        notes += [note] if note else []
    digests = loop.digests()
    moments_digest = digests.optimizer if found.state is not None else None
    fixed["adopted"] = {"weights": digests.weights, "optimizer": moments_digest, "step": source.step}

    with durable.Lock(layout.trainer_lock, "the trainer") as lock, Ledger.open(layout.ledger) as ledger:
        entries = _enter(ledger, source, found, f"{digests}")
        ledger.machine.set("root", fixed)
        loop.entries, loop.done = entries, source.step
        say(f"Writing {layout.checkpoint(source.step).name} and reading it back.")
        record = _save(layout, ledger, lock, loop, settings, fixed, source)
        _prove(loop, layout.checkpoint(source.step), record)
        write_tokenizer(layout, loop.built.tokenizer)
        text = f"Took over {source.name} at step {source.step:,}."
        ledger.events.add("adopted", text, folder=source.folder, **fixed["adopted"])
    return {"settings": sections, "notes": notes}


def _no_file(file_id: int) -> Any:
    raise AssertionError(f"file {file_id} has no data: it stands for what was learned elsewhere")


def _together(*every: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sections laid over each other, the later ones on top."""
    found: dict[str, dict[str, Any]] = {}
    for sections in every:
        for name, content in sections.items():
            found[name] = {**found.get(name, {}), **content}
    return found


def _read(source: Source, own_rate: float | None) -> _Read:
    """The optimizer's settings and state, and the learning rate to go on with, unless the user has one of their own."""
    history = source.state.get("log_history") or []
    if not source.optimizer:
        peak = values.logged_peak(history)
        note = "The optimizer starts with fresh moments, and warms up: there is no optimizer.pt."
        if peak is None:
            return _Read({}, notes=[note])
        return _Read({"learning_rate": peak}, notes=[note, _rate_note(own_rate, peak, "the highest in its log")])
    state = checkpoint.load_optimizer_state(source.folder)
    if not state["state"]:
        raise CheckpointError(
            f"{source.folder / checkpoint.OPTIMIZER} holds no moments. Take it out of a copy of the folder: then the "
            "optimizer starts with fresh ones."
        )
    told = values.optimizer_values(state["param_groups"], moments.state_keys(state))
    rate, peak, notes = told.rate, told.peak, []
    scheduler = _scheduler(source)
    if scheduler is None:
        notes.append("scheduler.pt is missing or cannot be read; the learning rate is that in optimizer.pt.")
    else:
        rate, peak = scheduler
    chosen, why = values.learning_rate(rate, peak)
    notes.append(_rate_note(own_rate, chosen, f"{why}; constant from here on, without a new warm-up"))
    return _Read(
        {
            "optimizer": told.name, "learning_rate": chosen, "lr_scheduler_type": "constant", "warmup_steps": 0,
            "weight_decay": told.weight_decay, "adam_beta1": told.beta1, "adam_beta2": told.beta2,
            "adam_epsilon": told.epsilon,
        },
        state,
        notes,
    )  # fmt: skip


def _rate_note(own: float | None, chosen: float, why: str) -> str:
    return f"Learning rate: {chosen:.6g}, {why}." if own is None else f"Learning rate: {own:.6g}, as you set it."


def _scheduler(source: Source) -> tuple[float, float] | None:
    """(rate of the next update, peak), or None where there is no scheduler.pt that says so. Never unpickled."""
    if not source.scheduler:
        return None
    try:
        state = torch.load(source.folder / SCHEDULER, map_location="cpu", weights_only=True)
        return float(state["_last_lr"][0]), float(state["base_lrs"][0])
    except Exception:
        # Whatever else it is: it is not needed, and nothing of it is run.
        return None


def _enter(ledger: Ledger, source: Source, found: _Read, digests: str) -> list[curriculum.Entry]:
    """Put the steps done elsewhere into the ledger: as the first entry, and as rows of the loss curve."""
    if source.step == 0:
        return []
    # By what is in the folder alone: however the run goes on, it stands on the same state.
    training = {"learning_rate": TrainingSettings().learning_rate, **found.training}
    recipe = values.adopted_recipe(training, source.step, found.state is not None)
    digest = hashlib.sha256(digests.encode()).hexdigest()
    with ledger.transaction():
        number = ledger.files.taken_over(f"(taken over from {source.name})", digest, source.step)
        entry = curriculum.whole([curriculum.Part(number, digest, source.step)], recipe)
        ledger.entries.append(entry.parts, recipe, entry.length, entry.start, entry.stop)
        ledger.steps.record([
            StepRow(
                step=row.step, entry=0, loss=row.loss, learning_rate=row.learning_rate, grad_norm=row.grad_norm,
                tokens=0, label_tokens=0, seconds=float("nan"), flags="taken-over",
            )
            for row in values.losses(source.state.get("log_history"), source.step)
        ])  # fmt: skip
    return [entry]


def _save(
    layout: Layout, ledger: Ledger, lock: durable.Lock, loop: Loop, settings: Settings, fixed: dict[str, Any],
    source: Source,
) -> Record:  # fmt: skip
    """Write the checkpoint in the very way in which all later ones are written; its record."""
    training = settings.training
    recipe = settings.entry_recipe({}, {})
    record = Record(
        step=loop.done, generation=0, lineage=curriculum.lineage(root_digest(fixed), loop.entries, loop.done),
        root=fixed, curriculum=curriculum.to_record(loop.entries), numerics=loop.numerics, numerics_changes=[],
        digests={}, file=f"(taken over from {source.name})" if loop.entries else None,
    )  # fmt: skip
    logged = values.losses(source.state.get("log_history"), source.step)[-HISTORY:]
    history = [
        {"epoch": 0.0, **{k: v for k, v in vars(row).items() if v == v and abs(v) != float("inf")}} for row in logged
    ]
    fresh = fixed["adopted"]["optimizer"] is None
    saver = Saver(layout, ledger, lock, loop, lambda: None, set())
    saver.save(
        Job(
            record=record, reason="taken over", log_history=history, train_batch_size=training.micro_batch_size,
            base_rate=training.learning_rate,
            rate=schedule.learning_rate(recipe, loop.done, loop.done if fresh else 0),
            learned=[], entry_began=0, keep=settings.checkpoints.save_total_limit,
        )
    )  # fmt: skip
    saver.wait()
    return checkpoint.read(layout.checkpoint(loop.done))


@torch.no_grad()
def _prove(loop: Loop, folder: Path, record: Record) -> None:
    """Read the checkpoint back over a state that was wiped: what is loaded is what was taken over, or this raises."""
    for tensor in loop.weights.values():
        tensor.zero_()
    optimizer.reset(loop.optimizer)
    loop.restore(folder, record)
