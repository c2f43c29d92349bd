"""What `benchmarks.intake` reads: chats of real text, and a base model whose tokenizer is made for them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from nightschool.demo import corpus

TEMPLATE = """
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + eos_token }}
{%- endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""".strip()


def make_base(folder: Path, vocabulary: int, characters: int, hidden: int, layers: int) -> Path:
    """Save a small Llama with random weights and a byte-level BPE tokenizer that is trained on the text of the chats.

    Args:
        folder: to save into; also returned.
        vocabulary: tokens, at most.
        characters: of source code that the tokenizer is trained on, beside documentation.
        hidden, layers: size of the model.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=names, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.train_from_iterator([*corpus.topics(), corpus.source_text(characters)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=names[0], eos_token=names[2], chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, rows: int, characters: int, seed: int = 1) -> Path:
    """Chats of one to three questions with answers, of pieces of real text; most short, a few long; about 1 kB each.

    `characters` of source code are drawn from, beside documentation.
    """
    text = "\n".join(corpus.topics()) + corpus.source_text(characters)
    chance = random.Random(seed)

    def piece(median: int) -> str:
        length = min(1500, 10 + int(median * chance.lognormvariate(0, 0.8)))
        start = int(chance.random() * (len(text) - length - 80))
        start = text.find(" ", start, start + 60) + 1 or start
        return text[start : start + length]

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            messages = []
            for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
                messages += [{"role": "user", "content": piece(100)}, {"role": "assistant", "content": piece(280)}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path
