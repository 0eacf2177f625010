"""`ledger-worker demo`: a day of the ledger on this machine, and the proof that it went well."""

import secrets
from typing import Annotated

import typer

from ledger_worker.cli.output import FINDINGS

__all__ = ["demo"]

_CUSTOMERS_MAX = 1_000_000
_SEED_MAX = 2**32 - 1


def demo(
    *,
    customers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=_CUSTOMERS_MAX, help="How many customers; a few thousand if not said."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=_SEED_MAX, help="Which customers, and what they do; others each time if not said."
        ),
    ] = None,
) -> None:
    """Show the ledger at work: a cluster, a shop's customers, two workers of which one is killed, and the proof.

    Nothing is left running. Exit status 1 when something was not as it has to be; the logs are kept then.
    """
    from ledger_worker.local import demo as local_demo

    seed = secrets.randbelow(_SEED_MAX + 1) if seed is None else seed
    is_clean = local_demo.run(customers=customers or local_demo.CUSTOMERS, seed=seed)
    if not is_clean:
        raise typer.Exit(FINDINGS)
