"""Real text that every Python brings along: documentation to learn, source code to begin with."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path


def topics() -> list[str]:
    """The help topics that ship inside Python (`pydoc_data.topics`), by name, about 700 kB."""
    from pydoc_data.topics import topics as found

    return [found[name] for name in sorted(found)]


def passages(size: int = 700) -> list[str]:
    """The topics in passages of whole paragraphs, about `size` characters each."""
    result: list[str] = []
    for topic in topics():
        passage = ""
        for paragraph in topic.split("\n\n"):
            if passage and len(passage) + len(paragraph) > size:
                result.append(passage)
                passage = ""
            passage += ("\n\n" if passage else "") + paragraph
        if passage.strip():
            result.append(passage)
    return result


def source_text(characters: int) -> str:
    """Source code of the standard library, module after module by name."""
    library = Path(sysconfig.get_paths()["stdlib"])
    parts: list[str] = []
    length = 0
    for path in sorted(library.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(text)
        length += len(text)
        if length >= characters:
            break
    return "".join(parts)[:characters]


def write_rows(path: Path, texts: list[str]) -> None:
    """A JSONL data file with one `text` row for each."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
