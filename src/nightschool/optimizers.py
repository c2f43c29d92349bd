"""Which optimizers a run may use: those that a test proves to go on from a checkpoint with the same bits. No torch."""

from __future__ import annotations

import difflib

from nightschool.errors import SettingsError

OFFERED = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor")
"""By the names transformers gives them."""

EXTRA = ("adamw_bnb_8bit", "adamw_8bit", "lion_32bit", "lion_8bit")
"""These need nightschool[quantization]."""


def check_name(name: str) -> None:
    """Accept the name of an optimizer that is offered.

    Raises:
        SettingsError: it is not.
    """
    if name in OFFERED or name in EXTRA:
        return
    listed = f"{', '.join(OFFERED)}; with nightschool[quantization] also {', '.join(EXTRA)}"
    near = difflib.get_close_matches(name, [*OFFERED, *EXTRA], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SettingsError(
        f"training.optimizer = {name!r} is not offered: only optimizers that a test proves to go on from a checkpoint "
        f"with the same bits are; {hint}Offered: {listed}."
    )
