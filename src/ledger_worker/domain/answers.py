"""Answering what is asked: to use units, to hold them, to confirm or release what is held; and who has a seat.

Whatever is granted is recorded as events under the customer's lock, decided like any others; what is refused changes
nothing. A hold is found by its first answer, which says what it is of and whether it was granted at all.

Checks are made in this order, and the first that applies decides. Of units asked for: each item by itself (not in the
catalogue, wrong type, what the picture says, fewer left, too many holds). Of a hold's end: unknown, expired, ended
before, more than held. Of a seat: as of one item, then whether the holder has one, whether anybody may come in, whether
one is left, whether more holders could be told.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.decide import Decision
from ledger_worker.domain.decided import Decided, Loaded, NeedsHistory, TooManyDue, told_of
from ledger_worker.domain.events import HoldFact, HoldTaken, SeatFact, UsageRecorded
from ledger_worker.domain.history import HistoryNeeded
from ledger_worker.domain.holds import HOLDS_MAX
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.domain.requests import (
    Answer,
    Asked,
    Confirm,
    Granted,
    Item,
    Release,
    Request,
    RequestReason,
    SeatAsked,
    end_event,
    grantable,
    granted_event,
    granted_of,
    held_of,
    hold_key_of,
    refused_of,
    seat_answered,
    seat_event,
    seat_refusal,
    seat_sentence,
    sentence_of,
)
from ledger_worker.domain.seats import bytes_of
from ledger_worker.domain.side import Side

__all__ = ["ToAnswer", "answer"]


class ToAnswer(msgspec.Struct, frozen=True):
    """What is asked, at its instant, and the first answer to the hold that it names, where there is one."""

    asked: Asked
    now: datetime
    held: Answer | None = None


def answer(
    loaded: Loaded, to_answer: Sequence[ToAnswer], catalogue: Catalogue, *, timeline: int
) -> tuple[Decided, tuple[Answer, ...]] | NeedsHistory | TooManyDue:
    """What is to be written for what is asked, and the answer to each, in order.

    Each is possible in itself (`requests.judge`) and of a customer in `loaded`, with all who are tied to it. An instant
    may be raised, so that a customer's instants strictly increase.
    """
    answering = _Answering(Decision(loaded, catalogue, timeline, _NEVER_LATE, _NEVER_LATE))
    answers = []
    try:
        for one in to_answer:
            answered = answering.answer(one)
            if isinstance(answered, TooManyDue):
                return answered
            answers.append(answered)
    except HistoryNeeded as needed:
        return NeedsHistory(customer_id=needed.customer_id, entitlement=needed.entitlement, before=needed.before)
    return answering.decision.decided(), tuple(answers)


class _Answering:
    """What is asked of the customers of one decision, one after the other."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self._answers: dict[tuple[str, str], Answer] = {}

    def answer(self, to_answer: ToAnswer) -> Answer | TooManyDue:
        """One is decided and answered; or, where too much is due, nothing was done."""
        asked, customers = to_answer.asked, self.decision.customers
        own = customers.side(asked.customer_id)
        tied = [customers.side(each) for each in sorted((own.customer_id, *own.linked), key=str.encode)]
        now = self.decision.reach_now(tied, to_answer.now)
        if isinstance(now, TooManyDue):
            return now
        if isinstance(asked, Request):
            answered = self._give(asked, own, now)
        elif isinstance(asked, SeatAsked):
            answered = self._seat(asked, own, now)
        else:
            held = self._answers.get((asked.caller, asked.hold)) or to_answer.held
            answered = self._end(asked, own, held, now)
        self._answers[asked.caller, asked.key] = answered
        return answered

    # -- units are used or held --

    def _give(self, request: Request, own: Side, now: datetime) -> Answer:
        user = self._user(request.customer_id, now)
        judged = [(item, *self._grantable(user, item, request)) for item in request.items]
        refused = [refused_of(item, reason, shown) for item, units, reason, shown in judged if not units]
        is_granted = len(refused) < len(judged) if request.up_to else not refused
        if not is_granted:
            items = tuple(refused_of(item, reason, shown) for item, _, reason, shown in judged)
            answered = _answer(request, user, now, items)
            return msgspec.structs.replace(
                answered, is_granted=False, reason=refused[0].reason, message=sentence_of(refused)
            )
        # All of them count at the instant of the decision; each is recorded a microsecond behind the one before.
        decided_at, expires_at = now, _expires_at(request, now)
        items_of: list[Granted] = []
        for item, units, reason, shown in judged:
            if not units:
                items_of.append(refused_of(item, reason, shown))
                continue
            now = _behind(own, now)
            fact: UsageRecorded | HoldTaken = (
                UsageRecorded(entitlement=item.entitlement, units=units)
                if expires_at is None
                else HoldTaken(entitlement=item.entitlement, units=units, expires_at=expires_at)
            )
            told = told_of(granted_event(request, fact, decided_at), now)
            if isinstance(fact, HoldTaken):
                entries = self.decision.hold(None, told, fact, now)
                items_of.append(held_of(item, units, entries, told.key, user.shown(item.entitlement)))
            else:
                entries = self.decision.use(None, told, fact, now)
                items_of.append(granted_of(item, units, entries, told.key, user.shown(item.entitlement)))
        return msgspec.structs.replace(_answer(request, user, now, tuple(items_of)), expires_at=expires_at)

    def _grantable(self, side: Side, item: Item, request: Request) -> tuple[int, str | None, EntitlementPicture | None]:
        """How many units can be granted, why not more, and the picture that says so."""
        catalogue = self.decision.catalogue
        if item.entitlement not in catalogue.entitlements:
            return (*grantable(item, catalogue, None, up_to=request.up_to), None)
        book = side.open(item.entitlement)
        shown = side.shown(item.entitlement)
        units, reason = grantable(item, catalogue, shown, up_to=request.up_to)
        if units and request.hold_seconds is not None and len(book.holds) >= HOLDS_MAX:
            return 0, RequestReason.TOO_MANY_HOLDS, shown
        return units, reason, shown

    # -- a hold ends --

    def _end(self, asked: Confirm | Release, own: Side, held: Answer | None, now: datetime) -> Answer:
        user = self._user(asked.customer_id, now)
        is_own = held is not None and held.customer_id in {own.customer_id, *own.linked}
        if held is None or held.expires_at is None or not is_own or self._user(held.customer_id, now) is not user:
            message = f"{asked.caller} holds nothing of {asked.customer_id} under the key {asked.hold}"
            return _refused(asked, user, now, RequestReason.UNKNOWN_HOLD, message)
        holding = {item.entitlement: item.granted for item in held.items if item.granted}
        if now >= held.expires_at:
            message = f"what was held under the key {asked.hold} was released at {held.expires_at.isoformat()}"
            return _refused(asked, user, now, RequestReason.HOLD_EXPIRED, message)
        if any(hold_key_of(held, name) not in user.open(name).holds for name in holding):
            message = f"what was held under the key {asked.hold} was confirmed or released before"
            return _refused(asked, user, now, RequestReason.HOLD_ENDED, message)
        confirmed = _confirmed(asked, holding)
        for name, units in confirmed.items():
            if units > holding.get(name, 0):
                message = f"{units} of {name} were to be confirmed and {holding.get(name, 0)} are held"
                return _refused(asked, user, now, RequestReason.MORE_THAN_HELD, message)
        decided_at = now
        teller = self.decision.customers.side(held.customer_id)
        items = []
        for name in holding:
            now = _behind(teller, _behind(own, now))
            teller.last = own.last = now
            units = confirmed.get(name, 0)
            told = told_of(end_event(held, name, units, decided_at), now)
            fact = told.event.fact
            entries = self.decision.hold(None, told, fact, now) if isinstance(fact, HoldFact) else []
            item = Item(entitlement=name, units=units)
            items.append(granted_of(item, units, entries, hold_key_of(held, name), user.shown(name)))
        return _answer(asked, user, now, tuple(items))

    # -- somebody has a seat --

    def _seat(self, asked: SeatAsked, own: Side, now: datetime) -> Answer:
        user = self._user(asked.customer_id, now)
        shown = None
        if asked.entitlement in self.decision.catalogue.entitlements:
            user.open(asked.entitlement)
            shown = user.shown(asked.entitlement)
        elsewhere = sum(bytes_of(book.holders) for name, book in user.books.items() if name != asked.entitlement)
        reason = seat_refusal(asked, self.decision.catalogue, shown, bytes_elsewhere=elsewhere)
        if reason is not None:
            refused = seat_answered(asked, reason, shown)
            answered = _answer(asked, user, now, (refused,))
            message = seat_sentence(asked, reason)
            return msgspec.structs.replace(answered, is_granted=False, reason=reason, message=message)
        now = _behind(own, now)
        told = told_of(seat_event(asked, now), now)
        if isinstance(told.event.fact, SeatFact):
            self.decision.seat(told, told.event.fact, now)
        granted = seat_answered(asked, None, user.shown(asked.entitlement))
        return _answer(asked, user, now, (granted,))

    def _user(self, customer_id: str, now: datetime) -> Side:
        """Whom the customer has gone on as by now."""
        customers = self.decision.customers
        return customers.side(goes_on_as(customer_id, customers.merges, now))


