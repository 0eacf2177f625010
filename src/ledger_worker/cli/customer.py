"""`ledger-worker customer`: what one customer may do, and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, print_table

if TYPE_CHECKING:
    from ledger_worker.domain.changes import CustomerPicture

app = typer.Typer(name="customer", help="What one customer may do, and why.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]


@app.callback()
def _customer() -> None:
    # Keeps `show` a verb of its own while it is the only one.
    pass


@app.command()
def show(customer_id: _Id, *, json: Json = False) -> None:
    """Show each entitlement that the customer has or had, as it stands now; exit status 1 for an unknown customer.

    What has fallen due counts, whether or not a process has booked it.
    """
    from ledger_worker.store import pictures

    with open_database(read_settings(), "ledger-worker customer") as engine, engine.connect() as connection:
        found = pictures.load(connection, [customer_id])
    if not found:
        print_error(f"customer {customer_id} is not known to the ledger")
        raise typer.Exit(FINDINGS)
    if json:
        print_json(found[0])
        return
    _print_picture(found[0])


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
            f"{each.expires_at:%Y-%m-%d %H:%M:%S}Z" if each.expires_at else None,
        )
        for each in shown.entitlements
    ]
    columns = ("entitlement", "state", "allowed", "limit", "used", "held", "left", "overage", "debt", "until")
    print_table(f"{shown.customer_id}, change #{shown.sequence}", columns, rows)
