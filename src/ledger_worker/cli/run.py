"""`ledger-worker run`: the loops of the service, together or each in a process of its own."""

from typing import TYPE_CHECKING

import typer

from ledger_worker.cli.connections import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ledger_worker.domain.changes import CustomerPicture
    from ledger_worker.worker.process import Loop
    from ledger_worker.worker.shared import Shared

app = typer.Typer(
    name="run",
    invoke_without_command=True,
    epilog="Logs are JSON lines on standard error; settings say where metrics and health are served.",
)


@app.callback()
def run(ctx: typer.Context) -> None:
    """Run the service: every loop in this process, until SIGTERM or SIGINT.

    Consume applies events, clock books what falls due, relay publishes changes. Any number of processes share the
    work. Name a loop to run that one alone.
    """
    if ctx.invoked_subcommand is None:
        _run("consume", "clock", "relay")


@app.command()
def consume() -> None:
    """Run only the loop that takes events from the input topics and applies them to the ledger."""
    _run("consume")


@app.command()
def clock() -> None:
    """Run only the loop that books what falls due, such as the end of a grant, at its instant."""
    _run("clock")


@app.command()
def relay() -> None:
    """Run only the loop that publishes changes, pictures and dead letters from the outbox."""
    _run("relay")


def _run(*names: str) -> None:
    from ledger_worker.worker import process

    loops = _loops()
    process.run(read_settings(), {name: loops[name] for name in names})


def _loops() -> "Mapping[str, Loop]":
    from ledger_worker.worker.process import CONSUME, clock, consume

    return {CONSUME: consume, "clock": clock, "relay": _publish}


def _publish(shared: "Shared") -> None:
    from ledger_worker.apply.catalogues import Catalogues
    from ledger_worker.store import pictures
    from ledger_worker.store.catalogue import read_ledger
    from ledger_worker.worker.relay import run_relay

    catalogues = Catalogues()

    def read(connection: "Connection", customer_ids: "Sequence[str]") -> "Sequence[CustomerPicture]":
        """The pictures as the relay tells them: by the newest catalogue that its snapshot shows."""
        catalogue = catalogues.at(connection, read_ledger(connection).catalogue_version)
        return pictures.load(connection, customer_ids, catalogue=catalogue)

    run_relay(shared, read, lease_seconds=shared.settings.lane_lease_seconds)
