"""From the environment to settings, a database and a registry: what commands share before they do their work.

Where neither the database nor the brokers nor a file of settings is named in the environment, and `dev up` has a
cluster running in its default folder, commands work on that one. A named server always wins, and the two are never
mixed: with one of them set, the other is not looked for.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ledger_worker.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ledger_worker.config import Settings
    from ledger_worker.metrics import Stages
    from ledger_worker.wire.framing import Registry

__all__ = ["broker_options", "open_database", "open_registry", "read_settings", "unwatched_stages"]

_SERVERS = ("LEDGER_DATABASE_URL", "LEDGER_KAFKA_BOOTSTRAP", "LEDGER_CONFIG")
_CONNECTIONS_MAX = 2
_STATEMENT_TIMEOUT_SECONDS = 120.0
"""A person waits for a report longer than a worker for a batch."""


def read_settings() -> "Settings":
    """The settings that hold here. Raises ConfigurationError naming the one that is missing or wrong."""
    from ledger_worker.config import load

    return load({**_local_servers(), **os.environ})


def broker_options(settings: "Settings") -> "dict[str, str]":
    """How the brokers are reached. From now on librdkafka writes nothing: what matters to a command is raised."""
    logging.getLogger("librdkafka").setLevel(logging.CRITICAL + 1)
    return settings.broker


@contextmanager
def open_database(settings: "Settings", application_name: str) -> Iterator["Engine"]:
    """The database is reached as the service reaches it, its schema is the one of this release.

    Raises ConfigurationError when it is not, UnavailableError when the database is away or goes away inside the block.
    """
    from sqlalchemy.exc import DBAPIError

    from ledger_worker.store.database import engine, is_away, require_current

    made = engine(
        settings.database_url,
        application_name=application_name,
        role=settings.application_role or None,
        connections_max=_CONNECTIONS_MAX,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS,
        idle_in_transaction_timeout_seconds=settings.idle_in_transaction_session_timeout_seconds,
    )
    try:
        require_current(made)
        yield made
    except DBAPIError as error:
        if is_away(error):
            raise UnavailableError(f"the database cannot be used now: {error.orig}") from error
        raise
    finally:
        made.dispose()


def open_registry(settings: "Settings") -> "Registry | None":
    """The schema registry, when one is set."""
    if not settings.schema_registry_url:
        return None
    from ledger_worker.kafka.registry import SchemaRegistry
    from ledger_worker.wire.framing import Registry

    asked = SchemaRegistry(settings.schema_registry_url)
    return Registry(asked.schema_by_id, asked.id_of_schema)


def unwatched_stages() -> "Stages":
    """What times the stages of a transaction, for nobody: a command is over before its metrics could be asked for."""
    from ledger_worker.metrics import CollectorRegistry, Metrics, Stages

    return Stages(Metrics(CollectorRegistry()))


def _local_servers() -> dict[str, str]:
    if any(os.environ.get(name) for name in _SERVERS):
        return {}
    from ledger_worker.local import cluster

    found = cluster.status(cluster.DEFAULT_FOLDER)
    if found is None or not found.is_running:
        raise ConfigurationError(
            f"LEDGER_DATABASE_URL is not set and no local cluster runs in {cluster.DEFAULT_FOLDER}: export the "
            "settings, or run `ledger-worker dev up` in this folder"
        )
    return {"LEDGER_DATABASE_URL": found.database_url, "LEDGER_KAFKA_BOOTSTRAP": found.kafka_bootstrap}
