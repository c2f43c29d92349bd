"""The real trainer, but for one thing: in a step on rows with a # in them it ends as by SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from nightschool.training import __main__ as program
from nightschool.training import loss

POISON = sorted(ByteLevel.alphabet()).index("#")
real = loss.sum_loss


def sum_loss(built: Any, batch: Any, *more: Any) -> Any:
    if POISON in batch.input_ids.reshape(-1).tolist():
        os.kill(os.getpid(), signal.SIGKILL)
    return real(built, batch, *more)


loss.sum_loss = sum_loss
sys.exit(program.main())
