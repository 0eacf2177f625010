"""`ledger-worker customer seat`: who has a seat, and who is to have one; asked as a service asks for it."""

from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.asking import CALLER, KEY_HELP, answer_to, key_or_new
from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.instants import shown
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, print_table

if TYPE_CHECKING:
    from ledger_worker.domain.requests import SeatAsked
    from ledger_worker.reports.seats import Seats

__all__ = ["app"]

app = typer.Typer(
    name="seat", help="Seats of an entitlement: who has one, given and taken back by name.", no_args_is_help=True
)

_Id = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]
_Entitlement = Annotated[str, typer.Argument(metavar="ENTITLEMENT", help="What has seats.")]
_Holder = Annotated[
    str, typer.Argument(metavar="HOLDER", help="Who holds the seat, by any name of up to 200 characters.")
]
_Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", help=KEY_HELP, show_default=False),
]


@app.command("list")
def list_seats(customer_id: _Id, entitlement: _Entitlement, *, json: Json = False) -> None:
    """List who has a seat and since when, in the order of taking.

    What has fallen due counts, whether or not a process has booked it. Exit status 1 where the customer never had any.
    """
    from ledger_worker.reports.seats import read_seats

    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        found = read_seats(connection, customer_id, entitlement)
    if found is None:
        print_error(f"customer {customer_id} has no seats of {entitlement} and never had any")
        raise typer.Exit(FINDINGS)
    if json:
        print_json(found)
    else:
        _print_seats(found)


@app.command()
def assign(
    customer_id: _Id, entitlement: _Entitlement, holder: _Holder, *, key: _Key = None, json: Json = False
) -> None:
    """Give somebody a seat.

    Exit status 1 when none is left, or it is refused for another reason.
    """
    from ledger_worker.domain.requests import AssignSeat

    _ask(
        AssignSeat(caller=CALLER, key=key_or_new(key), customer_id=customer_id, entitlement=entitlement, holder=holder),
        json=json,
    )


@app.command()
def unassign(
    customer_id: _Id, entitlement: _Entitlement, holder: _Holder, *, key: _Key = None, json: Json = False
) -> None:
    """Take back the seat that somebody has.

    Exit status 1 when he has none.
    """
    from ledger_worker.domain.requests import UnassignSeat

    _ask(
        UnassignSeat(
            caller=CALLER, key=key_or_new(key), customer_id=customer_id, entitlement=entitlement, holder=holder
        ),
        json=json,
    )


@app.command()
def swap(
    customer_id: _Id,
    entitlement: _Entitlement,
    holder: _Holder,
    to: Annotated[str, typer.Argument(metavar="TO", help="Who has the seat from now on.")],
    *,
    key: _Key = None,
    json: Json = False,
) -> None:
    """Pass a seat on to somebody else, also when no other is left.

    Exit status 1 when it is refused.
    """
    from ledger_worker.domain.requests import SwapSeat

    _ask(
        SwapSeat(
            caller=CALLER, key=key_or_new(key), customer_id=customer_id, entitlement=entitlement, holder=holder, to=to
        ),
        json=json,
    )


def _ask(asked: "SeatAsked", *, json: bool) -> None:
    """Raises Exit when it was refused."""
    answer = answer_to(asked)
    if json:
        print_json(answer)
    elif not answer.is_granted:
        print_error(f"{answer.reason}: {answer.message}")
    else:
        decision = answer.items[0].decision
        left = "any number" if decision is None or decision.unlimited else f"{decision.remaining} of {decision.limit}"
        typer.echo(f"{asked.entitlement}: {0 if decision is None else decision.used} seats taken, {left} left")
    if not answer.is_granted:
        raise typer.Exit(FINDINGS)


def _print_seats(found: "Seats") -> None:
    there = "any number" if found.limit is None else found.limit
    beyond = f", {found.over_allocated} more than there are" if found.over_allocated else ""
    title = f"{found.customer_id}, {found.entitlement}: {len(found.holders)} of {there} seats taken{beyond}"
    print_table(title, ("holder", "since"), [(one.name, shown(one.since)) for one in found.holders])
