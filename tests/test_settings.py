"""nightschool.toml: every shipped form loads, and every mistake names its mend."""

import tomllib
from pathlib import Path

import pytest

from nightschool import foreign
from nightschool.errors import SettingsError
from nightschool.foreign import FOREIGN_NAMES, lora_keys
from nightschool.settings import Settings, load_settings, parse_settings, render_default_toml, sections

MODEL = {"model": {"name": "m"}}


def refusal(raw: dict) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    return str(caught.value)


def test_the_written_file_loads_and_shows_every_setting(tmp_path: Path) -> None:
    text = render_default_toml({"model": {"name": "m"}, "training": {"epochs": 3}, "lora": {"r": 4}})
    path = tmp_path / "nightschool.toml"
    path.write_text(text)
    settings = load_settings(path)
    assert settings.training.epochs == 3
    assert settings.lora_config()["r"] == 4
    for section, model in sections().items():
        for key in model.model_fields:
            assert f"{key} = " in text, f"{section}.{key} is not shown"


def test_every_commented_default_is_the_default() -> None:
    text = render_default_toml(MODEL)
    lines = [line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in text.splitlines()]
    # Meanings contain no " = "; what is left are settings.
    kept = [line for line in lines if not line.startswith("#") and not line.endswith(")")]
    assert parse_settings(tomllib.loads("\n".join(kept))).training == Settings.model_validate(MODEL).training


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({**MODEL, "training": {"learning_rat": 1e-4}}, "did you mean `training.learning_rate`"),
        ({**MODEL, "training": {"max_length": 128}}, "it is `data.max_length`"),
        ({**MODEL, "trainin": {}}, "did you mean `training`"),
        ({**MODEL, "lora": {"rnk_pattern": {}}}, "did you mean `lora.rank_pattern`"),
        ({**MODEL, "max_length": 3}, "it is `data.max_length`"),
        ({}, "`model` is missing"),
        ({**MODEL, "training": {"learning_rate": "fast"}}, "`training.learning_rate`"),
        ({**MODEL, "checkpoints": {"save_total_limit": 1}}, "`checkpoints.save_total_limit`"),
        ({**MODEL, "training": {"micro_batch_size": 9}}, "larger than"),
        ({**MODEL, "training": {"lr_scheduler_type": "cosine"}}, "Use 'constant_with_warmup'"),
        ({**MODEL, "training": {"optimizer": "adamw_torhc"}}, "did you mean 'adamw_torch'"),
        ({**MODEL, "lora": {"init_lora_weights": "pissa_niter_4"}}, "draws a new random base"),
        ({"model": {"name": "m", "quantization": "4bit"}, "training": {"method": "full"}}, "cannot be trained in full"),
    ],
)
def test_a12_a_mistake_names_the_key_and_the_mend(raw: dict, says: str) -> None:
    assert says in refusal(raw)


@pytest.mark.parametrize("name", sorted(FOREIGN_NAMES))
def test_a12_another_programs_name_leads_to_ours(name: str) -> None:
    known = [key for model in sections().values() for key in model.model_fields]
    section = "training" if name not in known else "data"
    message = refusal({**MODEL, section: {name: 1}})
    assert FOREIGN_NAMES[name] in message


def test_the_lora_keys_are_those_of_the_installed_peft() -> None:
    from dataclasses import fields

    from peft import LoraConfig

    ours = set(lora_keys())
    theirs = {field.name for field in fields(LoraConfig)}
    assert {"r", "rank_pattern", "use_dora", "init_lora_weights"} <= ours
    assert ours <= theirs


def test_the_lora_keys_are_parsed_once_and_never_by_two_threads_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bool] = []
    real = foreign.ast.parse
    monkeypatch.setattr(foreign.ast, "parse", lambda text: parsed.append(foreign._PARSING.locked()) or real(text))
    foreign._keys_in.cache_clear()
    assert lora_keys() == lora_keys()
    assert parsed == [True, True]


def test_several_mistakes_are_said_at_once() -> None:
    message = refusal({**MODEL, "training": {"optim": "x", "lr": 1}, "data": {"lenght": 3}})
    assert all(part in message for part in ("training.optimizer", "training.learning_rate", "data.lenght"))


def test_paths_are_meant_from_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "nightschool.toml").write_text('[model]\nname = "base"\n')
    monkeypatch.chdir("/")
    assert load_settings(tmp_path / "nightschool.toml").model.name == str(tmp_path / "base")


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is missing"):
        load_settings(tmp_path / "nightschool.toml")
    (tmp_path / "nightschool.toml").write_text("[model\n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(tmp_path / "nightschool.toml")


def test_a_tilde_is_the_home_for_all_who_read_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for base in (None, tmp_path):
        model = parse_settings({"model": {"name": "~/m", "chat_template": "~/t.jinja"}}, base=base).model
        assert (model.name, model.chat_template) == (f"{tmp_path}/m", f"{tmp_path}/t.jinja")
    assert parse_settings({"model": {"name": "org/m~1"}}).model.name == "org/m~1"
