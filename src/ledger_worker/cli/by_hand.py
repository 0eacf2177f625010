"""`ledger-worker customer assign | renew | extend | revoke`: what a person gives and takes by hand."""

from datetime import datetime
from getpass import getuser
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from ledger_worker.cli.changes import sentence
from ledger_worker.cli.connections import open_database, read_settings, unwatched_stages
from ledger_worker.cli.instants import instant_of
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger_worker.domain.events import AssignmentFact
    from ledger_worker.domain.values import JsonText

__all__ = ["assign", "extend", "name_of", "renew", "revoke"]


_Customer = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]
_Assignment = Annotated[str, typer.Argument(metavar="ASSIGNMENT", help="Its id, as `customer assign` printed it.")]
_Units = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="How many units, or seats; any number if not said.")
]
_SameUnits = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="How many units, or seats; as many as assigned if not said.")
]
_Value = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="The value of a setting: 25, true, '\"gold\"', '[\"eu\"]'."),
]
_SameValue = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="The value of a setting, in JSON; the one assigned if not said."),
]
_Until = Annotated[
    datetime | None, typer.Option(metavar="INSTANT", parser=instant_of, help="When it ends; never if not said.")
]
_From = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        metavar="INSTANT",
        parser=instant_of,
        help="When it begins, such as 2026-03-01T00:00:00Z; now if not said.",
    ),
]
_RenewedFrom = Annotated[
    datetime,
    typer.Option("--from", metavar="INSTANT", parser=instant_of, help="When it begins, such as 2026-03-01T00:00:00Z."),
]
_Note = Annotated[str, typer.Option(metavar="TEXT", help="Why: kept with the act, and shown to whoever asks.")]
_Actor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does it; the name of this login if not said.", show_default=False),
]
_ID_HELP = "Its id, to do it again without effect or to correct it; a new one if not said."
_KeyOfExtension = Annotated[str | None, typer.Option("--id", metavar="ID", help=_ID_HELP, show_default=False)]
_KeyOfAssignment = Annotated[
    str | None, typer.Option("--id", metavar="ID", help=f"{_ID_HELP} Asks for --from.", show_default=False)
]
_KeyOfRevocation = Annotated[
    str | None, typer.Option("--id", metavar="ID", help=f"{_ID_HELP} Asks for --at.", show_default=False)
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be told; nothing is booked but what was due before.")
]


def assign(  # noqa: PLR0913 - as many options as a person may need
    customer_id: _Customer,
    entitlement: Annotated[str, typer.Argument(metavar="ENTITLEMENT", help="What is given.")],
    *,
    note: _Note,
    units: _Units = None,
    value: _Value = None,
    effective_at: _From = None,
    until: _Until = None,
    priority: Annotated[
        int, typer.Option(metavar="N", help="The lower number burns first; of settings, its value counts.")
    ] = 100,
    actor: _Actor = None,
    key: _KeyOfAssignment = None,
    dry_run: _DryRun = False,
    json: Json = False,
) -> None:
    """Give a customer an entitlement by hand: access, units, seats, or a value.

    Exit status 1 when that is refused. With the --id of an assignment that exists this corrects it.
    """
    from ledger_worker.domain.events import EntitlementAssigned

    _require_instant(key, effective_at, "--from")
    _act(
        customer_id,
        lambda now: EntitlementAssigned(
            assignment_id=_id_of(key),
            entitlement=entitlement,
            effective_at=effective_at or now,
            actor=name_of(actor),
            note=note,
            units=units,
            expires_at=until,
            priority=priority,
            value=_json_value(value),
        ),
        is_rehearsal=dry_run,
        json=json,
    )


def renew(  # noqa: PLR0913 - the same
    customer_id: _Customer,
    assignment: _Assignment,
    *,
    note: _Note,
    units: _SameUnits = None,
    value: _SameValue = None,
    effective_at: _RenewedFrom,
    until: _Until = None,
    actor: _Actor = None,
    dry_run: _DryRun = False,
    json: Json = False,
) -> None:
    """Give what was assigned once more, from another instant on.

    Exit status 1 when that is refused. Once more from the same instant corrects it.
    """
    from ledger_worker.domain.events import AssignmentRenewed

    _act(
        customer_id,
        lambda _: AssignmentRenewed(
            assignment_id=assignment,
            effective_at=effective_at,
            actor=name_of(actor),
            note=note,
            expires_at=until,
            units=units,
            value=_json_value(value),
        ),
        is_rehearsal=dry_run,
        json=json,
    )


