"""`ledger-worker dev`: a PostgreSQL and a Kafka to develop against, without Docker or a Java of the machine's own."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from ledger_worker.cli.output import FINDINGS, Json, print_json, print_table
from ledger_worker.local import cluster
from ledger_worker.local.cluster import Cluster

app = typer.Typer(name="dev", help="A PostgreSQL and a Kafka to develop against, in a folder.", no_args_is_help=True)

_Folder = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", help="The folder of the cluster: its data, ports and logs.", file_okay=False),
]


class _Server(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two servers, as `--json` tells it."""

    name: str
    address: str
    pid: int | None
    log: str


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints; `settings` are the variables to export, empty when the folder holds no cluster."""

    folder: str
    is_running: bool
    servers: list[_Server]
    settings: dict[str, str]


@app.command()
def up(folder: _Folder = cluster.DEFAULT_FOLDER, *, json: Json = False) -> None:
    """Start PostgreSQL and Kafka, or leave them running, and print the settings to export."""
    with Console(stderr=True).status("starting PostgreSQL and Kafka; the first time on a machine also fetches Kafka"):
        started = cluster.start(folder)
    _show(folder, started, json=json)


@app.command()
def status(folder: _Folder = cluster.DEFAULT_FOLDER, *, json: Json = False) -> None:
    """Show what runs and where; exit status 1 unless both servers run."""
    found = cluster.status(folder)
    _show(folder, found, json=json)
    if found is None or not found.is_running:
        raise typer.Exit(FINDINGS)


@app.command()
def down(folder: _Folder = cluster.DEFAULT_FOLDER, *, json: Json = False) -> None:
    """Stop both servers; the data stays, and `up` brings it back on the same ports."""
    cluster.stop(folder)
    found = cluster.status(folder)
    _show(folder, found, json=json)


def _show(folder: Path, found: Cluster | None, *, json: bool) -> None:
    report = _report(folder, found)
    if json:
        print_json(report)
        return
    if found is None:
        typer.echo(f"There is no cluster in {report.folder}; `ledger-worker dev up` makes one.")
        return
    rows = [
        (each.name, "stopped" if each.pid is None else f"running, pid {each.pid}", each.address, Path(each.log).name)
        for each in report.servers
    ]
    print_table(report.folder, ("server", "state", "address", "log"), rows)
    for name, value in report.settings.items() if report.is_running else ():
        # Not through Rich: it would wrap what is meant to be copied.
        typer.echo(f"export {name}={value}")


def _report(folder: Path, found: Cluster | None) -> _Report:
    if found is None:
        return _Report(folder=str(folder.absolute()), is_running=False, servers=[], settings={})
    return _Report(
        folder=str(found.folder),
        is_running=found.is_running,
        servers=[
            _Server(
                name="PostgreSQL",
                address=found.database_url.rpartition("@")[2].partition("/")[0],
                pid=found.postgres_pid,
                log=str(found.postgres_log),
            ),
            _Server(name="Kafka", address=found.kafka_bootstrap, pid=found.kafka_pid, log=str(found.kafka_log)),
        ],
        settings={
            "LEDGER_DATABASE_URL": found.database_url,
            "LEDGER_KAFKA_BOOTSTRAP": found.kafka_bootstrap,
        },
    )
