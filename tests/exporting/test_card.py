"""The model card: readable by the Hub, and nothing in a name acts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from nightschool import curriculum
from nightschool.curriculum import Part
from nightschool.exporting import card, facts
from nightschool.exporting.facts import Facts, Learned
from nightschool.record import Record
from nightschool.settings import canonical

ROOT: dict[str, Any] = {
    "method": "lora", "optimizer": "adamw_torch", "dtype": "bfloat16", "seed": 1, "quantization": "none",
}  # fmt: skip
RECORD = Record(
    1250, 2, "ab" * 32, ROOT, {"recipes": [], "entries": []}, {"torch": "2.13.0"},
    [{"step": 40, "changes": ["torch: 2.12.0 before, 2.13.0 now"]}], {"weights": "cd" * 16}, "b.jsonl",
)  # fmt: skip
NASTY = [
    "a|b.jsonl", "`x`.jsonl", "<script>alert(1)</script>", "![x](http://evil/x.png)", "[a](javascript:1)", "**b**_c_",
    "www.evil.example", "a@b.example", "line\nbreak", "--- \n---", "&lt;b&gt;", "$x$", "\u202etxt.exe", "~~s~~", "\\|",
]  # fmt: skip


def learned(name: str | None, **changes: Any) -> Learned:
    one = Learned(name, 12, 3400, "ef" * 32, 1, 40, 40, {}, 2.5, 2.0)
    return replace(one, **changes)


def rendered(*files: Learned, hub: str | None = "org/base", base: str = "org/base", **changes: Any) -> str:
    told = Facts("adapter", base, hub, None, RECORD, list(files), "0.1.0")
    return card.render(replace(told, **changes), "my-model")


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_where_the_weights_are_from() -> None:
    text = rendered(learned("a.jsonl"), learned("b.jsonl", first=41, last=50, of=80, differs={"epochs": 2}))
    assert front_matter(text) == {
        "library_name": "peft", "base_model": "org/base", "base_model_relation": "adapter",
        "pipeline_tag": "text-generation", "tags": ["nightschool", "lora"],
    }  # fmt: skip
    assert RECORD.lineage in text
    assert "| step | 1,250 |" in text
    assert re.search(r"\| 1 \| a\.jsonl \| 12 \| 3,400 \| 1–40 \| `(ef){32}` \| 2\.500 → 2\.000 \|  \|", text)
    assert "41–50 of its 80" in text
    assert "epochs = 2" in text
    assert "step 40: torch&#58; 2.12.0 before, 2.13.0 now" in text
    assert "nightschool 0.1.0, torch 2.13.0" in text


@pytest.mark.parametrize("kind", ["merged", "model"])
def test_a_model_is_one_of_transformers(kind: Any) -> None:
    told = front_matter(rendered(learned("a"), kind=kind))
    assert (told["library_name"], told["base_model_relation"]) == ("transformers", "finetune")
    assert ("lora" in told["tags"]) == (kind == "merged")


def test_a_merge_into_a_base_that_was_quantised_in_training_is_said() -> None:
    record = replace(RECORD, root={**ROOT, "quantization": "4bit"})
    assert "not\nequal" in rendered(kind="merged", record=record).replace("not equal", "not\nequal")
    assert "not equal to it" not in rendered(kind="merged")


def test_a_folder_is_no_base_model_on_the_hub() -> None:
    assert "base_model" not in front_matter(rendered(hub=None, base="/home/me/llama"))
    assert facts.hub_name("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    assert facts.hub_name("/home/me/llama") is None
    assert facts.hub_name("../llama") is None


@pytest.mark.parametrize("name", NASTY)
def test_no_name_acts_in_markdown_html_or_yaml(name: str) -> None:
    plain, text = rendered(learned("plain"), hub=name, base="plain"), rendered(learned(name), hub=name, base=name)
    # As many lines, and as many cells in each, as with a name without anything special in it.
    assert [line.count("|") for line in text.splitlines()[8:] if line[:1] == "|"] == [
        line.count("|") for line in plain.splitlines()[8:] if line[:1] == "|"
    ]
    row = next(line for line in text.splitlines() if line.startswith("| 1 |"))
    assert not set(row.split("|")[2]) & set("`*_[]()<>~!$@:\\")
    assert "www." not in row
    assert isinstance(front_matter(text)["base_model"], str)
    assert sorted(front_matter(text)) == sorted(front_matter(plain))


def test_control_an_unescaped_name_would_break_the_table() -> None:
    row = next(line for line in rendered(learned("a|b")).splitlines() if line.startswith("| 1 |"))
    plain = next(line for line in rendered(learned("ab")).splitlines() if line.startswith("| 1 |"))
    assert row.count("|") == plain.count("|")
    assert row.replace("&#124;", "|").count("|") == plain.count("|") + 1


def test_settings_that_differ_are_those_of_few_steps() -> None:
    common = canonical({"epochs": 1, "train_batch_size": 1, "data": {"max_length": 512}})
    other = canonical({"epochs": 2, "train_batch_size": 1, "data": {"max_length": 128}})
    entries = [curriculum.whole([Part(1, "a", 9)], common), curriculum.whole([Part(2, "b", 2)], other)]
    usual = facts.usual_settings(entries)
    assert usual == {"epochs": 1, "train_batch_size": 1, "data.max_length": 512}
