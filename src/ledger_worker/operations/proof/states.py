"""Day states: each is how its account, settled again from nothing, stands at that instant."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import standing_of
from ledger_worker.domain.course import Course, Stops
from ledger_worker.domain.ledger import Account, DayState, Kind, Phase, Reversal, Standing
from ledger_worker.domain.places import Place, all_of
from ledger_worker.operations.proof.findings import Check, Findings, differing, differing_fields
from ledger_worker.operations.proof.reading import UNREADABLE, msgpack_holds_more, unreadable
from ledger_worker.operations.proof.rows import DayStateRow, EntryRow, Member, grant_name

__all__ = ["Stood", "check_account_of_states", "check_states", "state_rows", "stood_at"]

_DECODER = msgspec.msgpack.Decoder(DayState)


class Stood(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stood at an instant: its state, and every grant of it, also those that were over."""

    state: DayState
    standings: Mapping[UUID, Standing]


def state_rows(member: Member, entitlement: str) -> list[DayStateRow]:
    """The day states of one account, in order."""
    return [row for row in member.rows.states if row.entitlement == entitlement]


def stood_at(run: Course, rows: Iterable[DayStateRow]) -> tuple[Stops, dict[datetime, Stood]]:
    """What has a run stop at the instant of each row, and how it stood there, once it has run."""
    found: dict[datetime, Stood] = {}

    def look(instant: datetime) -> None:
        """How the run stands there is kept."""
        standings = {grant_id: standing_of(grant) for grant_id, grant in run.grants.items()}
        found[instant] = Stood(state=run.state(), standings=standings)

    return Stops([row.at for row in rows], look), found


def check_account_of_states(member: Member, findings: Findings) -> None:
    """Every day state is of an account, and none is of a later instant than that account says."""
    for row in member.rows.states:
        account = member.accounts.get(row.entitlement)
        name = f"day state {row.entitlement} {row.at.isoformat()}"
        if account is None:
            findings.add(Check.DAY_STATE, member.customer_id, name, "there is no such account")
        elif account.stated_until is None or account.stated_until < row.at:
            message = f"its account says that there is none after {account.stated_until}"
            findings.add(Check.DAY_STATE, member.customer_id, name, message)


def check_states(member: Member, entitlement: str, stood: Mapping[datetime, Stood], findings: Findings) -> None:
    """Each day state of an account is how the run from nothing stood."""
    rows = state_rows(member, entitlement)
    reversals = member.reversals.get(entitlement, ())
    entries = [entry for entry in member.rows.entries if entry.entitlement == entitlement] if rows else []
    for row in rows:
        findings.looked_at[Check.DAY_STATE] += 1
        name = f"day state {entitlement} {row.at.isoformat()}"
        try:
            state = _DECODER.decode(row.state)
        except UNREADABLE as error:
            findings.add(Check.DAY_STATE, member.customer_id, name, unreadable(error))
            continue
        if msgpack_holds_more(state, row.state):
            findings.add(Check.DAY_STATE, member.customer_id, name, "it holds more than the state of an account")
        for message in _wrong(row, state, stood[row.at], reversals, entries):
            findings.add(Check.DAY_STATE, member.customer_id, name, message)


def _wrong(
    row: DayStateRow, state: DayState, stood: Stood, reversals: Sequence[Reversal], entries: Sequence[EntryRow]
) -> list[str]:
    """What does not agree, a sentence each."""
    messages = []
    place = (state.account.settled_at, state.account.settled_tie)
    names = ("at", "posting", "settled_at")
    stored = (row.at, row.posting, place[0])
    expected = (state.at, state.posting, state.at)
    if stored != expected:
        messages.append(differing(names, stored, expected))
    if place not in _places(stood.state.account, state.at, reversals):
        messages.append(f"it stands at {place}, where nothing happened")
    account = msgspec.structs.replace(
        stood.state.account, settled_at=state.account.settled_at, settled_tie=state.account.settled_tie
    )
    if state.account != account:
        messages.append(differing_fields(state.account, account))
    told = {standing.grant_id: standing for standing in state.grants}
    for grant_id, standing in told.items():
        found = stood.standings.get(grant_id)
        if found is None:
            messages.append(f"{grant_name(grant_id)}: there is no such grant")
        elif found != standing:
            messages.append(f"{grant_name(grant_id)}: {differing_fields(standing, found)}")
    messages += [
        f"{grant_name(standing.grant_id)}: it is missing"
        for standing in stood.state.grants
        if standing.phase is not Phase.ENDED and standing.grant_id not in told
    ]
    if _is_booked_before(state, entries):
        messages.append(f"what is booked of later instants up to posting {state.posting} does not come to nothing")
    return messages


def _places(account: Account, at: datetime, reversals: Iterable[Reversal]) -> list[tuple[datetime | None, str]]:
    """Where the book may have stood: at what happened last, or at the instant of a reversal that was told since."""
    raised: list[Place] = [all_of(reversal.at) for reversal in reversals if reversal.at <= at]
    return [(account.settled_at, account.settled_tie), *raised]


def _is_booked_before(state: DayState, entries: Iterable[EntryRow]) -> bool:
    units: dict[tuple[object, ...], int] = defaultdict(int)
    for entry in entries:
        if entry.posting <= state.posting and entry.at > state.at and entry.kind != Kind.GRANTED:
            units[entry.kind, entry.at, entry.grant_id, entry.usage_key, entry.cut_id] += entry.units
    return any(units.values())