def _behind(side: Side, now: datetime) -> datetime:
    """An instant at which something can be recorded of the customer, and is from now on."""
    if side.last is not None and side.last >= now:
        now = side.last + _MICROSECOND
    side.last = now
    return now


def _expires_at(request: Request, now: datetime) -> datetime | None:
    return None if request.hold_seconds is None else now + timedelta(seconds=request.hold_seconds)


def _confirmed(asked: Confirm | Release, holding: Mapping[str, int]) -> Mapping[str, int]:
    """How many units of each entitlement are confirmed."""
    if isinstance(asked, Release):
        return {}
    return {item.entitlement: item.units for item in asked.items} or holding


def _answer(asked: Asked, user: Side, now: datetime, items: tuple[Granted, ...]) -> Answer:
    """The answer to what is granted."""
    return Answer(
        caller=asked.caller,
        key=asked.key,
        customer_id=asked.customer_id,
        is_granted=True,
        reason=None,
        message=None,
        items=items,
        recorded_at=now,
        sequence=user.head().sequence,
        hold=asked.hold if isinstance(asked, Confirm | Release) else None,
    )


def _refused(asked: Asked, user: Side, now: datetime, reason: RequestReason, message: str) -> Answer:
    answered = _answer(asked, user, now, ())
    return msgspec.structs.replace(answered, is_granted=False, reason=reason, message=message)


_MICROSECOND = timedelta(microseconds=1)
_NEVER_LATE = timedelta.max
"""All items of a request count at the instant of its decision, and are recorded behind each other."""
