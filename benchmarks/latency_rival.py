"""One turn of a loop that starts a process with the Hugging Face Trainer for each file; see `benchmarks.latency`.

python -m benchmarks.latency_rival BASE FILE OUTPUT LENGTH THREADS NUMBER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train the file's rows once, on from the last state, and print when the first step began."""
    base, file, output, length, threads, number = sys.argv[1:]
    import torch
    from datasets import load_dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(int(threads))
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    last = Path(output) / "adapter"
    if last.exists():
        model = PeftModel.from_pretrained(model, last, is_trainable=True)
    else:
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    rows = load_dataset("json", data_files=file, split="train")

    def tokenised(batch: dict[str, Any]) -> dict[str, Any]:
        texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in batch["messages"]]
        return tokenizer(texts, truncation=True, max_length=int(length), add_special_tokens=False)

    rows = rows.map(tokenised, batched=True, remove_columns=rows.column_names)
    began: list[float] = []

    class First(TrainerCallback):
        """Notes when the first step begins."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Called by the Trainer before each step."""
            if not began:
                began.append(time.time())

    options = TrainingArguments(
        output_dir=f"{output}/{number}", per_device_train_batch_size=4, gradient_accumulation_steps=4,
        num_train_epochs=1, learning_rate=1e-4, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        logging_strategy="no",
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model=model, args=options, train_dataset=rows, data_collator=collator, callbacks=[First()]).train()
    model.save_pretrained(last)
    print(json.dumps({"first_step_at": began[0]}))


if __name__ == "__main__":
    main()
