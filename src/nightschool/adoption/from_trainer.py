"""A run that goes on from the state of a Hugging Face Trainer.

The settings that are written in plain JSON are read here; tensors, and the pickles that may only be read as tensors, in
a child process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightschool import basemodel, creation, durable
from nightschool.adoption import child
from nightschool.adoption.making import Adopted
from nightschool.adoption.staged import staged
from nightschool.errors import ModelError, SettingsError
from nightschool.ledger import Ledger
from nightschool.settings import parse_settings
from nightschool.snapshots import holding, take
from nightschool.snapshots.states import ORIGIN
from nightschool.takeover import Source, find, values
from nightschool.words import escape
from nightschool.workspace import Layout

Sections = dict[str, dict[str, Any]]

NOT_CARRIED = {
    "training_args.bin": "a pickle, which is never opened: gradient accumulation, the number of devices, max_grad_norm "
    "and max_length are those of nightschool.toml",
    "rng_state*.pth": "the random state: a run here draws its randomness from seed and step",
    "scaler.pt": "the scale of float16 gradients: float16 is not offered here",
    "global_step*": "optimizer state of DeepSpeed: convert it to one optimizer.pt first",
    "optimizer_*": "optimizer state of FSDP: convert it to one optimizer.pt first",
    "pytorch_model_fsdp*": "model state of FSDP",
}
"""Files of a Trainer that are left where they are, and why."""


def take_over(
    root: Path, folder: Path, model: str | None, given: Mapping[str, Mapping[str, Any]], say: Callable[[str], Any]
) -> Adopted:
    """Make a workspace whose run stands at the step, weights and moments of the newest usable state in `folder`.

    Raises:
        CheckpointError: there is none, or it does not fit the model.
        SettingsError, ModelError: it was trained with what is not offered here, or its base is not known.
        WorkspaceError: `root` holds something.
    """
    creation.must_be_free(Layout(root))
    source = find(folder)
    for problem in source.passed_over:
        say(f"Passed over: {problem}")
    kind = "adapter" if source.method == "lora" else "model"
    say(f"Taking over {source.name}: {kind} at step {source.step:,}, {_with(source)}.")
    known = _known(source, model, given)
    parse_settings({**known, **{name: {**known.get(name, {}), **content} for name, content in given.items()}})
    own = {name: creation.set_values(content) for name, content in given.items()}
    plan = {"folder": str(source.folder), "settings": known, "given": own}
    with staged(root) as layout:
        done = child.run(layout, plan, say)
        # Before the origin is taken: it holds the settings too.
        durable.write_file(layout.settings_file, creation.rendered(done["settings"], root))
        take_origin(layout)
    return Adopted(Layout(root), (*done["notes"], *_notes(source, known)))


def take_origin(layout: Layout) -> None:
    """Keep what the run began with as a snapshot that retention never takes."""
    now = datetime.now(UTC)
    with holding.way_back(layout, "nightschool init"), Ledger.open(layout.ledger) as ledger:
        take.take(layout, ledger, name=ORIGIN, kind="origin", day=now.astimezone().date(), now=now)


def _with(source: Source) -> str:
    return "with optimizer" if source.optimizer else "without an optimizer"


def _known(source: Source, model: str | None, given: Mapping[str, Mapping[str, Any]]) -> Sections:
    """Settings that follow from the JSON files."""
    asked = given.get("training", {}).get("method")
    if asked not in (None, source.method):
        raise SettingsError(
            f"{source.name} holds {'an adapter' if source.method == 'lora' else 'a whole model'}, so its training goes "
            f"on with training.method = {source.method!r}, not {asked!r}."
        )
    if given.get("lora"):
        raise SettingsError(f"The settings in [lora] are those of {source.name}; they cannot be chosen anew.")
    if source.optimizer and given.get("training", {}).get("optimizer"):
        raise SettingsError(f"training.optimizer is that of {source.name}; it cannot be chosen anew.")
    training: dict[str, Any] = {"method": source.method}
    size = source.state.get("train_batch_size")
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        training |= {"train_batch_size": size, "micro_batch_size": size}
    known: Sections = {"model": _base(source, model, given), "training": training}
    if source.method == "lora":
        known["lora"] = values.lora_section(source.config)
    return known


def _base(source: Source, model: str | None, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The section [model]: the base that was named, or the one that the folder names."""
    revision = given.get("model", {}).get("revision")
    name = model
    if name is None and source.method == "lora":
        name = source.config.get("base_model_name_or_path")
        revision = revision or source.config.get("revision")
    elif name is None:
        name = source.config.get("_name_or_path")
    if not name:
        raise SettingsError(
            f"{source.name} does not say which base model it was trained from. Name it with --model: the run needs it "
            f"as long as it lives{_of_a_model(source)}."
        )
    name = str(name)
    try:
        folder = creation.check_model(name, revision)
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"{source.name} was trained from the base model {name!r}, which is not found or not usable now: {error} "
            "Name where it is with --model."
        ) from None
    here = Path(name).expanduser().is_dir()
    return {"name": str(folder) if here else name, **({"revision": revision} if revision and not here else {})}


def _of_a_model(source: Source) -> str:
    if source.method == "lora":
        return ""
    return (
        ", for configuration and tokenizer. A folder with this very model and a tokenizer will do, if it stays "
        f"(to begin a new run on {source.name} without its optimizer: `nightschool init DIR --model FOLDER`)"
    )


def _notes(source: Source, known: Sections) -> Iterator[str]:
    """What could not be carried, and what the user should look at."""
    if source.state:
        logged = len(values.losses(source.state.get("log_history"), source.step))
        yield f"The loss curve begins with the {logged:,} steps in its log; those between them are not invented."
        yield (
            f"Steps are numbered on from {source.step:,}. Not carried: the shape of its learning-rate schedule, its "
            "place in its data set, callbacks, best metric and evaluations."
        )
    if "train_batch_size" in known["training"]:
        yield (
            f"training.train_batch_size = {known['training']['train_batch_size']} is what went through one device at a "
            "time. With gradient accumulation or several devices a step was larger: multiply it in nightschool.toml."
        )
    for pattern, why in NOT_CARRIED.items():
        if any(source.folder.glob(pattern)):
            yield f"Not carried: {pattern} ({why})."
    model = known["model"]
    yield from _of_the_tokenizer(source, basemodel.resolve(model["name"], model.get("revision")))


def _of_the_tokenizer(source: Source, base: Path) -> Iterator[str]:
    """What to say where the folder's own tokenizer is not the base model's, which is the one that is used."""
    template = "chat_template.jinja"
    theirs, ours = source.folder / template, base / template
    if theirs.is_file() and (not ours.is_file() or theirs.read_bytes() != ours.read_bytes()):
        yield (
            f"The base model's chat template is used, and {escape(theirs)} is another. To use that, make the workspace "
            "again with `model.chat_template`, naming a copy that stays, in a file given with --settings."
        )
    tokens = _tokens(source.folder)
    if tokens is not None and tokens != _tokens(base):
        yield (
            f"The base model's tokenizer is used, and the one in {escape(source.folder)} has other tokens. If that is "
            "the right one, put it into a copy of the base model's folder, and make the workspace again with that as "
            "--model."
        )


def _tokens(folder: Path) -> Any:
    """The vocabulary in a tokenizer.json: not its bytes, which differ from release to release. None without one."""
    try:
        found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return found["model"]["vocab"], [(token["id"], token["content"]) for token in found["added_tokens"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
