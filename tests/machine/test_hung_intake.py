"""A real intake worker that hangs on one file: the file is rejected with the reason, and the next one is learned.

What hangs is the model's chat template, a program of somebody else's: in a loop without an end, for rows that say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightschool.intake import worker
from nightschool.ledger import Ledger
from tests import tiny
from tests.machine import whole
from tests.machine.conftest import Start

pytestmark = pytest.mark.slow

LIMIT = 10.0
"""Seconds: the test's machine.hang_minutes. A start on a busy computer reads something more often, or nearly always."""


LOOP = (
    "{% if messages[0]['content'] == 'hang' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}{% endif %}"
)


def test_b6_b7_three_hangs_reject_the_file_and_the_next_goes_on(tmp_path: Path, start: Start) -> None:
    base = tiny.make_model(tmp_path / "base")
    template = base / "chat_template.jinja"
    template.write_text(LOOP + template.read_text())
    layout = whole.workspace(tmp_path / "school", base, machine={"hang_minutes": LIMIT / 60})
    chat = [{"role": "user", "content": "hang"}, {"role": "assistant", "content": "yes"}]
    (layout.inbox / "bad.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    whole.drop(layout, "good.jsonl", count=8, seed=1)
    machine = start(layout)
    machine.wait_for(lambda: whole.counts(layout).get("learned") == 1)
    with Ledger.open(layout.ledger) as ledger:
        (bad,) = ledger.files.listing("rejected")
        accidents = [event for event in ledger.events.of_kind("accident") if event.fields["child"] == "intake worker"]
    assert (bad.name, bad.reason) == ("bad.jsonl", "preparing it ended the intake process 3 times")
    assert len(accidents) >= worker.TRIES
    assert all("neither read nor wrote anything for" in event.text for event in accidents)
    assert (layout.rejected / "bad.jsonl").exists()
    assert machine.stop() == 0
