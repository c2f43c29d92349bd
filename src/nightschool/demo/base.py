"""A small byte-level base model, made on the spot: `python -m nightschool.demo.base FOLDER [--steps N]`.

A model with random weights hardly learns under LoRA alone, so this one is trained first, in full, on source code of the
standard library. It runs as a process of its own because it imports torch.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from nightschool.demo.corpus import source_text

SPECIAL = ("<pad>", "<bos>", "<eos>")
HIDDEN = 128
LENGTH = 256
BATCH = 8
PEAK_RATE = 4e-3


def make_tokenizer() -> Any:
    """One token for each byte, and three special ones; no vocabulary has to come from anywhere."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )


def make_model(vocabulary: int) -> Any:
    """A two-layer Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=HIDDEN,
            intermediate_size=3 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            pad_token_id=256,
            bos_token_id=257,
            eos_token_id=258,
        )
    )


def build(folder: Path, steps: int, threads: int) -> float:
    """Train the base and save it with its tokenizer; returns the last loss, in nats per byte."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    text = source_text(steps * BATCH * LENGTH // 2)
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    tokens = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE)
    loss = torch.zeros(())
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = tokens[torch.randint(len(tokens), (BATCH,))]
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return float(loss.detach())


def main() -> None:
    """Build and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m nightschool.demo.base")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    loss = build(options.folder, options.steps, options.threads)
    print(f"{options.steps} steps in {time.monotonic() - began:.0f} s, loss {loss:.2f}")


if __name__ == "__main__":
    main()
