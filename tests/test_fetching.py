"""A base model from the Hub: fetched once, pinned, whole or not at all. The Hub is a small server on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool import Workspace, basemodel, creation, fetching
from nightschool.errors import ModelError, StorageError, WorkspaceError
from nightschool.settings import load_settings
from tests.cli.conftest import Run
from tests.cli.conftest import cli as cli
from tests.hub import COMMIT, Hub

WEIGHTS = os.urandom(300_000)
SMALL = {"config.json": b"{}", "tokenizer.json": b"{ }", "tokenizer_config.json": b"{  }", "chat_template.jinja": b"hi",
         "README.md": b"---\n"}  # fmt: skip
NOISE = ("pytorch_model.bin", "model.fp16.safetensors", "consolidated.safetensors", "onnx/model.onnx", "a.gguf",
         "original/consolidated.00.pth", "training_args.bin", "tf_model.h5", "pytorch_model.bin.index.json",
         "model.safetensors.index.json")  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    folder = tmp_path / "served"
    for name, data in {**SMALL, "model.safetensors": WEIGHTS, **dict.fromkeys(NOISE, b"noise")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    found = Hub(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    # The library waits between its own attempts; here the answer will be the same.
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield found
    found.close()


def kept(cache: Path) -> set[str]:
    folder = cache / "models--org--tiny/snapshots" / COMMIT
    return {path.name for path in folder.glob("*")}


def test_init_fetches_what_training_needs_and_pins_the_commit(hub: Hub, cli: Run, cache: Path, tmp_path: Path) -> None:
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert done.code == 0, done.err
    assert kept(cache) == {*SMALL, "model.safetensors"}
    fetched = [asked for asked in hub.asked if asked.startswith("GET ")]
    assert fetched[-1] == "GET model.safetensors", "last: where the weights are, the rest is too"
    assert len(fetched) == 6
    assert f"Fetching org/tiny at {COMMIT[:12]}: 6 files, 300 kB." in done.out
    assert "300 kB of 300 kB" in done.out
    settings = load_settings(tmp_path / "ws/nightschool.toml")
    assert (settings.model.name, settings.model.revision) == ("org/tiny", COMMIT)
    folder = basemodel.resolve("org/tiny", COMMIT)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    # The library that fetched it takes it for whole, too, without a network.
    hub.status = 500
    assert creation.check_model(settings.model.name, settings.model.revision) == folder


def test_what_is_cached_is_not_asked_for_again_and_is_pinned_too(hub: Hub, cli: Run, tmp_path: Path) -> None:
    assert cli("init", tmp_path / "one", "--model", "org/tiny", "--revision", "v1").code == 0
    hub.asked.clear()
    assert cli("init", tmp_path / "two", "--model", "org/tiny", "--revision", COMMIT, "--offline").code == 0
    assert cli("init", tmp_path / "three", "--model", "org/tiny", "--revision", COMMIT).code == 0
    assert not hub.asked
    for name in ("one", "two", "three"):
        assert load_settings(tmp_path / name / "nightschool.toml").model.revision == COMMIT


@pytest.mark.parametrize("how", ["--offline", "environment", "api"])
def test_offline_nothing_is_asked_for_and_it_is_said_how(
    hub: Hub, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from huggingface_hub import constants

    if how == "api":
        with pytest.raises(ModelError, match="hf download org/tiny"):
            Workspace.create(tmp_path / "ws", "org/tiny")
    else:
        if how == "environment":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        done = cli("init", tmp_path / "ws", "--model", "org/tiny", *(["--offline"] if how == "--offline" else []))
        assert done.code == 9
        assert "when it may use the network" in done.err
    assert not hub.asked
    assert not (tmp_path / "ws").exists()


def test_from_python_a_model_is_fetched_where_that_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "ws", "org/tiny", fetch=True, training={"seed": 7})
    settings = load_settings(made.layout.settings_file)
    assert (settings.model.revision, settings.training.seed) == (COMMIT, 7)


def test_for_a_run_that_learns_again_the_new_base_is_fetched_too(hub: Hub, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    assert cli("init", tmp_path / "one", "--model", tmp_path / "served").code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("dear")
    assert cli("init", tmp_path / "full", "--from", tmp_path / "one", "--model", "org/tiny").code == 4
    assert not hub.asked
    done = cli("init", tmp_path / "two", "--from", tmp_path / "one", "--model", "org/tiny")
    assert (done.code, "Fetching org/tiny" in done.out) == (0, True), done.err
    assert load_settings(tmp_path / "two/nightschool.toml").model.revision == COMMIT


def test_a_mistake_in_the_settings_or_the_folder_is_found_before_anything_is_fetched(
    hub: Hub, cli: Run, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text("[training]\nsed = 1\n")
    assert cli("init", tmp_path / "ws", "--model", "org/tiny", "--settings", tmp_path / "s.toml").code == 3
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("dear")
    assert cli("init", tmp_path / "full", "--model", "org/tiny").code == 4
    assert not hub.asked


def test_c5_a_disk_without_room_is_found_before_anything_is_fetched(
    hub: Hub, cli: Run, cache: Path, tmp_path: Path
) -> None:
    hub.sizes["model.safetensors"] = 10**17
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert done.code == StorageError.exit_code
    assert "takes 100,000 TB" in done.err
    assert "HF_HOME" in done.err
    assert not [asked for asked in hub.asked if asked.startswith("GET")]
    assert not (tmp_path / "ws").exists()
    assert not cache.exists()


@pytest.mark.parametrize(
    ("model", "revision", "gated", "words"),
    [
        ("org/other", None, False, ("knows no model 'org/other'", "hf auth login")),
        ("org/tiny", "v9", False, ("has no revision 'v9'",)),
        ("org/tiny", None, True, ("accepted its terms", "hf auth login")),
        ("org/ti ny", None, False, ("neither a folder nor a name on the Hub",)),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: Hub, cli: Run, tmp_path: Path, model: str, revision: str | None, gated: bool, words: tuple[str, ...]
) -> None:
    hub.gated = gated
    done = cli("init", tmp_path / "ws", "--model", model, *(["--revision", revision] if revision else []))
    assert done.code == 9
    assert all(word in done.err for word in words), done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "ws").exists()


def test_a_hub_that_is_down_or_not_there_is_said(hub: Hub, cli: Run, tmp_path: Path) -> None:
    hub.status = 503
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert (done.code, "could not be fetched from" in done.err) == (9, True)
    hub.close()
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert (done.code, "Is this machine on the network?" in done.err) == (9, True)
    assert not (tmp_path / "ws").exists()


def test_a_fetch_that_was_cut_off_leaves_no_workspace_and_goes_on(
    hub: Hub, cli: Run, cache: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (served / "model.safetensors").rename(served / parts[0])
    (served / parts[1]).write_bytes(WEIGHTS[::-1])
    (served / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}}))
    hub.cut = {parts[1]: 100_000}
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert done.code == 9, done.out
    assert "Files that came whole are kept" in done.err
    assert not (tmp_path / "ws").exists()
    assert kept(cache) == {*SMALL, "model.safetensors.index.json", parts[0]}
    # Control: the cache holds weights, configuration and tokenizer, and is still not taken for the model.
    with pytest.raises(ModelError, match=parts[1]):
        creation.check_model("org/tiny", COMMIT)

    hub.cut = {}
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert done.code == 0, done.err
    folder = creation.check_model("org/tiny", COMMIT)
    assert [(folder / part).read_bytes() for part in parts] == [WEIGHTS, WEIGHTS[::-1]]
    assert hub.asked[f"GET {parts[0]}"] == hub.asked["GET config.json"] == 1


def test_a_fetch_that_was_killed_before_the_weights_is_not_taken_for_a_model(
    hub: Hub, cli: Run, cache: Path, tmp_path: Path
) -> None:
    hub.cut = {"model.safetensors": 0}
    assert cli("init", tmp_path / "ws", "--model", "org/tiny").code == 9
    assert kept(cache) == set(SMALL), "the weights come last"
    hub.cut = {}
    left = cache / "models--org--tiny/blobs/x.incomplete"
    left.write_bytes(b"0" * 10**6)
    done = cli("init", tmp_path / "ws", "--model", "org/tiny")
    assert done.code == 0, done.err
    assert kept(cache) == {*SMALL, "model.safetensors"}


def test_a_file_that_came_short_is_not_taken(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library may content itself with what lies in the cache; the sizes the Hub told are looked at after it."""
    remote = fetching.look("org/tiny", None)
    folder = tmp_path / "served"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert fetching.fetch(remote) == folder
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(ModelError, match="not fetched whole"):
        fetching.fetch(remote)


