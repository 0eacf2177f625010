from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from ledger_worker.errors import ConfigurationError
from ledger_worker.health import Health, Server, serve
from ledger_worker.metrics import CollectorRegistry, Metrics, exposition


@pytest.fixture
def health() -> Health:
    return Health(stall_seconds=60.0)


@pytest.fixture
def server(health: Health) -> Iterator[Server]:
    started = serve(health, exposition(Metrics(CollectorRegistry()).registry), "127.0.0.1", 0)
    yield started
    started.stop()


def get(server: Server, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_a_process_whose_loops_turn_is_alive_and_ready_once_the_database_answered(
    health: Health, server: Server
) -> None:
    health.turned("consume")
    assert get(server, "/livez")[0] == 200
    assert get(server, "/readyz")[0] == 503

    health.database_answered()

    assert get(server, "/readyz") == (200, '{"ok": true, "problems": []}\n')


def test_an_outage_of_the_database_makes_a_process_unready_and_never_dead(health: Health, server: Server) -> None:
    health.turned("consume")
    health.database_answered()
    health.waits("a batch", "the database is away")

    assert get(server, "/livez")[0] == 200
    assert get(server, "/readyz") == (503, '{"ok": false, "problems": ["a batch waits: the database is away"]}\n')

    health.waits("a batch", None)

    assert get(server, "/readyz")[0] == 200


def test_a_loop_that_stands_still_is_dead() -> None:
    health = Health(stall_seconds=0.0)
    health.turned("consume")

    assert health.why_dead() == ["consume has not turned for 0 s"]


def test_a_loop_that_ended_on_purpose_is_not_dead() -> None:
    health = Health(stall_seconds=0.0)
    health.turned("consume")

    health.ended("consume")

    assert health.why_dead() == []


def test_the_metrics_are_served_beside_it(server: Server) -> None:
    status, body = get(server, "/metrics")

    assert status == 200
    assert "ledger_batch_records_max" in body


def test_any_other_path_is_not_found(server: Server) -> None:
    assert get(server, "/")[0] == 404


def test_an_address_that_is_taken_is_a_matter_of_configuration(health: Health, server: Server) -> None:
    with pytest.raises(ConfigurationError, match="LEDGER_METRICS_PORT"):
        serve(health, exposition(CollectorRegistry()), "127.0.0.1", server.port)
