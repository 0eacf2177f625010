"""What was known by an instant, and what the oracle says of any other who is told that and no more."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from random import Random

import msgspec

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import Catalogue, LateUsage
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import Event, SourceFact, source_key
from ledger_worker.domain.ledger import Account
from ledger_worker.domain.settlement import Book
from ledger_worker.local.oracle.units import Telling, outcomes
from tests.domain.agreement import NAMES, expected_units
from tests.domain.histories import START, TICK, History

MICROSECOND = timedelta(microseconds=1)


def expected_at(
    known: Sequence[tuple[Event, datetime]], catalogue: Catalogue, at: datetime, window: timedelta
) -> Mapping[tuple[str, str], tuple[object, ...]]:
    """What the oracle says of every customer and entitlement at `at`, told these events and no others.

    Each event comes with the instant at which it was recorded.
    """
    recorded = {(event.customer_id, event.event_source, event.event_id): instant for event, instant in known}
    homes: dict[str, str] = {}
    for event, _ in sorted(known, key=itemgetter(1)):
        if isinstance(event.fact, SourceFact):
            homes.setdefault(source_key(event.fact), event.customer_id)
    found = outcomes([event for event, _ in known], catalogue, NAMES, at, Telling(recorded, window), homes)
    return {pair: expected_units(outcome) for pair, outcome in found.items()}


def nothing_of(catalogue: Catalogue, entitlement: str) -> EntitlementPicture:
    """The picture of an entitlement that a customer never had to do with."""
    return picture(Book(catalogue.entitlements[entitlement], Account(entitlement=entitlement), ()))


def any_instants(chance: Random, recorded_at: Iterable[datetime]) -> tuple[datetime, datetime]:
    """An instant to ask of, and one to know by: often just where something happens, or is recorded, or not yet is."""
    at = START + chance.randint(-2, 70) * TICK + chance.choice((0, 0, 1)) * timedelta(hours=1)
    known_at = chance.choice(sorted(recorded_at)) + chance.choice((-1, 0, 0, 1)) * MICROSECOND
    return at, known_at


def with_late_usage(history: History, policy: LateUsage) -> History:
    """The same history, where usage that is told too late goes by that policy."""
    entitlements = {
        key: msgspec.structs.replace(one, late_usage=policy) for key, one in history.catalogue.entitlements.items()
    }
    return History(msgspec.structs.replace(history.catalogue, entitlements=entitlements), history.told)