def test_only_one_format_is_taken() -> None:
    small = ["config.json", "tokenizer.model", "merges.txt", "modeling_x.py", "chat_template.jinja", "LICENSE"]
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert fetching.needed([*small, *parts, index, *NOISE]) == (sorted([*small, index]), parts)
    whole = [*small, "model.safetensors", *parts, index]
    assert fetching.needed(whole) == (sorted(small), ["model.safetensors"])
    old = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "rng.pth", "training_args.bin"]
    assert fetching.needed([*small, *old]) == (sorted([*small, old[1]]), [old[0]])
    assert fetching.needed([*small, "odd.safetensors"])[1] == ["odd.safetensors"]
    assert fetching.needed([*small, "onnx/model.onnx"])[1] == []


def test_a_model_of_which_a_part_is_missing_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(ModelError, match=r"model-2\.safetensors"):
        creation.check_model(str(tmp_path))
    (tmp_path / "model-2.safetensors").write_text("")
    assert creation.check_model(str(tmp_path)) == tmp_path
    index.write_text("[]")
    with pytest.raises(ModelError, match="is no list"):
        creation.check_model(str(tmp_path))


def test_the_program_itself_with_only_the_environment_set(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "nightschool", "init", str(tmp_path / "ws"), "--model", "org/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert load_settings(tmp_path / "ws/nightschool.toml").model.revision == COMMIT
    # What works there afterwards needs no network, and does not use any.
    hub.asked.clear()
    done = subprocess.run(
        [sys.executable, "-m", "nightschool", "-C", str(tmp_path / "ws"), "settings"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert not hub.asked


def test_intake_and_trainer_are_offline_before_they_import_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool.intake.__main__ import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(["--workspace", str(tmp_path)]) == WorkspaceError.exit_code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    # The trainer's module cannot be called without torch; there it stands before the first import of such a library.
    source = (Path(fetching.__file__).parent / "training/__main__.py").read_text()
    assert source.index('os.environ["HF_HUB_OFFLINE"] = "1"') < source.index("from transformers")
