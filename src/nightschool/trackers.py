"""Which package each experiment tracker needs, and whether it is there. Nothing is imported to find that out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from nightschool.errors import SettingsError

TITLES = {"tensorboard": "TensorBoard", "trackio": "trackio", "wandb": "Weights & Biases", "mlflow": "MLflow"}
"""By the name in `trackers.report_to`, which is also that of the package and of the extra, what people call it."""


def check(report_to: Sequence[str]) -> None:
    """Raise SettingsError where the package of a tracker in `report_to` is not installed, naming the extras."""
    missing = [name for name in report_to if not _installed(name)]
    if missing:
        names, extras = " and ".join(TITLES[name] for name in missing), ",".join(missing)
        raise SettingsError(
            f"`trackers.report_to` names {names}, which is not installed. Install it with "
            f"pip install 'nightschool[{extras}]', or take it out of the setting."
        )


def _installed(name: str) -> bool:
    spec = find_spec(name)
    # A folder of that name in the place where somebody typed the command (wandb and trackio make such) is no package.
    return spec is not None and spec.origin is not None
