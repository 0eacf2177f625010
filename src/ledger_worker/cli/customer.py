"""`ledger-worker customer`: what one customer may do, and why."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli import asking, by_hand, seats
from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.instants import exactly, instant_of, shown
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, print_table, shortened

if TYPE_CHECKING:
    from ledger_worker.domain.changes import CustomerPicture
    from ledger_worker.reports.customer import ExplainedEntitlement, Explanation
    from ledger_worker.reports.events import EventTold, ExplainedSource
    from ledger_worker.reports.grants import ExplainedGrant
    from ledger_worker.reports.history import CustomerHistory
    from ledger_worker.reports.past import PastPicture
    from ledger_worker.reports.postings import ExplainedPosting

app = typer.Typer(
    name="customer",
    help="What one customer may do, and why; units asked for, and what is given by hand.",
    no_args_is_help=True,
)
_ASKING = (asking.consume, asking.hold, asking.confirm, asking.release)
for _verb in (*_ASKING, by_hand.assign, by_hand.renew, by_hand.extend, by_hand.revoke):
    app.command()(_verb)
app.add_typer(seats.app)

_Id = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]

_POSTINGS = 20
_POSTINGS_MAX = 10_000
_HISTORY_MAX = 1_000


@app.command()
def show(
    customer_id: _Id,
    *,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            metavar="INSTANT", parser=instant_of, help="As it stood then; now if not said.", show_default=False
        ),
    ] = None,
    known_at: Annotated[
        datetime | None,
        typer.Option(
            metavar="INSTANT",
            parser=instant_of,
            help="By what was recorded then or before; by all that is recorded if not said.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show each entitlement that the customer has or had, as it stands; exit status 1 for an unknown customer.

    What has fallen due counts, whether or not a process has booked it. With --as-of or --known-at it is what the
    customer could use at that instant, as the ledger knew it at the other.
    """
    from ledger_worker.reports import customer, past

    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        found: CustomerPicture | PastPicture | None
        if as_of is None and known_at is None:
            found = customer.show(connection, customer_id)
        else:
            found = past.show_past(connection, customer_id, as_of, known_at)
    if found is None:
        raise _unknown(customer_id)
    if json:
        print_json(found)
    else:
        _print_picture(found, _title(found))


@app.command()
def explain(
    customer_id: _Id,
    entitlement: Annotated[
        str | None, typer.Argument(metavar="ENTITLEMENT", help="Only this one, also if the customer never had it.")
    ] = None,
    *,
    units: Annotated[
        int, typer.Option(metavar="N", min=1, help="Say what a request for so many units would be answered.")
    ] = 1,
    postings: Annotated[
        int, typer.Option(metavar="N", min=1, max=_POSTINGS_MAX, help="How many of the last postings are shown.")
    ] = _POSTINGS,
    json: Json = False,
) -> None:
    """Say why the customer may or may not: grants in the order of burning, events, postings, and what would allow it.

    Exit status 1 for an unknown customer, or an entitlement that is not in the catalogue.
    """
    from ledger_worker.reports import customer

    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        explained = customer.explain(connection, customer_id, entitlement, units=units, postings_max=postings)
    if explained is None:
        raise _unknown(customer_id)
    if entitlement is not None and not explained.entitlements:
        print_error(f"entitlement {entitlement} is not in the catalogue")
        raise typer.Exit(FINDINGS)
    if json:
        print_json(explained)
    else:
        _print_explanation(explained)


