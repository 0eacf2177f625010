"""The Confluent Schema Registry: schemas by id, ids of our schemas.

A 404 says something about the id. Whatever else goes wrong says something about the registry: nothing becomes a dead
letter because a server is away. Nothing is registered here; that is done when a release is prepared.

The client of Confluent is loaded only when a registry is set, because it brings an HTTP client and a cache that nobody
needs without one.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ledger_worker.errors import ConfigurationError, UnavailableError

__all__ = ["LookupResult", "SchemaRegistry"]

_TIMEOUT_SECONDS = 5.0
_RETRIES_MAX = 2
_RETRY_WAIT_MILLISECONDS_MAX = 1000
_NOT_FOUND = 404
_AUTHENTICATION = (401, 403)

_Answer = TypeVar("_Answer")


class LookupResult(StrEnum):
    """What came of a question."""

    FOUND = "found"
    UNKNOWN = "unknown"
    """The registry says that it has no such schema."""
    REFUSED = "refused"
    """It does not take our credentials."""
    UNAVAILABLE = "unavailable"
    """It fails, or cannot be reached."""


class SchemaRegistry:
    """One registry. Both questions go over the network: whoever asks keeps the answers, which never change."""

    def __init__(self, url: str, count: Callable[[LookupResult], None] | None = None) -> None:
        """`url` may hold credentials; `count` is told what came of each question.

        Raises ConfigurationError when it is no HTTP URL or no client is installed.
        """
        self._client, self._schema, self._error = _client(url)
        self._count = count

    def schema_by_id(self, schema_id: int) -> str:
        """The text of the schema. Raises LookupError when the registry has none of that id, UnavailableError else."""
        found = self._ask(lambda: self._client.get_schema(schema_id), f"schema id {schema_id}")
        return str(found.schema_str)

    def id_of_schema(self, subject: str, text: str) -> int:
        """The id under which that schema is registered. Raises ConfigurationError when it is not registered."""
        try:
            found = self._ask(
                lambda: self._client.lookup_schema(subject, self._schema(text, "AVRO")), f"subject {subject}"
            )
        except LookupError as error:
            raise ConfigurationError(
                f"the schema registry has no schema of this release under the subject {subject}: register it first"
            ) from error
        return int(found.schema_id)

    def _ask(self, question: Callable[[], _Answer], what: str) -> _Answer:
        result = LookupResult.UNAVAILABLE
        try:
            found = self._answer(question, what)
            result = LookupResult.FOUND
        except LookupError:
            result = LookupResult.UNKNOWN
            raise
        except ConfigurationError:
            result = LookupResult.REFUSED
            raise
        finally:
            if self._count is not None:
                self._count(result)
        return found

    def _answer(self, question: Callable[[], _Answer], what: str) -> _Answer:
        try:
            return question()
        except self._error as error:
            if error.http_status_code == _NOT_FOUND:
                raise LookupError(f"{what}: {error.error_message}") from error
            if error.http_status_code in _AUTHENTICATION:
                raise ConfigurationError(f"{what}: the schema registry refuses these credentials") from error
            raise UnavailableError(f"{what}: the schema registry answers {error.http_status_code}") from error
        except ConfigurationError:
            raise
        except Exception as error:  # whatever the HTTP client raises; there is no common class
            raise UnavailableError(f"{what}: the schema registry cannot be reached ({type(error).__name__})") from error


def _client(url: str) -> tuple[Any, Any, type[Any]]:
    try:
        from confluent_kafka.schema_registry import (  # noqa: PLC0415 - only where a registry is set
            Schema,
            SchemaRegistryClient,
        )
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ConfigurationError(
            f"LEDGER_SCHEMA_REGISTRY_URL is set, but the package {error.name} of the registry's client is missing: "
            "run pip install 'ledger-worker[registry]'"
        ) from error
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError("LEDGER_SCHEMA_REGISTRY_URL is no URL of HTTP, expected https://HOST")
    options: dict[str, Any] = {
        "url": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        "timeout": _TIMEOUT_SECONDS,
        "max.retries": _RETRIES_MAX,
        "retries.max.wait.ms": _RETRY_WAIT_MILLISECONDS_MAX,
    }
    if parts.username:
        options["basic.auth.user.info"] = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return SchemaRegistryClient(options), Schema, SchemaRegistryError
