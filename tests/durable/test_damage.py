"""C2: whatever happens to a file of a sealed folder, `check` names it; and it never raises."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightschool import durable
from nightschool.errors import StorageError

FILES = {"adapter_model.safetensors": bytes(range(256)) * 3, "trainer_state.json": b'{"global_step": 7}', "sub/x": b"y"}
NAMES = [*FILES, durable.MANIFEST]


def sealed(parent: Path) -> Path:
    folder = durable.staging(parent, "x")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    durable.seal(folder, {"step": 7, "lineage": "ab" * 32})
    durable.publish(folder, parent / "checkpoint-7")
    return parent / "checkpoint-7"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    path.unlink()


def flip_first(path: Path) -> None:
    flip(path, 0)


def flip_middle(path: Path) -> None:
    flip(path, path.stat().st_size * 4)


def flip_last(path: Path) -> None:
    flip(path, path.stat().st_size * 8 - 1)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    """The right bytes, but behind a link."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


DAMAGE = [empty, truncate, grow, remove, flip_first, flip_middle, flip_last, to_folder, to_link, to_pipe]
FLIPS = (flip_first, flip_middle, flip_last)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_c2_damage_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = sealed(tmp_path)
    assert durable.check(folder) == []
    damage(folder / name)
    problems = durable.check(folder)
    assert len(problems) == 1
    assert name.split("/")[-1] in problems[0]
    if damage not in FLIPS:
        assert durable.check(folder, deep=False) == problems
    if name == durable.MANIFEST:
        with pytest.raises(StorageError, match="MANIFEST"):
            durable.read_manifest(folder)


def test_c2_control_sizes_alone_do_not_find_a_flipped_bit(tmp_path: Path) -> None:
    folder = sealed(tmp_path)
    flip(folder / "adapter_model.safetensors", 99)
    assert durable.check(folder, deep=False) == []
    assert durable.check(folder) == ["adapter_model.safetensors has changed: its content does not match its hash"]


@given(bit=st.integers(min_value=0), name=st.sampled_from(NAMES))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_c2_any_bit_of_any_file(tmp_path: Path, bit: int, name: str) -> None:
    folder = tmp_path / "checkpoint-7"
    if not folder.exists():
        sealed(tmp_path)
    path = folder / name
    bit %= path.stat().st_size * 8
    flip(path, bit)
    problems = durable.check(folder)
    flip(path, bit)
    assert len(problems) == 1
    assert name in problems[0]
    assert durable.check(folder) == []


def test_c2_every_bit_of_a_manifest(tmp_path: Path) -> None:
    folder = durable.staging(tmp_path, "x")
    durable.seal(folder, {"step": 7})
    path = folder / durable.MANIFEST
    raw = path.read_bytes()
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert durable.check(folder, deep=False), f"bit {bit} of the manifest is protected by nothing"


@given(
    rubbish=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_c2_a_manifest_of_rubbish_never_raises(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / durable.MANIFEST).write_bytes(rubbish)
    assert "damaged" in durable.check(tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        '{"format": NaN}',
        "null",
        "[]",
        '{"format": "1"}',
        '{"format": 1}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"a": null}}',
        '{"format": 1, "files": {"a": {"bytes": [], "sha256": {}}}}',
    ],
    ids=range(10),
)
def test_c2_a_manifest_of_the_wrong_shape_never_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / durable.MANIFEST).write_text(text)
    assert "damaged" in durable.check(tmp_path)[0]


def forged(folder: Path, **changes: object) -> None:
    """A manifest with fields changed by someone who also knows how to hash it."""
    body = json.loads((folder / durable.MANIFEST).read_text())
    del body["manifest_sha256"]
    body.update(changes)

    def spell() -> bytes:
        return (json.dumps(body, sort_keys=True, indent=1) + "\n").encode()

    body["manifest_sha256"] = hashlib.sha256(spell()).hexdigest()
    (folder / durable.MANIFEST).write_bytes(spell())


def test_f6_a_newer_format_is_said_to_be_newer(tmp_path: Path) -> None:
    folder = sealed(tmp_path)
    forged(folder, format=2)
    assert durable.check(folder) == ["MANIFEST.json has format 2; this version of nightschool reads up to 1"]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "", ".", "a\0b", "\ud800", "sub/../../secret", "linked/x"], ids=range(8)
)
def test_f5_a_hostile_manifest_reaches_nothing_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    for secret in (tmp_path / "secret", tmp_path / "outside/x"):
        secret.write_text("s")
    folder = sealed(tmp_path)
    (folder / "linked").symlink_to(tmp_path / "outside")
    forged(folder, files={name: {"bytes": 1, "sha256": hashlib.sha256(b"s").hexdigest()}})
    assert len(durable.check(folder)) == 1


def test_more_than_one_problem_and_more_files(tmp_path: Path) -> None:
    folder = sealed(tmp_path)
    (folder / "README.md").write_text("a note the user put here")
    assert durable.check(folder) == []
    remove(folder / "sub/x")
    empty(folder / "trainer_state.json")
    assert sorted(durable.check(folder)) == ["sub/x is missing", "trainer_state.json has 0 bytes instead of 18"]


def test_c10_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert durable.check(tmp_path / "nothing") == ["the folder is not there"]
    folder = sealed(tmp_path)
    shutil.rmtree(folder / "sub")
    assert durable.check(folder) == ["sub/x is missing"]
    (tmp_path / "file").write_text("x")
    assert durable.check(tmp_path / "file") == ["the folder is not there"]


def test_seal_refuses_what_is_no_plain_file(tmp_path: Path) -> None:
    for number, spoil in enumerate((lambda path: path.symlink_to("/etc/hostname"), lambda path: os.mkfifo(path))):
        folder = durable.staging(tmp_path, str(number))
        spoil(folder / "a")
        with pytest.raises(durable.NotRegular, match="not a plain file"):
            durable.seal(folder)
        assert not (folder / durable.MANIFEST).exists()


def test_names_that_are_no_text_are_sealed_too(tmp_path: Path) -> None:
    folder = durable.staging(tmp_path, "x")
    odd = folder / os.fsdecode(b"caf\xe9\n")
    odd.write_text("x")
    durable.seal(folder)
    assert durable.check(folder) == []
    odd.unlink()
    (problem,) = durable.check(folder)
    assert problem.isprintable()
