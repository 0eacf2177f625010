"""The process: it comes up, answers whoever has a key, and ends in good order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection

from ledger_worker.operations import keys
from ledger_worker.operations.keys import Role
from tests.api.conftest import OFFERED
from tests.apply.ledger import Ledger
from tests.domain.telling import bought, day, told

_SECONDS_MAX = 60.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(port: int, method: str, path: str, secret: str, body: object = None) -> tuple[int, object]:
    """The status and the JSON of one call."""
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", "Idempotency-Key": "k"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Somebody listens there."""
    until = time.monotonic() + _SECONDS_MAX
    while True:
        assert process.poll() is None
        assert time.monotonic() < until, "nobody listens"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def test_it_answers_over_the_network_and_ends_on_sigterm(database_url: str) -> None:
    ledger = Ledger(database_url)
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought()), day(1)))
    with ledger.engine.begin() as connection:
        secret = keys.create(connection, "shop", [Role.CHECKER], actor="eve", note="n").secret
    ledger.close()
    port = free_port()
    environment = {**os.environ, "LEDGER_DATABASE_URL": database_url, "LEDGER_API_PORT": str(port)}
    command = [sys.executable, "-m", "ledger_worker.cli", "serve"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(port, process)
        checked = ask(port, "GET", "/v1/customers/ada/access/api", secret)
        used = ask(
            port, "POST", "/v1/consume", secret, {"customer_id": "ada", "items": [{"entitlement": "api", "units": 4}]}
        )
        after = ask(port, "GET", "/v1/customers/ada/access/api", secret)
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=_SECONDS_MAX)

    remaining = [answer["remaining"] for code, answer in (checked, after) if isinstance(answer, dict)]
    assert (checked[0], used[0], after[0]) == (200, 200, 200)
    assert remaining == [10, 6]
    assert process.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    assert any("Listening at" in line["message"] for line in lines)
    assert secret not in logged
