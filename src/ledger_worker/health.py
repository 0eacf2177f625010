"""Whether this process is alive and ready, and the small HTTP server that says so.

Alive means that every loop still goes round: a restart would help. Ready means that the loop holds what it was assigned
and that the database answered lately: a restart would not help, so an outage of the database never makes a process
dead. Both are told by the loops themselves; no request causes a query.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ledger_worker.errors import ConfigurationError

__all__ = ["Health", "Server", "serve"]

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]

_DATABASE_SILENCE_SECONDS_MAX = 30.0
_STOP_SECONDS_MAX = 5.0


class Health:
    """What the loops said last. Any thread may tell and ask."""

    def __init__(self, *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._turns: dict[str, float] = {}
        self._database_answered_at: float | None = None
        self._waits_for: dict[str, str] = {}

    def turned(self, loop: str) -> None:
        """The loop went round once more; its first turn enters it."""
        self._turns[loop] = time.monotonic()

    def ended(self, loop: str) -> None:
        """The loop has ended on purpose and is asked for no more."""
        self._turns.pop(loop, None)

    def database_answered(self) -> None:
        """The database answered just now."""
        self._database_answered_at = time.monotonic()

    def waits(self, who: str, what: str | None) -> None:
        """Whoever it is (a loop, a batch, a claim) waits because of `what`; None: not any more."""
        if what is None:
            self._waits_for.pop(who, None)
        else:
            self._waits_for[who] = what

    def why_dead(self) -> list[str]:
        """The loops that stand still; empty when alive."""
        now = time.monotonic()
        return [
            f"{loop} has not turned for {now - turned:.0f} s"
            for loop, turned in sorted(self._turns.copy().items())
            if now - turned > self._stall_seconds
        ]

    def why_not_ready(self) -> list[str]:
        """What is missing; empty when ready."""
        missing = [f"{who} waits: {what}" for who, what in sorted(self._waits_for.copy().items())]
        if not self._turns:
            missing.append("no loop has turned yet")
        answered = self._database_answered_at
        if answered is None or time.monotonic() - answered > _DATABASE_SILENCE_SECONDS_MAX:
            missing.append("the database has not answered lately")
        return missing


class Server:
    """A running HTTP server with a thread of its own."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """It answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_SECONDS_MAX)


def serve(health: Health, metrics: WSGIApplication, host: str, port: int) -> Server:
    """`/livez`, `/readyz` and `/metrics` are answered. Port 0 takes any free one.

    Raises ConfigurationError when the address cannot be used.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - as WSGI has it
        """A probe is answered 200 while there are no problems, else 503 with what they are."""
        match environ.get("PATH_INFO"):
            case "/metrics":
                return metrics(environ, start_response)
            case "/livez":
                problems = health.why_dead()
            case "/readyz":
                problems = health.why_dead() + health.why_not_ready()
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"expected /livez, /readyz or /metrics\n"]
        start_response("503 Service Unavailable" if problems else "200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"ok": not problems, "problems": problems}).encode() + b"\n"]

    try:
        return Server(make_server(host, port, answer, server_class=_ThreadingServer, handler_class=_QuietHandler))
    except OSError as error:
        raise ConfigurationError(f"LEDGER_METRICS_HOST and LEDGER_METRICS_PORT name {host}:{port}: {error}") from error


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    """A slow reader of metrics does not keep a probe waiting."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Probes come every few seconds; they are no news."""

    timeout = 10.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the parent's
        """Nothing is written."""
