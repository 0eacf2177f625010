"""`ledger-worker customer`: what one customer may do, and why."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, print_table

if TYPE_CHECKING:
    from ledger_worker.domain.changes import CustomerPicture
    from ledger_worker.reports.customer import ExplainedEntitlement, ExplainedPosting, ExplainedSource, Explanation

app = typer.Typer(name="customer", help="What one customer may do, and why.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]

_POSTINGS = 20
_POSTINGS_MAX = 10_000


@app.command()
def show(customer_id: _Id, *, json: Json = False) -> None:
    """Show each entitlement that the customer has or had, as it stands now; exit status 1 for an unknown customer.

    What has fallen due counts, whether or not a process has booked it.
    """
    from ledger_worker.reports import customer

    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        shown = customer.show(connection, customer_id)
    if shown is None:
        raise _unknown(customer_id)
    if json:
        print_json(shown)
    else:
        _print_picture(shown)


@app.command()
def explain(
    customer_id: _Id,
    entitlement: Annotated[
        str | None, typer.Argument(metavar="[ENTITLEMENT]", help="Only this one, also if the customer never had it.")
    ] = None,
    *,
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
        explained = customer.explain(connection, customer_id, entitlement, postings_max=postings)
    if explained is None:
        raise _unknown(customer_id)
    if entitlement is not None and not explained.entitlements:
        print_error(f"entitlement {entitlement} is not in the catalogue")
        raise typer.Exit(FINDINGS)
    if json:
        print_json(explained)
    else:
        _print_explanation(explained)


def _unknown(customer_id: str) -> typer.Exit:
    print_error(f"customer {customer_id} is not known to the ledger")
    return typer.Exit(FINDINGS)


def _print_picture(shown: "CustomerPicture") -> None:
    rows = [
        (
            each.entitlement,
            each.state,
            "yes" if each.allowed else f"no: {each.reason}",
            "unlimited" if each.unlimited else each.limit,
            each.used,
            each.held,
            each.remaining,
            each.overage or None,
            each.debt or None,
            _instant(each.expires_at),
        )
        for each in shown.entitlements
    ]
    columns = ("entitlement", "state", "allowed", "limit", "used", "held", "left", "overage", "debt", "until")
    print_table(f"{shown.customer_id}, change #{shown.sequence}", columns, rows)


def _print_explanation(explained: "Explanation") -> None:
    typer.echo(
        f"{explained.customer_id} as of {_instant(explained.as_of)}: change #{explained.sequence}, "
        f"catalogue version {explained.catalogue_version}, rules version {explained.rules_version}"
    )
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
    typer.echo(f"\n{decision.entitlement} ({explained.name}): {answer}")
    if explained.would_allow is not None:
        typer.echo(f"  What would allow it: {explained.would_allow}")
    if explained.grants:
        rows = [
            (
                each.words,
                each.source_key,
                f"{each.sku}, offer version {each.offer_version}",
                "unlimited" if each.amount is None and explained.unit is not None else each.amount,
                each.used,
                each.available,
            )
            for each in explained.grants
        ]
        print_table(None, ("grant", "from", "product", "granted", "used", "left"), rows)


def _print_source(source: "ExplainedSource") -> None:
    typer.echo(f"\nTold of {source.source_key}")
    rows = [
        (_instant(each.occurred_at), each.type, f"{each.event_source}/{each.event_id}", each.outcome)
        for each in source.events
    ]
    print_table(None, ("at", "fact", "event", "outcome"), rows)


def _print_posting(posting: "ExplainedPosting") -> None:
    cause = posting.cause
    because = "" if cause is None else f" because of {cause.type} {cause.event_source}/{cause.event_id}"
    typer.echo(f"  {posting.number} at {_instant(posting.recorded_at)}{because}")
    for entry in posting.entries:
        typer.echo(f"    {entry.entitlement}: {entry.words}")


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}Z"
