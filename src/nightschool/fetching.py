"""Fetching a base model from the Hugging Face Hub: once, before there is a workspace, and never while training.

Only what training reads is fetched, and the commit it is of is what the workspace pins. Weights come last, so that
where they are, everything else is too: a download that was cut off is never taken for a whole one.
"""

from __future__ import annotations

import fnmatch
import glob
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool.errors import ModelError, StorageError
from nightschool.words import in_bytes

POLL_SECONDS = 0.5
LEFT_FREE = 1_000_000_000
"""Bytes that a fetch leaves on the disk."""
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.py", "LICENSE*", "README.md")
"""Beside the weights: configuration, tokenizer, template, a model's own code, and what its license asks to be kept."""
_FORMATS = (
    ("model.safetensors", r"model-\d+-of-\d+\.safetensors"),
    ("pytorch_model.bin", r"pytorch_model-\d+-of-\d+\.bin"),
)
"""Weights in one file, and in parts; the first format that is there is taken."""
_COMMIT = re.compile(r"[0-9a-f]{40}")

Progress = Callable[[int, int], Any]
"""Called now and then with the bytes that are there, and those that there will be."""


@dataclass(frozen=True)
class Remote:
    """What is to be fetched of a model: the files by name with their sizes in bytes, and the commit they are of."""

    name: str
    commit: str
    small: dict[str, int]
    weights: dict[str, int]

    @property
    def files(self) -> dict[str, int]:
        """All of them."""
        return {**self.small, **self.weights}


def is_hub_name(name: str) -> bool:
    """Whether a base model is named by its place on the Hub, and not a folder that is here or is meant to be."""
    return not Path(name).expanduser().is_dir() and not name.startswith((".", "/", "~")) and name.count("/") <= 1


def pinned(folder: Path) -> str | None:
    """The commit that a folder in the Hub's cache holds; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def offline() -> bool:
    """Whether the environment forbids the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def needed(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of a repository's files: those beside the weights, and the weights, in one format only.

    What lies in a folder is another format (onnx/, original/, gguf/), and a copy of the same weights.
    """
    top = [name for name in names if "/" not in name]
    # As transformers looks for them: beside them may lie the same in half precision, or as one file for other programs.
    for whole, part in _FORMATS:
        weights = [whole] if whole in top else [name for name in top if re.fullmatch(part, name)]
        if weights:
            break
    else:
        weights = [name for name in top if name.endswith(".safetensors")]
    indices = {f"{whole}.index.json" for whole, _ in _FORMATS if whole not in top and whole.endswith(_ending(weights))}
    small = [
        name
        for name in top
        if name not in (*weights, *indices)
        and any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL)
        # The list of the parts of a format that is not fetched would name files that are not there.
        and not name.endswith(".index.json")
    ]
    return sorted([*small, *(name for name in indices if name in top)]), sorted(weights)


def _ending(weights: list[str]) -> str:
    return Path(weights[0]).suffix if weights else "/"


def look(name: str, revision: str | None) -> Remote:
    """What the Hub has of a model; fetches no file of it.

    Raises:
        ModelError: it is not there, not for you, not reachable, or holds no weights.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except Exception as error:
        raise _explained(error, name, revision) from None
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    small, weights = needed(sizes)
    if not weights or info.sha is None:
        raise ModelError(f"{name} on the Hub holds no weights that can be trained (*.safetensors). Name another model.")
    return Remote(name, info.sha, {n: sizes[n] for n in small}, {n: sizes[n] for n in weights})


def fetch(remote: Remote, progress: Progress | None = None) -> Path:
    """Fetch what is missing into the Hub's cache, and return the folder. What is there already is not fetched again.

    Raises:
        ModelError: it is not for you, or the Hub could not be reached to its end; files that came whole are kept.
        StorageError: the disk has no room for it; nothing was fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    cache = Path(constants.HF_HUB_CACHE)
    _room(remote, cache)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with _Watch(
            cache / f"models--{remote.name.replace('/', '--')}" / "blobs", sum(remote.files.values()), progress
        ):
            folder = Path()
            for part in (remote.small, remote.weights):
                patterns = [glob.escape(name) for name in part]
                folder = Path(snapshot_download(remote.name, revision=remote.commit, allow_patterns=patterns))
    except Exception as error:
        raise _explained(error, remote.name, remote.commit) from None
    finally:
        if shown:
            enable_progress_bars()
    for name, size in remote.files.items():
        # Where the Hub does not answer, the library may content itself with what lies in the cache.
        path = folder / name
        if not path.is_file() or (size and path.stat().st_size != size):
            raise ModelError(
                f"{name} of {remote.name} was not fetched whole. Files that came whole are kept: the same command goes "
                "on with the rest."
            )
    return folder


def _room(remote: Remote, cache: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    missing = sum(
        size
        for name, size in remote.files.items()
        if not isinstance(try_to_load_from_cache(remote.name, name, revision=remote.commit), str)
    )
    here = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(here).free
    if missing and free < missing + LEFT_FREE:
        raise StorageError(
            f"{remote.name} takes {in_bytes(missing)}, and {cache} has {in_bytes(free)} free, of which "
            f"{in_bytes(LEFT_FREE)} are left alone. Nothing was fetched. Make room, or set HF_HOME to a folder on a "
            "larger disk, for this command and for `nightschool run`."
        )


class _Watch:
    """Tells how much has come, by looking at the files: that does not depend on how the library fetches them."""

    def __init__(self, folder: Path, total: int, progress: Progress | None) -> None:
        self._folder = folder
        self._total = total
        self._progress = progress
        # What a fetch left that was killed: the library begins such a file anew, under another name.
        self._old = set(folder.glob("*.incomplete"))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fetching", daemon=True)

    def __enter__(self) -> None:
        if self._progress is not None:
            self._thread.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self._end.set()
        if self._progress is not None:
            self._thread.join()
            if kind is None:
                self._progress(self._total, self._total)

    def _watch(self) -> None:
        assert self._progress is not None
        while not self._end.wait(POLL_SECONDS):
            there = 0
            for path in {*self._folder.glob("*")} - self._old:
                try:
                    there += path.stat().st_size
                except OSError:  # renamed at this moment
                    continue
            self._progress(min(there, self._total), self._total)


def _explained(error: Exception, name: str, revision: str | None) -> Exception:
    """What went wrong, and what to do about it."""
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{name} is open only to those who accepted its terms. Do so at {where}, log in here with `hf auth login`, "
            "and say this again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{name} has no revision {revision!r}: see {where}/tree/main for its branches, or leave it out."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"The Hub knows no model {name!r}, or it is private. Check the name at {where}; for one of your own, log "
            "in with `hf auth login`; for a folder on this machine, check its path."
        )
    if isinstance(error, errors.HFValidationError):
        return ModelError(f"{name!r} is neither a folder nor a name on the Hub, such as org/name.")
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(
            f"{name} could not be kept on this disk: {error.strerror}. Make room, and try again.", error.errno
        )
    text = " ".join(str(error).split())[:300]
    return ModelError(
        f"{name} could not be fetched from {constants.ENDPOINT}: {type(error).__name__}: {text}. Is this machine on "
        "the network? Files that came whole are kept, and the same command goes on with the rest. Or fetch it "
        "elsewhere, and name its folder."
    )
