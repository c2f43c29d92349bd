"""Training a stretch once more, in memory, to see whether the same bits come out."""

from __future__ import annotations

from typing import Any

from nightschool import basemodel, durable
from nightschool.errors import CheckpointError
from nightschool.intake.prepared import PreparedReader
from nightschool.ledger import Ledger
from nightschool.record import belongs, entries_of, read_record, root_digest
from nightschool.settings import load_settings
from nightschool.training import determinism, root
from nightschool.training.claiming import Say, claim
from nightschool.training.device import make_accelerator
from nightschool.training.loop import Loop
from nightschool.workspace import Layout


def replay(layout: Layout, say: Say = lambda _: None) -> dict[str, Any]:
    """Train again, without touching the workspace, from the second-newest checkpoint to the newest; compare the bits.

    On a GPU it takes its lease first, as the trainer does. `say` is called with a line if that has to be waited for.

    Returns:
        {"from": step, "to": step, "equal": bool, "weights": bool, "optimizer": bool, "numerics": [changes]}.

    Raises:
        BusyError: the machine of this workspace has the GPU.
        CheckpointError: there are no two whole checkpoints that belong.
    """
    settings = load_settings(layout.settings_file)
    claim(layout, settings, say)
    determinism.configure(settings.numerics)
    with Ledger.open(layout.ledger) as ledger:
        stored = ledger.machine.get("root")
        entries = entries_of(ledger)
        usable = []
        for _, folder in reversed(layout.checkpoints()):
            if durable.check(folder):
                continue
            record = read_record(folder)
            if belongs(record, root_digest(stored), entries) is None:
                usable.append((folder, record))
        if len(usable) < 2:
            raise CheckpointError(
                "A replay needs two whole checkpoints that belong to the run; there "
                f"{'is 1' if usable else 'is none'}. Let the machine save once more."
            )
        (_, newest), (folder, older) = usable[0], usable[1]
        base = basemodel.resolve(settings.model.name, settings.model.revision)
        root.compare(stored, root.compute(settings, base, stored["dtype"], layout.fingerprint_cache), base)
        files = {row.id: str(row.prepared) for row in ledger.files.each()}
        loop = Loop(
            settings,
            stored,
            make_accelerator(settings),
            lambda file_id: PreparedReader(layout.prepared / files[file_id]),
            newest.numerics.get("cell"),
        )
        loop.entries = newest.entries
        loop.restore(folder, older)
        while loop.done < newest.step:
            loop.step()  # nothing interrupts it
        found = loop.digests()
        same = {part: getattr(found, part) == newest.digests[part] for part in ("weights", "optimizer")}
        return {
            "from": older.step, "to": newest.step, "equal": all(same.values()), **same,
            "numerics": determinism.changes(newest.numerics, loop.numerics),
        }  # fmt: skip
