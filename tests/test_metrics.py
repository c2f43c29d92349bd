"""The figures for Prometheus: what they say, who may read them, and that many readers cost no more than one."""

from __future__ import annotations

import errno
import http.client
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nightschool import metrics
from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.settings.sections import MetricsSettings
from nightschool.supervisor import serving_metrics
from nightschool.supervisor.serving_metrics import Cached, ServingMetrics
from nightschool.workspace import Layout
from tests import ports
from tests.view.making import AT, view

PAGE = Path(__file__).parents[1] / "docs/watching.md"


def documented(text: str) -> dict[str, tuple[str, str]]:
    return {
        name: (kind, what)
        for name, kind, what in re.findall(r"^\| `(nightschool_\w+)` \| (\w+) \| (.*) \|$", text, re.M)
    }


def test_every_figure_is_documented() -> None:
    figures = {name: (meaning.kind, meaning.help) for name, meaning in metrics.FIGURES.items()}
    assert documented(PAGE.read_text()) == figures


def test_control_a_figure_without_its_line_is_found() -> None:
    text = PAGE.read_text().replace("| `nightschool_loss` |", "| `nightschool_lost` |")
    assert documented(text).keys() != metrics.FIGURES.keys()


def found(**status: object) -> dict[str, float]:
    samples = metrics.samples(view(status).status, {"learned": 12}, 5, 3, AT + timedelta(minutes=1))
    return {one.name + "".join(f":{value}" for _, value in one.labels): one.value for one in samples}


def test_what_the_figures_say() -> None:
    known = found()
    assert {name.partition(":")[0] for name in known} == metrics.FIGURES.keys()
    assert known["nightschool_state:training"] == 1.0
    assert sum(value for name, value in known.items() if name.startswith("nightschool_state")) == 1.0
    assert known["nightschool_last_checkpoint_age_seconds"] == 300.0
    assert (known["nightschool_files:learned"], known["nightschool_trainer_restarts_total"]) == (12, 3)


def test_what_is_not_known_is_left_out_and_a_new_word_has_a_line() -> None:
    known = found(loss=None, last_snapshot=None, state="dreaming")
    assert "nightschool_loss" not in known
    assert "nightschool_last_snapshot_age_seconds" not in known
    assert known["nightschool_state:dreaming"] == 1.0


def test_names_follow_the_conventions() -> None:
    for name, meaning in metrics.FIGURES.items():
        assert re.fullmatch(r"nightschool(_[a-z]+)+", name)
        assert name.endswith("_total") == (meaning.kind == "counter")


def test_however_many_ask_the_ledger_is_read_once_a_second() -> None:
    now, made = 0.0, []

    def make() -> bytes:
        made.append(now)
        if len(made) == 2:
            raise StorageError("locked")
        return b"page"

    cached = Cached(make, lambda: now)
    assert [cached.get() for _ in range(100)] == [b"page"] * 100
    now = 1.0
    for _ in range(3):
        with pytest.raises(StorageError):
            cached.get()
    now = 2.0
    assert cached.get() == b"page"
    assert made == [0.0, 1.0, 2.0]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "ws")
    made.create()
    Ledger.create(made.ledger).close()
    return made


@pytest.fixture
def said() -> list[str | None]:
    return []


@pytest.fixture
def serving(layout: Layout, said: list[str | None]) -> Iterator[ServingMetrics]:
    made = ServingMetrics(layout, lambda: 0, said.append, said.append)
    yield made
    made.end()


def wanted(port: int, host: str = "127.0.0.1") -> MetricsSettings:
    return MetricsSettings(port=port, host=host)