@app.command()
def history(
    customer_id: _Id,
    *,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="From the first posting on.")] = False,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=_HISTORY_MAX, help="How many postings a page has.")
    ] = _POSTINGS,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Go on where the page ended that printed this cursor.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List what was booked of a customer, the newest first: when, of which instants, because of what and of whom.

    Exit status 1 for an unknown customer. With --cursor say --oldest-first again where the page before was read so.
    """
    from ledger_worker.reports import history as reports

    read = reports.oldest_first if oldest_first else reports.newest_first
    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        try:
            found = read(connection, customer_id, cursor, postings_max=limit)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    if found is None:
        raise _unknown(customer_id)
    if json:
        print_json(found)
    else:
        _print_history(found)


def _unknown(customer_id: str) -> typer.Exit:
    print_error(f"customer {customer_id} is not known to the ledger")
    return typer.Exit(FINDINGS)


def _title(found: "CustomerPicture | PastPicture") -> str:
    """Whom it is about, and up to what: the last change, or the two instants."""
    from ledger_worker.reports.past import PastPicture

    if isinstance(found, PastPicture):
        return f"{found.customer_id} as of {exactly(found.as_of)} as known at {exactly(found.known_at)}"
    return f"{found.customer_id}, change #{found.sequence}"


def _print_picture(found: "CustomerPicture | PastPicture", title: str) -> None:
    rows = [
        (
            each.entitlement,
            each.state,
            "yes" if each.allowed else f"no: {each.reason}",
            shortened(each.value),
            "unlimited" if each.unlimited else each.limit,
            each.used,
            each.held,
            each.remaining,
            each.overage or None,
            each.debt or None,
            shown(each.expires_at),
        )
        for each in found.entitlements
    ]
    columns = ("entitlement", "state", "allowed", "value", "limit", "used", "held", "left", "overage", "debt", "until")
    print_table(title, columns, rows)
    if found.merged_into is not None:
        typer.echo(f"It went on as {found.merged_into}.")


def _print_explanation(explained: "Explanation") -> None:
    typer.echo(
        f"{explained.customer_id} as of {shown(explained.as_of)}: change #{explained.sequence}, "
        f"catalogue version {explained.catalogue_version}, rules version {explained.rules_version}"
    )
    if explained.tied_to:
        typer.echo(f"Transfers tie it to {', '.join(explained.tied_to)}.")
    for each in explained.entitlements:
        _print_entitlement(each)
    for source in explained.sources:
        _print_source(source)
    if explained.postings:
        typer.echo("\nWhat was booked, the newest first")
    for posting in explained.postings:
        _print_posting(posting)


def _print_entitlement(explained: "ExplainedEntitlement") -> None:
    decision = explained.decision
    answer = "allowed" if decision.allowed else f"not allowed: {decision.reason}"
    value = "" if decision.value is None else f", value {shortened(decision.value)}: {explained.value_because}"
    typer.echo(f"\n{decision.entitlement} ({explained.name}): {answer}{value}")
    of = "" if explained.request_units is None else f" for {explained.request_units}"
    refused = explained.refused_because
    answered = "granted" if refused is None else f"refused, {refused}"
    typer.echo(f"  A request{of} is {answered}: {explained.rule}.")
    if explained.would_allow:
        typer.echo("  What would allow it, each by itself:")
    for way in explained.would_allow:
        typer.echo(f"    {way}")
    for coming in explained.upcoming:
        typer.echo(f"  To come: {coming.words}")
    if explained.grants:
        is_quota = decision.type in {"quota", "seats"}
        rows = [
            (
                each.words,
                each.source_key if each.comes_from is None else f"{each.source_key}, {each.comes_from}",
                f"{each.sku}, offer version {each.offer_version}" if each.sku else "given by hand",
                _granted(each, is_quota=is_quota),
                each.used,
                each.available,
                each.burns_before_next_by,
                None if each.cause is None else _because(each.cause),
            )
            for each in explained.grants
        ]
        columns = ("grant", "from", "product", "granted", "used", "left", "before the next by", "set so by")
        print_table(None, columns, rows)


def _granted(grant: "ExplainedGrant", *, is_quota: bool) -> int | str | None:
    """What it was granted by its terms, or as a child received."""
    if grant.amount is None:
        return "unlimited" if is_quota else None
    return grant.amount if grant.parent is None else grant.granted


def _print_source(source: "ExplainedSource") -> None:
    typer.echo(f"\nTold of {source.source_key}")
    rows = [(shown(each.occurred_at), each.type, _event(each), each.actor, each.outcome) for each in source.events]
    print_table(None, ("at", "fact", "event", "by", "outcome"), rows)


def _print_history(found: "CustomerHistory") -> None:
    typer.echo(f"{found.customer_id}, last recorded at {shown(found.recorded_at) or 'no time'}")
    for posting in found.postings:
        _print_posting(posting)
    if found.next_cursor is not None:
        typer.echo(f"There is more: --cursor {found.next_cursor}")


def _print_posting(posting: "ExplainedPosting") -> None:
    cause = posting.cause
    of = " to ".join(dict.fromkeys(filter(None, (shown(posting.effective_at), shown(posting.effective_until)))))
    because = "" if cause is None else f" because of {_because(cause)}"
    typer.echo(f"  {posting.number} at {shown(posting.recorded_at)}, of {of}{because}")
    if cause is not None and cause.note is not None:
        typer.echo(f"    Note: {cause.note}")
    if cause is not None and cause.seats is not None:
        typer.echo(f"    {cause.seats}")
    for entry in posting.entries:
        typer.echo(f"    {entry.entitlement}: {entry.words}")


def _because(cause: "EventTold") -> str:
    """The fact and the event, and who did it where a person did."""
    by = "" if cause.actor is None else f", by {cause.actor}"
    return f"{cause.type} {_event(cause)}{by}"


def _event(told: "EventTold") -> str:
    """The event, with the customer it was told to where that is another one."""
    name = f"{told.event_source}/{told.event_id}"
    return name if told.told_to is None else f"{name}, told of {told.told_to}"
