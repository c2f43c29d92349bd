"""The card: README.md as the Hub reads it. Pure: facts in, text out.

Whatever stands in a file's name, or in the name of the base model, is shown and never acts: neither as Markdown nor as
HTML, nor as YAML in the front matter.
"""

from __future__ import annotations

import json
from typing import Any

from nightschool.exporting.facts import Facts, Learned
from nightschool.words import escape

# All that can begin or end something in Markdown or HTML inside a line, and what turns text into links by itself.
_ACTIVE = frozenset("\\`*_{}[]()<>&|~#!$:@^=\"'")

_LOADING = {
    "adapter": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base}, dtype="{dtype}")
model = PeftModel.from_pretrained(base, "this-folder")
tokenizer = AutoTokenizer.from_pretrained("this-folder")
```
""",
    "merged": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this-folder", dtype="{dtype}")
tokenizer = AutoTokenizer.from_pretrained("this-folder")
```
""",
}
_WHAT = {
    "adapter": "A LoRA adapter for {base}, to be loaded with PEFT.",
    "merged": "{base} with a LoRA adapter merged into its weights, to be loaded with transformers.",
    "model": "{base}, trained in full, to be loaded with transformers.",
}


def markdown(text: object) -> str:
    """Text that stands for itself in a Markdown paragraph or table cell, whatever is in it."""
    plain = escape(text)
    linked = "www." in plain.lower()
    return "".join(f"&#{ord(c)};" if c in _ACTIVE or (linked and c == ".") else c for c in plain)


def yaml(text: object) -> str:
    """Text as a double-quoted YAML scalar on one line."""
    return json.dumps(escape(text), ensure_ascii=False)


def render(facts: Facts, title: str) -> str:
    """The whole README.md.

    Args:
        facts: what is given away.
        title: its heading; the folder's name.
    """
    base = f"`{facts.hub}`" if facts.hub else "the base model named below"
    parts = [
        _front_matter(facts),
        f"# {markdown(title)}\n",
        f"{_WHAT[facts.kind].format(base=base)} It learned the {_count(len(facts.learned), 'file')} below, in that "
        "order, as one continuous run of nightschool.\n",
        _table([("", ""), ("---", "---"), *_identity(facts)]),
    ]
    if facts.kind == "merged" and facts.record.root.get("quantization", "none") != "none":
        parts.append(
            f"The adapter was trained on the base in {facts.record.root['quantization']}, and is merged here into its "
            f"unquantised weights in {facts.record.root['dtype']}: what this model says is near what was trained, not "
            "equal to it.\n"
        )
    parts += ["## What it learned\n", _files(facts.learned), _numerics(facts), "## Load it\n"]
    loading = _LOADING["adapter" if facts.kind == "adapter" else "merged"]
    named = json.dumps(facts.hub) if facts.hub else '"the-base-model"'
    parts.append(loading.format(base=named, dtype=facts.record.root["dtype"]))
    parts.append(
        "The lineage is a SHA-256 chain over the base, the settings and the digests of the prepared files: equal "
        "lineage and equal numerics mean equal weights, to the last bit. `MANIFEST.json` has the SHA-256 of every "
        "file here.\n"
    )
    return "\n".join(parts)


def _front_matter(facts: Facts) -> str:
    lines = ["---", f"library_name: {'peft' if facts.kind == 'adapter' else 'transformers'}"]
    if facts.hub:
        relation = "adapter" if facts.kind == "adapter" else "finetune"
        lines += [f"base_model: {yaml(facts.hub)}", f"base_model_relation: {relation}"]
    lines += ["pipeline_tag: text-generation", "tags:", "- nightschool"]
    if facts.kind != "model":
        lines.append("- lora")
    return "\n".join([*lines, "---", ""])


def _identity(facts: Facts) -> list[tuple[str, str]]:
    record, root = facts.record, facts.record.root
    rows = [
        ("base model", markdown(facts.base) + (f", revision {markdown(facts.revision)}" if facts.revision else "")),
        ("step", f"{record.step:,}"),
        ("lineage", f"`{record.lineage}`"),
        ("generation", str(record.generation)),
        ("root", f"`{facts.root}`"),
        ("weights, xxh3-128", f"`{record.digests.get('weights', '')}`"),
        ("method", ", ".join(markdown(root.get(key)) for key in ("method", "optimizer", "dtype"))),
        ("seed", markdown(root.get("seed"))),
    ]
    if root.get("quantization", "none") != "none":
        rows.append(("base quantised in training", markdown(root["quantization"])))
    if root.get("adopted"):
        rows.append(("began with", "a state taken over from another training"))
    versions = [f"nightschool {facts.version}"]
    known = ("torch", "transformers", "peft", "accelerate", "python")
    versions += [f"{name} {record.numerics[name]}" for name in known if record.numerics.get(name)]
    return [*rows, ("made with", markdown(", ".join(versions)))]


def _files(learned: list[Learned]) -> str:
    if not learned:
        return "Nothing yet: these are the weights that training begins with.\n"
    measured = any(one.loss_before is not None or one.loss_after is not None for one in learned)
    differing = any(one.differs for one in learned)
    head = ["", "file", "rows", "tokens", "steps", "SHA-256"]
    rule = ["--:", "---", "--:", "--:", "--:", "---"]
    if measured:
        head.append("loss on held-out rows")
        rule.append("---")
    if differing:
        head.append("settings of its own")
        rule.append("---")
    rows = [tuple(head), tuple(rule)]
    for number, one in enumerate(learned, start=1):
        steps = f"{one.first:,}–{one.last:,}"
        if one.last - one.first + 1 < one.of:
            steps += f" of its {one.of:,}"
        name = "(not known here any more)" if one.name is None else markdown(one.name)
        row = [
            str(number),
            name,
            _number(one.rows),
            _number(one.tokens),
            steps,
            f"`{one.sha256}`" if one.sha256 else "",
        ]
        if measured:
            row.append(_losses(one))
        if differing:
            row.append(
                "; ".join(f"{markdown(key)} = {markdown(_plain(one.differs[key]))}" for key in sorted(one.differs))
            )
        rows.append(tuple(row))
    return _table(rows)


def _losses(one: Learned) -> str:
    before, after = (f"{loss:.3f}" if loss is not None else "?" for loss in (one.loss_before, one.loss_after))
    return "" if (before, after) == ("?", "?") else f"{before} → {after}"


def _numerics(facts: Facts) -> str:
    changes = facts.record.numerics_changes
    if not changes:
        return ""
    lines = [
        f"- step {int(change['step']):,}: {'; '.join(markdown(text) for text in change['changes'])}"
        for change in changes
    ]
    return (
        "## Changes of the numerics\n\nFrom each of them on, an undisturbed run agrees to rounding, not to the last "
        "bit.\n\n" + "\n".join(lines) + "\n"
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
