"""Makers of tiny tokenizers, base models and data files for all tests: quick, deterministic, no download.

The tokenizer reads bytes (no merges), so token ids can be counted by hand: one token per UTF-8 byte, plus five special
tokens. torch, transformers and tokenizers are imported inside the functions that need them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAD, BOS, EOS, IM_START, IM_END = "<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"
SPECIALS = (PAD, BOS, EOS, IM_START, IM_END)
VOCAB_SIZE = 256 + len(SPECIALS)

PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = tuple(
    " ".join(
        (
            "the night train left the station at two and the snow fell on the long field behind the river house",
            "where an old teacher reads a book by a small lamp to three children who ask why stars do not fall",
            "and how bread is made from grain water salt and time while a dog sleeps near the warm stove",
            "and dreams of running after the red fox",
        )
    ).split()
)


def make_tokenizer(
    folder: Path | str,
    template: bool | str = True,
    generation_markers: bool = True,
    *,
    adds_bos: bool = True,
) -> Path:
    """Save a byte-level tokenizer into `folder` and return the folder.

    `template` may be a template text of your own; `generation_markers` chooses between the two built-in ones.
    `adds_bos` says whether encoding plain text puts the bos token in front, as Llama's tokenizer does.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 256 + SPECIALS.index(BOS))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[IM_START, IM_END],
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )
    if isinstance(template, str):
        wrapped.chat_template = template
    elif template:
        wrapped.chat_template = MARKED_TEMPLATE if generation_markers else PLAIN_TEMPLATE
    wrapped.save_pretrained(str(folder))
    return folder


def make_config(kind: str = "llama", **config: Any) -> Any:
    """Return the tiny model config of `kind`; keyword arguments overrule single fields."""
    import transformers

    special = {
        "pad_token_id": 256 + SPECIALS.index(PAD),
        "bos_token_id": 256 + SPECIALS.index(BOS),
        "eos_token_id": 256 + SPECIALS.index(EOS),
    }
    if kind == "llama":
        fields: dict[str, Any] = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            **special,
        }
        return transformers.LlamaConfig(**{**fields, **config})
    if kind == "gpt2":
        fields = {
            "vocab_size": VOCAB_SIZE,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            **special,
        }
        return transformers.GPT2Config(**{**fields, **config})
    raise ValueError(f"unknown kind of tiny model: {kind!r}")


def make_model(
    folder: Path | str,
    kind: str = "llama",
    seed: int = 0,
    *,
    template: bool | str = True,
    generation_markers: bool = True,
    **config: Any,
) -> Path:
    """Save a random base model of `kind` ('llama' or 'gpt2') with its tokenizer into `folder` and return the folder.

    The same seed and config give the same bytes. The caller's torch randomness is left as it was.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tokenizer(folder, template, generation_markers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make_config(kind, **config))
    model.save_pretrained(str(folder))
    return folder


def sentence(chance: random.Random, low: int = 4, high: int = 14) -> str:
    """Return a sentence of real words, without a full stop."""
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(low, high)))


def text_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `n` plain text rows."""
    chance = random.Random(f"text {seed}")
    return [{"text": f"{sentence(chance).capitalize()}."} for _ in range(n)]


def chat_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `n` chats of one or two exchanges, some with a system message."""
    chance = random.Random(f"chat {seed}")
    rows = []
    for number in range(n):
        messages = [{"role": "system", "content": "You are brief."}] if number % 3 == 0 else []
        for _ in range(chance.randint(1, 2)):
            messages.append({"role": "user", "content": f"{sentence(chance, 2, 6)}?"})
            messages.append({"role": "assistant", "content": f"{sentence(chance, 2, 6)}."})
        rows.append({"messages": messages})
    return rows


def pair_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `n` prompt+completion rows of plain strings."""
    chance = random.Random(f"pair {seed}")
    return [{"prompt": f"{sentence(chance, 2, 6)}? ", "completion": f"{sentence(chance, 2, 6)}."} for _ in range(n)]


def write_jsonl(path: Path | str, rows: Iterable[Any]) -> Path:
    """Write one JSON row per line and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def rows(path: Path | str, n: int = 8, seed: int = 0, kind: str = "text") -> Path:
    """Write a data file of `n` rows of `kind` ('text', 'chat' or 'pair') and return its path."""
    makers = {"text": text_rows, "chat": chat_rows, "pair": pair_rows}
    return write_jsonl(path, makers[kind](n, seed))
