"""`python -m nightschool.training JOB --workspace DIR ...`: the child that imports torch."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
import warnings
from pathlib import Path

from nightschool import logs
from nightschool.errors import NightschoolError, StorageError
from nightschool.workspace import Layout


def main() -> int:
    """Run one job; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nightschool.training")
    parser.add_argument("job", choices=("train", "replay", "export", "adopt", "rehearse", "track"))
    parser.add_argument("--workspace", required=True, type=Path)
    parser.add_argument("--lifeline", type=int)
    parser.add_argument("--at")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--shard-size", default="5GB")
    options = parser.parse_args()
    layout = Layout(options.workspace.resolve())
    if options.job == "track":
        # It fetches what its trackers need, and needs neither a model nor a GPU.
        from nightschool.training import tracking

        return tracking.work(layout, options.lifeline)
    # Before any Hugging Face library is imported: nothing is fetched while training.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from transformers.utils import logging as transformers_logging

    from nightschool.training import adopting, export, rehearsal, replay, trainer

    # What is kept of this process's output is quoted when it crashes: bars would fill it.
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

    try:
        if options.job == "train":
            trainer.train(layout, options.lifeline)
        elif options.job == "export":
            print(json.dumps(export.export(layout, options.at, options.to, options.shard_size)))
        elif options.job == "adopt":
            adopting.work(layout)
        elif options.job == "rehearse":
            print(json.dumps(rehearsal.rehearse(layout, _say)))
        else:
            print(json.dumps(replay.replay(layout, _say)))
    except NightschoolError as error:
        logging.getLogger("nightschool.trainer").error("%s", error)
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        refused = StorageError(f"The disk refused: {error}. Make room or repair it; this is tried again by itself.")
        logging.getLogger("nightschool.trainer").error("%s", refused)
        print(refused, file=sys.stderr)
        return refused.exit_code
    return 0


def _say(text: str) -> None:
    """A line for whoever waits: see `trainingjobs`."""
    print(json.dumps({"say": text}), flush=True)


if __name__ == "__main__":
    logs.leave(main())
