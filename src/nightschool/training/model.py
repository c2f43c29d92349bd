"""The model a run trains: loaded from the base, given its adapter, always in the same way.

Building is a function of settings and root: the same ones give the same bits, whatever happened before in the process.
An adapter is made once, here; a checkpoint's weights are copied into it (`load_trainable`). Making an adapter a second
time would set it back to nothing learned, quietly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from nightschool import basemodel
from nightschool.errors import ModelError, SettingsError
from nightschool.intake.template import own_template
from nightschool.intake.tokenise import load_tokenizer
from nightschool.lora_options import check_lora
from nightschool.training.determinism import hashed_seed
from nightschool.training.weights import adapter_state_for_export, load_trainable, trainable_state, write_model

if TYPE_CHECKING:
    from nightschool.settings import Settings
    from nightschool.training.loss import Head

__all__ = [
    "Built",
    "adapter_state_for_export",
    "build",
    "load_trainable",
    "resolve_dtype",
    "trainable_state",
    "write_model",
]


@dataclass
class Built:
    """A model ready to train.

    Attributes:
        model: the PeftModel, or for `full` the causal LM itself; in training mode.
        base: the causal LM (with the adapter's layers in it, for LoRA).
        tokenizer: with the chat template of the settings.
        method: 'lora' or 'full'.
        folder: the base model's folder.
        device: where it computes.
        dtype: type of the base's weights.
        head: how logits come from hidden states; set by `loss.check_head`.
    """

    model: Any
    base: Any
    tokenizer: Any
    method: str
    folder: Path
    device: torch.device
    dtype: str
    head: Head | None = field(default=None)

    @property
    def attention(self) -> str:
        """The attention implementation in use."""
        return str(getattr(self.base.config, "_attn_implementation", None) or "eager")


def resolve_dtype(setting: str, method: str, device: torch.device | str) -> str:
    """What `model.dtype` means on this device.

    `auto`: training in full needs float32 masters (a bfloat16 weight does not move by less than 1/256 of itself); a
    frozen base is kept in bfloat16 where the device computes in it.
    """
    if setting != "auto":
        return setting
    if method == "full" or torch.device(device).type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def build(settings: Settings, root: dict[str, Any], device: torch.device | str) -> Built:
    """Load the base model and give it its adapter.

    Args:
        settings: how to load and train.
        root: the run's root; its `dtype`, resolved once for the run, and its `seed` are used.
        device: where to put the model.

    Raises:
        ModelError: the base model cannot be loaded, or not so.
        SettingsError: an option of [lora] is unknown or does not resume.
    """
    method = settings.training.method
    if method == "lora":
        check_lora(settings.lora_config())
    folder = basemodel.resolve(settings.model.name, settings.model.revision)
    device = torch.device(device)
    dtype = str(root["dtype"])
    base = _load(settings, folder, dtype, device)
    tokenizer = load_tokenizer(folder, settings.model.trust_remote_code)
    file = settings.model.chat_template
    tokenizer.chat_template = own_template(tokenizer, Path(file) if file else None)
    if getattr(base.config, "output_router_logits", False):
        # A router's auxiliary loss depends on how a step is split into cells: off.
        base.config.output_router_logits = False
    model = _with_adapter(base, settings, int(root["seed"]), folder) if method == "lora" else _all_trainable(base)
    _checkpoint_gradients(base, settings.training.gradient_checkpointing, device, folder)
    model.train()
    return Built(model, base, tokenizer, method, folder, device, dtype)


def _load(settings: Settings, folder: Path, dtype: str, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    attention = settings.model.attn_implementation
    if attention != "auto":
        options["attn_implementation"] = attention
    if settings.model.quantization != "none":
        options["quantization_config"] = _quantization(settings.model.quantization, dtype, device)
    if device.type != "cpu":
        # Straight to the device: a model need not fit into host memory first.
        options["device_map"] = {"": device}
    try:
        base = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.model.trust_remote_code, **options
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise  # whose fault that is shows only on the device
    except Exception as error:
        raise ModelError(_why_not_loaded(folder, attention, error)) from error
    if settings.model.quantization == "none":
        cast(Any, base).to(device)
    return base


def _why_not_loaded(folder: Path, attention: str, error: Exception) -> str:
    text = first_line(error)
    if "trust_remote_code" in str(error):
        advice = "It comes with its own Python code: set model.trust_remote_code = true if you trust it."
    elif attention != "auto" and attention.split("_")[0] in str(error).lower():
        advice = 'Set model.attn_implementation = "auto".'
    else:
        advice = "Check model.name, and that all its files are there."
    return f"The base model in {folder} cannot be loaded: {text}. {advice}"


def first_line(error: BaseException) -> str:
    """What an exception says, in one line without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _quantization(kind: str, dtype: str, device: torch.device) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils.import_utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ModelError(
            f'model.quantization = "{kind}" needs bitsandbytes, which is not installed here: '
            "pip install 'nightschool[quantization]'."
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if device.type == "cpu":
        # bitsandbytes 0.50 repacks the weights at the first pass without gradients, such as our look at the output
        # layer, and from then on passes no gradient through them: training would go on, wrongly and without a word.
        raise ModelError(
            'model.quantization = "4bit" needs a GPU: on the CPU, bitsandbytes computes wrong gradients. '
            'Set model.quantization = "none".'
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _with_adapter(base: Any, settings: Settings, seed: int, folder: Path) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    base.requires_grad_(False)
    try:
        config = LoraConfig(task_type=TaskType.CAUSAL_LM, **settings.lora_config())
        # Whatever the process has drawn before, the adapter begins with the same numbers.
        torch.manual_seed(hashed_seed(seed, "init"))
        model = get_peft_model(base, config)
    except (TypeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise SettingsError(f"[lora] cannot be used with the base model in {folder}: {first_line(error)}.") from error
    config = model.peft_config["default"]
    # The resolved folder, not the name in the settings: what was learned fits these very files.
    config.base_model_name_or_path = str(folder)
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingsError("[lora] leaves nothing to train: check lora.target_modules.")
    return model


def _all_trainable(base: Any) -> Any:
    base.requires_grad_(True)
    return base


def _checkpoint_gradients(base: Any, setting: bool | str, device: torch.device, folder: Path) -> None:
    able = bool(getattr(base, "supports_gradient_checkpointing", False))
    if setting is True and not able:
        raise ModelError(
            f"The base model in {folder} has no gradient checkpointing. Set training.gradient_checkpointing = false."
        )
    if able and (setting is True or (setting == "auto" and device.type != "cpu")):
        # Without reentry, frozen inputs need no gradient of their own and the bits stay the same.
        how = {"use_reentrant": False}
        if hasattr(base, "activation_checkpointing_enable"):
            base.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
        else:
            # Its older name.
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
