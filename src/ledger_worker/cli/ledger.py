"""`ledger-worker ledger`: proof that the books are right."""

from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_json, print_note, print_table, progress

if TYPE_CHECKING:
    from ledger_worker.operations.verify import Progress, Verdict

app = typer.Typer(name="ledger", help="The books as a whole.", no_args_is_help=True)

_FINDINGS_MAX = 10_000
_FINDINGS_SHOWN = 20


@app.callback()
def _ledger() -> None:
    # Keeps `verify` a verb of its own while it is the only one.
    pass


@app.command()
def verify(
    *,
    customer: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only this customer and those tied to it by transfers and merges; no checks of the whole ledger.",
        ),
    ] = None,
    maximum: Annotated[
        int,
        typer.Option("--max", metavar="N", min=1, max=_FINDINGS_MAX, help="Most findings to name; all are counted."),
    ] = _FINDINGS_SHOWN,
    json: Json = False,
) -> None:
    """Compute every identity and every hash chain again; exit status 1 when a row disagrees, and the first are named.

    Reads one snapshot beside running workers, and changes nothing.
    """
    from ledger_worker.operations.verify import verify as verify_ledger

    with (
        open_database(read_settings(), "ledger-worker verify") as engine,
        engine.connect() as connection,
        progress("verifying") as advance,
    ):

        def on_progress(now: "Progress") -> None:
            """Counted are customers, whose number is known before any is read; their events are not."""
            advance.to(now.customers, now.customers_total)

        verdict = verify_ledger(connection, customer_id=customer, findings_max=maximum, on_progress=on_progress)
    if json:
        print_json(verdict)
    else:
        _print_verdict(verdict)
    if not verdict.is_clean:
        raise typer.Exit(FINDINGS)


def _print_verdict(verdict: "Verdict") -> None:
    rows = [(each.check.value.replace("_", " "), each.looked_at, each.findings or "-") for each in verdict.checks]
    print_table(None, ("check", "looked at", "findings"), rows)
    if verdict.findings:
        found = [(each.check.value, each.customer_id, each.row, each.message) for each in verdict.findings]
        print_table("findings, the first one first", ("check", "customer", "row", "what is wrong"), found)
    else:
        typer.echo(
            f"The ledger is clean: {verdict.customers} customers, {verdict.postings} postings, "
            f"{verdict.entries} entries, {verdict.events} events."
        )
    if verdict.unproven:
        print_note(
            f"{verdict.unproven} accounts cannot be proven: their entitlement's policies changed while they were used."
        )
