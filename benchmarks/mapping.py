"""The other side of `benchmarks.intake`: what people write who prepare chats with the `datasets` library.

    python -m benchmarks.mapping --tokenizer DIR --file FILE --cache DIR [--masks]

Loads the libraries and the tokenizer, writes "ready", waits for a line, and then reads the file with `load_dataset` and
tokenises it with `map`, in batches and in two processes; the result lies in the cache, in Arrow files. At the end it
writes as JSON how many rows, tokens and learned tokens that made, and the processor seconds of all its processes. It
imports nothing of nightschool.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

PROCESSES = 2


def tokenize(batch: dict[str, list[Any]], tokenizer: Any, masks: bool) -> dict[str, list[Any]]:
    """A batch of rows with `messages` as token ids, and with `masks` as 1 where the assistant wrote."""
    found = tokenizer.apply_chat_template(
        batch["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=masks,
        tokenizer_kwargs={"return_attention_mask": False},
    )  # fmt: skip
    made = {"input_ids": found["input_ids"]}
    return {**made, "assistant_masks": found["assistant_masks"]} if masks else made


def main(arguments: Sequence[str] | None = None) -> None:
    """Be ready, wait, work, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mapping", description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--masks", action="store_true")
    options = parser.parse_args(arguments)
    os.environ["HF_DATASETS_CACHE"] = str(options.cache)
    os.nice(5)  # as the process it is compared with

    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(options.tokenizer), local_files_only=True)
    datasets.disable_progress_bars()
    print("ready", flush=True)
    sys.stdin.readline()
    began = _used()
    rows = datasets.load_dataset("json", data_files=str(options.file), split="train")
    made = rows.map(
        partial(tokenize, tokenizer=tokenizer, masks=options.masks),
        batched=True, num_proc=PROCESSES, remove_columns=rows.column_names,
    )  # fmt: skip
    print("done", flush=True)
    used = _used() - began
    tokens = labels = 0
    for batch in made.data.to_batches(max_chunksize=1000):
        tokens += len(batch.column("input_ids").flatten())
        if options.masks:
            labels += int(batch.column("assistant_masks").flatten().to_numpy().sum())
    counts = {"rows": len(made), "tokens": tokens, "label_tokens": labels}
    print(json.dumps({**counts, "processor": used}), flush=True)


def _used() -> float:
    """Processor seconds of this process and of those that it has ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
