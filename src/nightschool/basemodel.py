"""The base model's folder: finding it, and telling whether its content is still the same. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightschool.errors import ModelAwayError, ModelError, StorageError

_WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
_VOCABULARY = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "tekken.json",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
)
"""A folder with none of these holds no tokenizer."""
_TOKENIZER = (
    *_VOCABULARY,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


@contextmanager
def waited_for(begun: bool) -> Iterator[None]:
    """While this block runs, a base model that is gone is the disk's trouble, if a run has begun on it.

    A network disk that is not mounted for a minute at night must not end the work: that is waited for. Before anything
    was trained it is a mistake in the settings.

    Raises:
        StorageError: in the place of ModelAwayError, for a run that has begun.
    """
    try:
        yield
    except ModelAwayError as error:
        if not begun:
            raise
        raise StorageError(f"{error} It was there when this run began; this is tried again by itself.") from error


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of a base model: `name` itself, or the cached snapshot of a Hub model. Nothing is downloaded.

    Raises:
        ModelError: no such folder, nothing in the cache, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name, revision)
    if not (folder / "config.json").is_file():
        raise ModelAwayError(
            f"{folder} holds no model: config.json is missing. Check `model.name` in nightschool.toml."
        )
    return folder.resolve()


def _cached(name: str, revision: str | None) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelAwayError(f"The base model folder {name} does not exist. Check `model.name` in nightschool.toml.")
    from huggingface_hub import snapshot_download

    try:
        # Which of its files are needed is not for the library to say: `check_model` looks for them.
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except Exception as error:
        raise ModelAwayError(
            f"The base model {name!r} is neither a folder nor in the local Hugging Face cache"
            f"{f' at revision {revision}' if revision else ''}. Nothing is fetched while training: `nightschool init` "
            f"does that, when it may use the network, or `hf download {name}`. Or name a folder. "
            f"({type(error).__name__})"
        ) from None


def model_files(folder: Path) -> list[Path]:
    """The files that decide what the base model computes: configuration, weights and remote code, by name."""
    safetensors = list(folder.glob("*.safetensors"))
    chosen = [
        path
        for path in folder.iterdir()
        if path.is_file()
        and (path.name == "config.json" or path.suffix == ".py" or path.name.endswith(_WEIGHTS))
        # Where both formats lie side by side, transformers loads safetensors.
        and not (safetensors and ".bin" in path.suffixes)
        and path.name != "training_args.bin"
    ]
    return sorted(chosen)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how text becomes tokens, by name."""
    return _matching(folder, _TOKENIZER)


def missing_parts(folder: Path) -> list[str]:
    """Weight files that the folder's own list of them names and that are not there: a download that was cut off.

    Raises:
        ModelError: such a list cannot be read.
    """
    missing: set[str] = set()
    for index in folder.glob("*.index.json"):
        whole = folder / index.name.removesuffix(".index.json")
        # Not read where the weights lie there in one file, or in the format that is preferred.
        if whole.exists() or (whole.suffix == ".bin" and any(folder.glob("*.safetensors"))):
            continue
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{index} is no list of weight files. Fetch or copy the model again.") from None
        missing |= {str(name) for name in names if not (folder / str(name)).is_file()}
    return sorted(missing)


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a vocabulary, without which no text becomes tokens."""
    return bool(_matching(folder, _VOCABULARY))


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def fingerprint(files: list[Path], cache_file: Path | None = None) -> dict[str, str]:
    """SHA-256 of each file by name. A file whose size, times and inode are those of the last time is not read again.

    Raises:
        ModelError: a file cannot be read.
    """
    cache: dict[str, list[object]] = {}
    if cache_file is not None and cache_file.is_file():
        try:
            cache = json.loads(cache_file.read_text(encoding="utf-8"))
        except ValueError:
            cache = {}
    known = dict(cache)
    digests: dict[str, str] = {}
    for path in files:
        try:
            state = path.stat()
            key = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
            entry = cache.get(str(path))
            digest = str(entry[4]) if entry and entry[:4] == key else _sha256(path)
        except OSError as error:
            raise ModelAwayError(
                f"{path} cannot be read: {error.strerror}. The base model must stay readable."
            ) from None
        digests[path.name] = digest
        known[str(path)] = [*key, digest]
    if cache_file is not None and known != cache:
        # A cache that is lost costs time, not truth: no need to make it durable.
        scratch = cache_file.with_name(f".{cache_file.name}.{os.getpid()}")
        scratch.write_text(json.dumps(known), encoding="utf-8")
        scratch.replace(cache_file)
    return digests


def tokenizer_digest(folder: Path, cache_file: Path | None = None) -> str:
    """One SHA-256 over the tokenizer's files.

    Raises:
        ModelError: the folder holds no tokenizer.
    """
    files = tokenizer_files(folder)
    if not has_tokenizer(folder):
        raise ModelAwayError(
            f"{folder} holds no tokenizer (tokenizer.json or tokenizer.model). Save it beside the model."
        )
    return hashlib.sha256(json.dumps(fingerprint(files, cache_file), sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