def extend(
    customer_id: _Customer,
    assignment: _Assignment,
    until: Annotated[datetime, typer.Argument(metavar="INSTANT", parser=instant_of, help="Its new end.")],
    *,
    note: _Note,
    actor: _Actor = None,
    key: _KeyOfExtension = None,
    dry_run: _DryRun = False,
    json: Json = False,
) -> None:
    """Move the end of an assignment to an instant, where that is later; or of its last renewal that begins before then.

    Exit status 1 when that is refused.
    """
    from ledger_worker.domain.events import AssignmentExtended

    _act(
        customer_id,
        lambda _: AssignmentExtended(
            assignment_id=assignment,
            extension_id=_id_of(key),
            new_expires_at=until,
            actor=name_of(actor),
            note=note,
        ),
        is_rehearsal=dry_run,
        json=json,
    )


def revoke(
    customer_id: _Customer,
    assignment: _Assignment,
    *,
    note: _Note,
    effective_at: Annotated[
        datetime | None,
        typer.Option("--at", metavar="INSTANT", parser=instant_of, help="When it ends; now if not said."),
    ] = None,
    actor: _Actor = None,
    key: _KeyOfRevocation = None,
    dry_run: _DryRun = False,
    json: Json = False,
) -> None:
    """Take back what was assigned, with all its renewals. What was used stays used.

    Exit status 1 when that is refused.
    """
    from ledger_worker.domain.events import AssignmentRevoked

    _require_instant(key, effective_at, "--at")
    _act(
        customer_id,
        lambda now: AssignmentRevoked(
            assignment_id=assignment,
            revocation_id=_id_of(key),
            effective_at=effective_at or now,
            actor=name_of(actor),
            note=note,
        ),
        is_rehearsal=dry_run,
        json=json,
    )


def _act(customer_id: str, fact_at: "Callable[[datetime], AssignmentFact]", *, is_rehearsal: bool, json: bool) -> None:
    from ledger_worker.operations.by_hand import RefusedAct, act, database_clock

    stages = unwatched_stages()
    with open_database(read_settings(), "ledger-worker customer") as engine:
        found = act(engine, customer_id, fact_at(database_clock(engine)), stages, is_rehearsal=is_rehearsal)
    if json:
        print_json(found)
    elif isinstance(found, RefusedAct):
        print_error(f"{found.reason}: {found.message}")
    else:
        would = "would be " if is_rehearsal else ""
        typer.echo(f"Assignment {found.assignment_id}: {would}{found.outcome.value.replace('_', ' ')}.")
        for change in found.changes:
            typer.echo(sentence(change))
    if isinstance(found, RefusedAct):
        raise typer.Exit(FINDINGS)


def _id_of(key: str | None) -> str:
    return uuid4().hex if key is None else key


def _json_value(text: str | None) -> "JsonText | None":
    """Raises BadParameter for a text that is no JSON value that a setting can have."""
    from ledger_worker.domain.values import canonical

    try:
        return None if text is None else canonical(text)
    except ValueError as error:
        raise typer.BadParameter(f"--value {shortened(text)} is no value of a setting: {error}") from None


def name_of(actor: str | None) -> str:
    """Who acts. Raises BadParameter where this login has no name, as in a container, and none is said."""
    if actor is not None:
        return actor
    try:
        return getuser()
    except (KeyError, OSError):
        raise typer.BadParameter("this login has no name, expected --actor NAME") from None


def _require_instant(key: str | None, instant: datetime | None, option: str) -> None:
    """Raises BadParameter for an act that is to be repeatable and leaves its instant to the clock: that is content."""
    if key is not None and instant is None:
        raise typer.BadParameter(f"with --id the instant has to be said, expected {option} INSTANT")
