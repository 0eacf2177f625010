"""`ledger-worker keys`: who may come in over HTTP."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ledger_worker.cli.by_hand import name_of
from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.instants import shown
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, print_note, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from ledger_worker.operations.keys import NewKey, Role

app = typer.Typer(name="keys", help="Who may come in over HTTP: keys with roles.", no_args_is_help=True)

_KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, as `keys list` shows it.")]
_Note = Annotated[str, typer.Option(metavar="TEXT", help="Why: kept in the audit log.")]
_Actor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does it; the name of this login if not said.", show_default=False),
]
_DAY = timedelta(days=1)
_DAYS_MAX = 3650


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: the caller of what is asked with it.")],
    roles: Annotated[
        list[str],
        typer.Option("--role", metavar="ROLE", help="checker, reader, operator, admin or auditor; may be repeated."),
    ],
    *,
    note: _Note,
    days: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=_DAYS_MAX, help="How long it lasts; for ever if not said."),
    ] = None,
    actor: _Actor = None,
    json: Json = False,
) -> None:
    """Make a key. It is shown this once: only a hash is kept.

    Exit status 1 when a key of that name is in force.
    """
    from ledger_worker.operations import keys

    wanted = [_role(role) for role in roles]
    lasts = None if days is None else days * _DAY
    _make(
        lambda connection: keys.create(connection, name, wanted, actor=name_of(actor), note=note, lasts=lasts),
        json=json,
    )


@app.command()
def rotate(
    key_id: _KeyId,
    *,
    note: _Note,
    overlap_hours: Annotated[
        int, typer.Option(metavar="N", min=0, max=24 * 90, help="For how many hours the old key goes on beside it.")
    ] = 24,
    actor: _Actor = None,
    json: Json = False,
) -> None:
    """Make another key with the same name and roles; the old one goes on for a while, then it is over.

    Exit status 1 when there is no such key in force.
    """
    from ledger_worker.operations import keys

    overlap = timedelta(hours=overlap_hours)
    _make(
        lambda connection: keys.rotate(connection, key_id, actor=name_of(actor), note=note, overlap=overlap),
        json=json,
    )


@app.command()
def revoke(key_id: _KeyId, *, note: _Note, actor: _Actor = None, json: Json = False) -> None:
    """Make a key open nothing any more, from now on. Exit status 1 when there is no such key in force."""
    from ledger_worker.operations.keys import KeyRefusedError
    from ledger_worker.operations.keys import revoke as revoke_key

    with open_database(read_settings(), "ledger-worker keys") as engine:
        try:
            with engine.begin() as connection:
                revoked = revoke_key(connection, key_id, actor=name_of(actor), note=note)
        except KeyRefusedError as error:
            print_error(str(error))
            raise typer.Exit(FINDINGS) from error
    if json:
        print_json(revoked)
    else:
        typer.echo(f"Key {revoked.key_id} of {revoked.name} is over.")


@app.command("list")
def list_keys(*, json: Json = False) -> None:
    """List every key that there ever was, with what it may do, until when, and when it was used last."""
    from ledger_worker.store.keys import all_keys

    with open_database(read_settings(), "ledger-worker keys") as engine, engine.connect() as connection:
        found = all_keys(connection)
    if json:
        print_json(found)
        return
    rows = [
        (
            key.key_id,
            key.name,
            ", ".join(key.roles),
            shown(key.created_at),
            shown(key.revoked_at or key.expires_at),
            shown(key.last_used_at),
        )
        for key in found
    ]
    print_table(None, ("key", "name", "roles", "made", "ends", "used last"), rows)


def _make(make: "Callable[[Connection], NewKey]", *, json: bool) -> None:
    """Raises Exit when it is refused."""
    from ledger_worker.operations.keys import KeyRefusedError

    with open_database(read_settings(), "ledger-worker keys") as engine:
        try:
            with engine.begin() as connection:
                made = make(connection)
        except KeyRefusedError as error:
            print_error(str(error))
            raise typer.Exit(FINDINGS) from error
    if json:
        print_json(made)
        return
    print_note(f"Key {made.key.key_id} of {made.key.name}. Keep it: it is not shown again.")
    typer.echo(made.secret)


def _role(text: str) -> "Role":
    from ledger_worker.operations.keys import Role

    try:
        return Role(text)
    except ValueError:
        raise typer.BadParameter(f"--role {text} is none, expected one of {', '.join(Role)}") from None