def ask(serving: ServingMetrics, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
    port = int((serving.address or "").rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_it_is_served_as_prometheus_reads_it(serving: ServingMetrics, said: list[str | None]) -> None:
    serving.apply(wanted(ports.kept()))
    status, text = ask(serving)
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["nightschool_trainer_restarts"].type == "counter"
    (current,) = (one.labels["state"] for one in families["nightschool_state"].samples if one.value)
    assert current == "stopped"
    assert said[-1] == serving.address
    assert ask(serving, method="HEAD") == (200, "")


def test_only_reading_and_only_one_page(serving: ServingMetrics) -> None:
    serving.apply(wanted(ports.kept()))
    assert ask(serving, method="POST")[0] == 501
    assert ask(serving, "/")[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "localhost.evil.example", "[::1", "127.0.0.1.x"]
)
def test_a_foreign_name_is_refused_on_loopback(serving: ServingMetrics, host: str) -> None:
    serving.apply(wanted(ports.kept()))
    assert ask(serving, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "[::1]:9464", "[::1]"])
def test_control_its_own_names_are_answered(serving: ServingMetrics, host: str) -> None:
    serving.apply(wanted(ports.kept()))
    assert ask(serving, Host=host)[0] == 200


def test_off_loopback_any_name_is_answered(serving: ServingMetrics) -> None:
    serving.apply(wanted(ports.kept(), "0.0.0.0"))
    assert ask(serving, Host="night.example")[0] == 200


def test_a_port_that_is_taken_gives_the_next_and_says_so(serving: ServingMetrics, said: list[str | None]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        serving.apply(wanted(port))
        assert f"(port {port} could not be had: Address already in use)" in (said[0] or "")
        assert ask(serving)[0] == 200


def test_an_address_that_cannot_be_had_is_said_and_ends_nothing(
    serving: ServingMetrics, said: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.apply(wanted(ports.kept(), "192.0.2.1"))
    assert (said[0] or "").startswith("No figures for Prometheus are served: 192.0.2.1 port")
    assert said[1] is serving.address is None


def test_a_name_that_nobody_knows_is_asked_for_once_and_not_for_each_port(
    serving: ServingMetrics, said: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unknown(host: str, port: int, page: Cached) -> None:
        asked.append(f"{host}:{port}")
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(serving_metrics, "_Server", unknown)
    serving.apply(wanted(9000, "night.example"))
    assert asked == ["night.example:9000"], "each may take half a minute, in which the machine does nothing else"
    assert "Temporary failure in name resolution" in (said[0] or "")


def test_another_address_keeps_the_port(serving: ServingMetrics, said: list[str | None]) -> None:
    port = ports.kept()
    serving.apply(wanted(port))
    serving.apply(wanted(port, "0.0.0.0"))
    assert serving.address == f"http://0.0.0.0:{port}/metrics"
    assert ask(serving)[0] == 200


def test_settings_are_followed_while_it_runs(serving: ServingMetrics, said: list[str | None]) -> None:
    serving.apply(wanted(0))
    assert said == [None]
    serving.apply(wanted(ports.kept()))
    first = serving.address
    serving.apply(wanted(ports.kept()))
    assert serving.address not in (None, first)
    assert ask(serving)[0] == 200
    count = len(said)
    serving.apply(wanted(0))
    assert serving.address is None
    assert said[count:] == ["Figures for Prometheus are not served any more.", None]


def test_a_ledger_that_cannot_be_read_is_503(serving: ServingMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise StorageError("It is locked.")

    monkeypatch.setattr(serving_metrics, "status_of", locked)
    serving.apply(wanted(ports.kept()))
    assert ask(serving) == (503, "It is locked.\n")


def test_an_address_that_comes_up_later_is_tried_again_and_the_trouble_is_said_once(
    serving: ServingMetrics, said: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = serving_metrics._Server

    def down(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(serving_metrics, "_Server", down)
    serving.apply(wanted(ports.kept()))
    serving.again()
    assert len([line for line in said if line and "Cannot assign requested address" in line]) == 1
    monkeypatch.setattr(serving_metrics, "_Server", real)
    serving.again()
    assert ask(serving)[0] == 200


def test_what_is_not_wanted_is_not_tried_again(serving: ServingMetrics) -> None:
    serving.apply(wanted(0))
    serving.again()
    assert serving.address is None
