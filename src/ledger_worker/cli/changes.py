"""`ledger-worker changes`: what the ledger tells, as it stands on the topic."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.connections import broker_options, open_registry, read_settings
from ledger_worker.cli.output import FINDINGS, Json, shortened
from ledger_worker.errors import BadBytesError

if TYPE_CHECKING:
    from ledger_worker.config import Settings
    from ledger_worker.domain.changes import Change, EntitlementPicture
    from ledger_worker.wire.framing import Registry
    from ledger_worker.wire.record import Record

app = typer.Typer(name="changes", help="What other services are told.", no_args_is_help=True)

_TAIL = 10
_TAIL_MAX = 100_000


@app.callback()
def _changes() -> None:
    # Keeps `tail` a verb of its own while it is the only one.
    pass


@app.command()
def tail(
    *,
    customer: Annotated[str | None, typer.Option(metavar="ID", help="Only the changes of this customer.")] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All that the topic keeps, not only the last ones.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then wait for more, until interrupted.")] = False,
    maximum: Annotated[
        int | None,
        typer.Option(
            "--max",
            "-n",
            metavar="N",
            min=1,
            max=_TAIL_MAX,
            help=f"Most changes to print; without --from-beginning {_TAIL} if not said.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the last changes that were told, a line each, in the order of their telling.

    Per customer the numbers (#1, #2, ...) have no gap. With --json each line is the whole record. Nobody is disturbed:
    no group is joined and nothing is committed. Exit status 1 when a record on the topic is no change.
    """
    settings = read_settings()
    registry = open_registry(settings)
    is_bad = False
    try:
        for record in _records(settings, customer, from_beginning=from_beginning, follow=follow, maximum=maximum):
            try:
                typer.echo(_line(record, registry, json=json))
            except BadBytesError as error:
                is_bad = True
                typer.echo(f"{record.topic}/{record.partition} at offset {record.offset}: {error}", err=True)
    except KeyboardInterrupt:
        pass  # the way to end --follow
    if is_bad:
        raise typer.Exit(FINDINGS)


def _records(
    settings: "Settings", customer: str | None, *, from_beginning: bool, follow: bool, maximum: int | None
) -> "Iterator[Record]":
    """The records to print: the last ones or all, then, with `follow`, what comes."""
    found = _read(
        settings, customer, is_whole=from_beginning or customer is not None, follow=follow, last=maximum or _TAIL
    )
    if from_beginning:
        yield from islice((record for group in found for record in group), maximum)
        return
    last: deque[Record] = deque(maxlen=maximum or _TAIL)
    for group in found:
        last.extend(group)
        if follow and not group:
            break
    # Partitions are read side by side; their clock puts them in an order, and within one it changes nothing.
    yield from sorted(last, key=lambda record: (record.timestamp is None, record.timestamp))
    for group in found:
        yield from group


def _read(
    settings: "Settings", customer: str | None, *, is_whole: bool, follow: bool, last: int
) -> "Iterator[Sequence[Record]]":
    from ledger_worker.kafka.client import admin_client
    from ledger_worker.kafka.murmur2 import partition_of
    from ledger_worker.kafka.positions import find_topics
    from ledger_worker.kafka.reading import Reading, read_topic

    broker, topic = broker_options(settings), settings.topic_changes
    partitions = None
    if customer is not None:
        found = find_topics(admin_client(broker), [topic])[topic]
        partitions = [partition_of(customer, found.partitions)]
    # The ends of transactions take offsets too, at worst one for each record.
    reading = Reading(topic=topic, partitions=partitions, tail=None if is_whole else 2 * last, follow=follow)
    key = None if customer is None else customer.encode()
    for group in read_topic(broker, reading):
        yield group if key is None else [record for record in group if record.key == key]


def _line(record: "Record", registry: "Registry | None", *, json: bool) -> str:
    if json:
        from ledger_worker.wire.json_form import json_of_record

        return json_of_record(record.value or b"", registry)
    from ledger_worker.wire.decode import decode_change

    return sentence(decode_change(record.value, registry))


def sentence(change: "Change") -> str:
    """One change on one line, for people."""
    cause = f"{change.cause.type} {change.cause.event_source}/{change.cause.event_id}"
    correction = "  correction" if change.correction else ""
    return (
        f"{change.recorded_at:%Y-%m-%d %H:%M:%S}Z  {change.customer_id} #{change.sequence}  {change.entitlement}: "
        f"{change.before.state} -> {change.after.state}, {_units(change.after)}  because of {cause}{correction}"
    )


def _units(shown: "EntitlementPicture") -> str:
    parts = ["allowed" if shown.allowed else f"not allowed ({shown.reason})"]
    if shown.value is not None:
        parts.append(f"value {shortened(shown.value)}")
    if shown.unlimited:
        parts.append("unlimited")
    elif shown.limit is not None:
        parts.append(f"{shown.remaining} of {shown.limit} left")
    parts += [f"{name} {units}" for name, units in (("overage", shown.overage), ("debt", shown.debt)) if units]
    if shown.expires_at is not None:
        parts.append(f"until {shown.expires_at:%Y-%m-%d %H:%M:%S}Z")
    return ", ".join(parts)
