"""Deciding, in rounds: whatever asks for the history of an account gets it, and is decided again.

Deciding is pure, so it may be done twice. A history begins at a day state where that is enough, and the second time it
is all there is, so the rounds end.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from sqlalchemy import Connection

from ledger_worker.apply.batch import ManyDue
from ledger_worker.apply.load import Group, merges_of
from ledger_worker.apply.out_of_range import out_of_range
from ledger_worker.domain.answers import ToAnswer, answer
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.decide import book_due, decide
from ledger_worker.domain.decided import Decided, Loaded, NeedsHistory, Told, TooManyDue
from ledger_worker.domain.events import UsageRecorded, UsageReversed, event_key
from ledger_worker.domain.history import History
from ledger_worker.domain.owners import Merge
from ledger_worker.domain.requests import Answer
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.store import histories as histories_store
from ledger_worker.store.catalogue import LedgerState

__all__ = ["answer_groups", "decide_due", "decide_groups"]


def decide_groups(
    connection: Connection,
    groups: Sequence[Group],
    loaded: list[Loaded],
    catalogue: Catalogue,
    ledger: LedgerState,
) -> list[Decided] | ManyDue:
    """Every group is decided, in order; or some customers must be caught up first, and nothing is to be written.

    `loaded` is what was loaded for each group, in the same order, and gets the histories that were asked for. Raises
    DataError for a sum that 64 bits do not hold.
    """
    usage_kept = timedelta(days=ledger.usage_kept_days)
    settlement_window = timedelta(days=ledger.settlement_window_days)

    def decide_one(place: int) -> Decided | NeedsHistory | TooManyDue:
        """The group of that place is decided, with the histories that are loaded by now."""
        return decide(
            loaded[place],
            groups[place].told,
            catalogue,
            timeline=ledger.timeline,
            usage_kept=usage_kept,
            settlement_window=settlement_window,
        )

    return _in_rounds(connection, groups, loaded, decide_one)


def answer_groups(
    connection: Connection,
    groups: Sequence[Group],
    asked: Sequence[Sequence[ToAnswer]],
    loaded: list[Loaded],
    catalogue: Catalogue,
    ledger: LedgerState,
) -> list[tuple[Decided, tuple[Answer, ...]]] | ManyDue:
    """The same for requests: of each group what is to be written, and the answer to each of `asked` in its order."""

    def answer_one(place: int) -> tuple[Decided, tuple[Answer, ...]] | NeedsHistory | TooManyDue:
        """The requests of the group of that place are answered, with the histories that are loaded by now."""
        return answer(loaded[place], asked[place], catalogue, timeline=ledger.timeline)

    return _in_rounds(connection, groups, loaded, answer_one)


_Found = TypeVar("_Found")


def _in_rounds(
    connection: Connection,
    groups: Sequence[Group],
    loaded: list[Loaded],
    decide_one: Callable[[int], _Found | NeedsHistory | TooManyDue],
) -> list[_Found] | ManyDue:
    """Each round loads the history of one account more of each group that asks: since a day state, then all of it."""
    decided: dict[int, _Found] = {}
    undecided = list(range(len(groups)))
    many_due: dict[str, datetime] = {}
    while undecided:
        needed: dict[tuple[str, str], int] = {}
        before: dict[tuple[str, str], datetime] = {}
        for place in undecided:
            try:
                found = decide_one(place)
            except OverflowError as error:
                raise out_of_range("posting", error) from error
            if isinstance(found, NeedsHistory):
                asked = (found.customer_id, found.entitlement)
                needed[asked] = place
                if found.before is not None and not _is_loaded(loaded[place], found):
                    before[asked] = min([found.before, *_reached(connection, groups[place].told, *asked)])
            elif isinstance(found, TooManyDue):
                many_due[found.customer_id] = found.now
            else:
                decided[place] = found
        merges = {key: merge for place in needed.values() for key, merge in _merges_of(loaded[place]).items()}
        histories = histories_store.read_histories(connection, sorted(needed), merges, before) if needed else {}
        for (customer_id, entitlement), history in histories.items():
            asking = needed[customer_id, entitlement]
            loaded[asking] = _with_history(loaded[asking], customer_id, entitlement, history)
        undecided = sorted(needed.values())
    if many_due:
        return ManyDue(due_at=many_due)
    return [decided[place] for place in range(len(groups))]


def decide_due(
    connection: Connection, loaded: Loaded, customer_id: str, now: datetime, catalogue: Catalogue, ledger: LedgerState
) -> Decided:
    """The earliest of what is due for the customer at `now` is decided, as much as one transaction may book."""
    found = book_due(loaded, customer_id, now, catalogue, timeline=ledger.timeline)
    while isinstance(found, NeedsHistory):
        pair = (found.customer_id, found.entitlement)
        before = {} if found.before is None or _is_loaded(loaded, found) else {pair: found.before}
        history = histories_store.read_histories(connection, [pair], _merges_of(loaded), before)[pair]
        loaded = _with_history(loaded, *pair, history)
        found = book_due(loaded, customer_id, now, catalogue, timeline=ledger.timeline)
    return found


def _merges_of(loaded: Loaded) -> dict[str, Merge]:
    return merges_of({customer_id: one.head for customer_id, one in loaded.customers.items()})


def _with_history(loaded: Loaded, customer_id: str, entitlement: str, history: History) -> Loaded:
    customer = loaded.customers[customer_id]
    with_it = msgspec.structs.replace(customer, histories={**customer.histories, entitlement: history})
    return msgspec.structs.replace(loaded, customers={**loaded.customers, customer_id: with_it})


def _is_loaded(loaded: Loaded, needed: NeedsHistory) -> bool:
    """Whether a history that begins at a day state is there. Raises BrokenInvariantError when all of it is there."""
    history = loaded.customers[needed.customer_id].histories.get(needed.entitlement)
    if history is not None and history.since is None:
        msg = f"customer {needed.customer_id}: the whole history of {needed.entitlement} is asked for again"
        raise BrokenInvariantError(msg)
    return history is not None


def _reached(connection: Connection, all_told: Sequence[Told], customer_id: str, entitlement: str) -> list[datetime]:
    """The instants that usage of the account reaches back to, and reversals of it: one history then serves them all."""
    reached = []
    reversed_keys = []
    for told in all_told:
        event, fact = told.event, told.event.fact
        if event.customer_id != customer_id:
            continue
        if isinstance(fact, UsageRecorded) and fact.entitlement == entitlement:
            reached.append(event.occurred_at)
        elif isinstance(fact, UsageReversed) and fact.entitlement == entitlement:
            reversed_keys.append(event_key(fact.usage_event_source or event.event_source, fact.usage_event_id))
    counted_at = histories_store.earliest_counted(connection, customer_id, reversed_keys) if reversed_keys else None
    return reached if counted_at is None else [*reached, counted_at]
