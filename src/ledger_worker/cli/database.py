"""`ledger-worker database`: the schema, brought to this release and looked at."""

import msgspec
import typer

from ledger_worker.cli.connections import read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_json, print_table

app = typer.Typer(name="database", help="The schema of the database.", no_args_is_help=True)


class _Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What `migrate --json` prints; `from_revision` is null for an empty database."""

    from_revision: str | None
    to_revision: str
    ran: tuple[str, ...]


@app.command()
def migrate(*, json: Json = False) -> None:
    """Bring the schema to this release; nothing to do the second time.

    The login of LEDGER_DATABASE_URL has to own the schema. Workers of the release before may go on meanwhile.
    """
    from ledger_worker.store import database

    url = read_settings().database_url
    before = database.status(url)
    database.migrate(url)
    done = _Migrated(from_revision=before.current, to_revision=before.head, ran=before.pending)
    if json:
        print_json(done)
    elif done.ran:
        typer.echo(f"The schema is now at revision {done.to_revision} (it was {done.from_revision or 'empty'}).")
    else:
        typer.echo(f"The schema is at revision {done.to_revision} already; there was nothing to do.")


@app.command()
def status(*, json: Json = False) -> None:
    """Show where the schema stands; exit status 1 unless it is the one of this release."""
    from ledger_worker.store import database

    found = database.status(read_settings().database_url)
    if json:
        print_json(found)
    else:
        state = "newer than this release" if found.is_newer else "to be migrated" if found.pending else "current"
        row = (state, found.current or "empty", found.head, ", ".join(found.pending))
        print_table(None, ("schema", "is at", "this release", "pending"), [row])
    if found.pending or found.is_newer:
        raise typer.Exit(FINDINGS)
