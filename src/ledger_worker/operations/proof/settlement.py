"""Settlement: each account, settled again from nothing, is covered as it is booked, and shows what a check reads."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ledger_worker.domain.access import level_of, shown_units
from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import DebtPolicy, Entitlement, OveragePolicy
from ledger_worker.domain.history import History, HistoryNeeded
from ledger_worker.domain.ledger import Account, Grant, Kind, Line, Origin, Phase
from ledger_worker.domain.owners import Merges, goes_on_as
from ledger_worker.domain.parcels import Parcel, left_by
from ledger_worker.domain.settlement import Book
from ledger_worker.operations.proof.findings import Check, Findings, differing, differing_fields
from ledger_worker.operations.proof.rows import AccountRow, Member, Published, grant_name
from ledger_worker.operations.proof.seats import wrong_holders
from ledger_worker.operations.proof.states import check_account_of_states, check_states, state_rows, stood_at

__all__ = ["Arrivals", "arrivals_of", "check_accounts"]

Arrivals = Mapping[tuple[str, str], Sequence[Parcel]]
"""What each account, of a customer and an entitlement, has been handed on by aliases."""


def arrivals_of(members: Iterable[Member], merges: Merges) -> Arrivals:
    """What has left the books of aliases, by the account of whom they had gone on as by then."""
    found: dict[tuple[str, str], list[Parcel]] = defaultdict(list)
    for member in members:
        if member.merge is not None:
            for entitlement, lines in member.lines.items():
                for parcel in left_by(lines):
                    found[goes_on_as(member.merge.into, merges, parcel.at), entitlement].append(parcel)
    return found


def check_accounts(member: Member, published: Published, arrivals: Arrivals, findings: Findings) -> None:
    """Every account of the customer was settled again; `arrivals` say what aliases have handed on to it.

    What no single version of its entitlement's policies for debt and overage explains cannot be proven where these
    changed: it may be settled by a mixture of them. Who holds its seats depends on no policy.
    """
    check_account_of_states(member, findings)
    for row in member.rows.accounts:
        if member.unread.leaves_out_account(member.customer_id, row.entitlement):
            continue
        findings.looked_at[Check.SETTLEMENT] += 1
        account = member.accounts.get(row.entitlement)
        versions = published.versions.get(row.entitlement)
        name = f"account {row.entitlement}"
        if account is None or not versions:
            findings.add(Check.SETTLEMENT, member.customer_id, name, "its entitlement was never published")
            continue
        arriving = arrivals.get((member.customer_id, row.entitlement), ())
        policies = _policies(versions)
        settled = _settled_by_any(policies, versions, account, member, arriving)
        holders = wrong_holders(account.holders, member.holders.get(row.entitlement, ()))
        if settled.wrong and len(policies) > 1:
            findings.unproven += 1
        else:
            for message in settled.wrong:
                findings.add(Check.SETTLEMENT, member.customer_id, name, message)
        if holders:
            findings.add(Check.SETTLEMENT, member.customer_id, name, holders)
        if not settled.wrong and not holders:
            member.settled.add(row.entitlement)
            check_states(member, row.entitlement, settled.stood, findings)
            findings.looked_at[Check.CHECK_PATH] += 1
            message = _read_otherwise(row, account, versions, settled.run)
            if message:
                findings.add(Check.CHECK_PATH, member.customer_id, name, message)


_BEGINNING = datetime.min.replace(tzinfo=UTC)
_SHOWN_LINES_MAX = 3


def _policies(versions: Sequence[Entitlement]) -> list[Entitlement]:
    """By which an account may be settled differently, newest first: of versions that settle alike the newest."""
    found: dict[tuple[DebtPolicy, OveragePolicy], Entitlement] = {}
    for version in reversed(versions):
        found.setdefault((version.debt, version.overage), version)
    return list(found.values())


def _settled_by_any(
    policies: Sequence[Entitlement],
    versions: Sequence[Entitlement],
    account: Account,
    member: Member,
    arriving: Sequence[Parcel],
) -> "_Settled":
    """The account settled by the first of the policies that explains it, or by the first when none does."""
    history = _history(member, account.entitlement)
    first = _Settled(policies[0], versions, account, history, member, arriving)
    if not first.wrong:
        return first
    others = (_Settled(each, versions, account, history, member, arriving) for each in policies[1:])
    return next((each for each in others if not each.wrong), first)


def _history(member: Member, entitlement: str) -> History:
    return History(
        grants=tuple(member.grants.get(entitlement, ())),
        usage=tuple(member.usage.get(entitlement, ())),
        lines=tuple(member.lines.get(entitlement, ())),
        reversals=tuple(member.reversals.get(entitlement, ())),
        holds=tuple(member.holds.get(entitlement, ())),
    )


def _read_otherwise(row: AccountRow, account: Account, versions: tuple[Entitlement, ...], run: Book) -> str:
    """What a check reads of the account that is not what the settled one shows; empty when nothing is."""
    names: tuple[str, ...] = ("allowance", "used", "held")
    stored: tuple[object, ...] = (row.allowance, row.used, row.held)
    expected: tuple[object, ...] = shown_units(run)
    if len({version.thresholds for version in versions}) == 1:
        has_units = versions[-1].type.has_units
        names = (*names, "level")
        stored = (*stored, account.level)
        expected = (*expected, level_of(run) if has_units else None)
    return "" if stored == expected else f"{differing(names, stored, expected)} by what is settled"


class _Settled:
    """An account beside a run from nothing over the same terms, usage and reversals, up to where the account stands.

    It is run by the policies of `entitlement`; of all `versions` are the lead times of what is next. `wrong` is what
    does not agree, a sentence each.
    """

    def __init__(
        self,
        entitlement: Entitlement,
        versions: Sequence[Entitlement],
        account: Account,
        history: History,
        member: Member,
        arriving: Sequence[Parcel],
    ) -> None:
        self._versions = versions
        self._account = account
        self._history = history
        told = {usage.usage_key for usage in history.usage}
        told |= {hold.hold_key for hold in history.holds if hold.confirmed}
        reversed_keys = {reversal.usage_key for reversal in history.reversals}
        # Which id of a person a reversal waits at depends on what had been told; it moves nothing.
        waiting = sorted(reversed_keys.intersection(account.waiting) if member.has_aliases else reversed_keys - told)
        self.run = Book(entitlement, Account(entitlement=entitlement.key, waiting=tuple(waiting)), ())
        self.run.holders = member.holders.get(entitlement.key, ())
        self.run.leaves_at = None if member.merge is None else member.merge.at
        for grant in history.grants:
            # What settlement grants once more is of no source: the run makes it, or it should not be.
            if grant.terms.origin is not Origin.REGRANT:
                phase = Phase.VOID if grant.phase is Phase.VOID else Phase.PENDING
                self.run.grants[grant.terms.grant_id] = BookedGrant(grant.terms, phase, grant.set_by, burns=[])
        until = (account.settled_at or _BEGINNING, account.settled_tie)
        stops, self.stood = stood_at(self.run, state_rows(member, entitlement.key))
        self._lines: list[Line] | None
        try:
            self._lines = self.run.run_all(
                history.usage, history.reversals, until, history.holds, arriving, stops=stops
            )
        except HistoryNeeded:
            self._lines = None
        self.wrong = self._find_wrong()

    def _find_wrong(self) -> list[str]:
        if self._lines is None:
            return ["it cannot be settled again: a grant is missing that a cut names or that units go on to"]
        difference = _line_difference(self._history.lines, self._lines)
        if difference:
            shown = "; ".join(_line_text(line) for line in difference[:_SHOWN_LINES_MAX])
            more = len(difference) - _SHOWN_LINES_MAX
            return [f"settled again, there is to be booked: {shown}{f' and {more} lines more' if more > 0 else ''}"]
        self.run.touched.update(self.run.grants)
        settled = {grant.terms.grant_id: grant for grant in self.run.touched_grants()}
        expected = msgspec.structs.replace(
            self.run.account,
            level=self._account.level,
            # Up to where ends were told of is history, and no sum.
            warned_at=self._account.warned_at,
            warned_tie=self._account.warned_tie,
            holders=self._account.holders,
            # Where day states are kept may depend on how events were batched.
            stated_until=self._account.stated_until,
            since_state=self._account.since_state,
        )
        expected = msgspec.structs.replace(expected, next_transition_at=self._next_of(expected, settled.values()))
        messages = [] if self._account == expected else [differing_fields(self._account, expected)]
        return messages + self._wrong_grants(settled)

    def _next_of(self, settled: Account, grants: Collection[Grant]) -> datetime | None:
        """When something is next to happen by itself: as stored where any version's lead times give that.

        An account keeps what the version gave by which it was last looked at; the newest gives what is expected.
        """
        by_lead_times: dict[tuple[timedelta, ...], datetime | None] = {}
        for version in reversed(self._versions):
            if version.lead_times not in by_lead_times:
                book = Book(version, settled, grants)
                book.look_ahead_again()
                by_lead_times[version.lead_times] = book.next_transition_at
        given = list(by_lead_times.values())
        stored = self._account.next_transition_at
        return stored if stored in given else given[0]

    def _wrong_grants(self, settled: dict[UUID, Grant]) -> list[str]:
        messages = []
        for grant in self._history.grants:
            found = settled.pop(grant.terms.grant_id, None)
            if found is None:
                found = Grant(terms=grant.terms, phase=Phase.VOID, set_by=grant.set_by)
            # Which posting set the terms of a grant is asked of its entries.
            expected = msgspec.structs.replace(found, set_by=grant.set_by)
            if grant != expected:
                messages.append(f"{grant_name(grant.terms.grant_id)}: {differing_fields(grant, expected)}")
        messages += [
            f"{grant_name(grant_id)}: granted once more when settled again, but not booked" for grant_id in settled
        ]
        return messages


def _line_difference(booked: Iterable[Line], settled: Iterable[Line]) -> list[Line]:
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in settled:
        units[line.identity()] += line.units
    for line in booked:
        units[line.identity()] -= line.units
    return [Line(*identity, missing) for identity, missing in units.items() if missing]


def _line_text(line: Line) -> str:
    of = f" of grant {line.grant_id}" if line.grant_id else ""
    by = f" for usage {line.usage_key}" if line.usage_key else ""
    cut = f" by {line.cut_id}" if line.cut_id else ""
    return f"{line.kind} {line.units:+}{of}{by}{cut} at {line.at.isoformat()}"
