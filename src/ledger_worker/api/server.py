"""The process that serves the API: Granian around the application, one process a port, a few threads."""

import os
from typing import Any

from granian import Granian
from granian.constants import Interfaces

from ledger_worker.api.app import make_app
from ledger_worker.api.calls import Services
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.gathering import CONNECTIONS, Gatherer
from ledger_worker.config import PREFIX, Settings, load
from ledger_worker.logs import configure_logs
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store import database

__all__ = ["application", "serve"]


def serve(settings: Settings) -> None:
    """The API answers on the address that the settings name, until SIGTERM or SIGINT.

    Raises ConfigurationError when the schema is not the one of this release, UnavailableError when the database is
    away.
    """
    configure_logs(settings.log_level)
    # The process that answers is another one and reads its own settings: also those that came from a local cluster.
    os.environ.setdefault(f"{PREFIX}DATABASE_URL", settings.database_url)
    engine = _engine(settings)
    try:
        database.require_current(engine)
    finally:
        engine.dispose()
    Granian(
        "ledger_worker.api.server:application",
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.WSGI,
        factory=True,
        workers=1,
        blocking_threads=settings.api_threads,
        backpressure=4 * settings.api_threads,
        log_access=False,
        log_dictconfig=_LOGS,
        websockets=False,
        workers_kill_timeout=int(settings.grace_seconds),
    ).serve()


_LOGS = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"_granian": {"level": "INFO", "handlers": [], "propagate": True}},
}
"""Granian's own lines go where all others go."""


def application() -> Any:  # noqa: ANN401 - a WSGI application
    """What Granian's process runs: the application over services of its own, by the settings of the environment."""
    settings = load(os.environ)
    configure_logs(settings.log_level)
    engine = _engine(settings)
    metrics = Metrics(CollectorRegistry())
    services = Services(
        engine=engine,
        gatherer=Gatherer(engine, metrics),
        catalogues=Catalogues(),
        answer_seconds=settings.api_answer_seconds,
    )
    return make_app(services)


def _engine(settings: Settings) -> Any:  # noqa: ANN401 - SQLAlchemy's engine
    return database.engine(
        settings.database_url,
        application_name="ledger-worker api",
        role=settings.application_role or None,
        connections_max=settings.api_threads + CONNECTIONS + 1,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        idle_in_transaction_timeout_seconds=settings.idle_in_transaction_session_timeout_seconds,
    )
