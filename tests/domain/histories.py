"""Random lives of one customer, or of a few: a catalogue, facts, and when each is told.

Everything is chosen through one function that gives an integer between two bounds, so that the same histories come from
Hypothesis, which shrinks them, and from a seeded generator, which makes a hundred thousand of them. Instants are few
and coarse, so that happenings meet at one instant often. Most facts go on from what was told before them, so that
subscriptions are renewed where they end and refunds are of orders; the rest is noise.

Settings are chosen through a second such function, and stand beside what the first one chose: so a number names the
same facts about units as it did before there were settings.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Catalogue,
    Clock,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LimitPolicy,
    Offer,
    OnCancel,
    OnChange,
    OveragePolicy,
    RefundPolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundLine,
    RefundReversed,
    SourceFact,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
    UsageRecorded,
    UsageReversed,
    source_key,
)
from ledger_worker.domain.values import JsonText, MergePolicy, value_of

Integer = Callable[[int, int], int]
"""Gives an integer between two bounds, both possible."""

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(hours=6)
LAST_TICK = 40
AFTER_ALL = START + 1000 * TICK
"""Later than anything in a history begins, ends or is told."""

PERIOD = 8
"""Ticks of most periods."""

SPANS = ("forever", "P1D", "PT12H", "P3D", "P1M")
PERIODS = ("period", "period", "period", "forever", "P3D", "P1M")
EVERY = (None, "P1D", "P1W", "P1M")

FACTS_MAX = 14

ORDERS = ("buy", "take back", "use", "take back", "use", "buy", "take back", "use", "reverse")
SUBSCRIPTIONS = ("renew", "use", "change", "other", "use", "renew", "reverse", "use", "change", "other")
THEMES = (ORDERS, SUBSCRIPTIONS, SUBSCRIPTIONS, (*ORDERS, *SUBSCRIPTIONS, "give by hand", "give by hand"))
"""What the facts of a life are about."""

_T = TypeVar("_T")


class History(msgspec.Struct, frozen=True):
    """A catalogue, and events each with the instant at which it arrives, in the order of their arrival."""

    catalogue: Catalogue
    told: tuple[tuple[Event, datetime], ...]

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.told]

    def in_order(self, order: Sequence[int], now: datetime) -> list[tuple[Event, datetime]]:
        """The same events by another order of arrival, all of them at `now`."""
        return [(self.told[place][0], now) for place in order]


class Course(msgspec.Struct):
    """How far a life has come: what the next facts go on from. Instants are ticks."""

    quotas: tuple[str, ...]
    tick: int = 0
    version: int | None = None
    period_start: int | None = None
    period_end: int = 0
    is_trial: bool = False
    about: tuple[str, ...] = ()
    orders: list[str] = []
    usages: list[tuple[str, str, str]] = []
    values: tuple[JsonText, ...] = ()


@st.composite
def histories(draw: st.DrawFn, facts_max: int = FACTS_MAX) -> History:
    """Lives that Hypothesis chooses, and makes smaller until what fails is plain."""
    integer = _drawn(draw)
    return any_history(integer, facts_max, integer)


def history_of(seed: int, facts_max: int = FACTS_MAX) -> History:
    """The life of that number, the same on every machine: a failure is named by its number."""
    return any_history(Random(seed).randint, facts_max, of_settings(seed))


def of_settings(seed: int) -> Integer:
    """What chooses settings for that number."""
    return Random(f"settings of {seed}").randint


def _drawn(draw: st.DrawFn) -> Integer:
    return lambda least, most: draw(st.integers(least, most))


def any_history(integer: Integer, facts_max: int, other: Integer) -> History:
    """Facts of one life. `other` chooses the settings, so that the rest of it is the same with and without them."""
    catalogue = with_setting(other, any_catalogue(integer))
    course = any_course(integer, catalogue)
    facts = [any_event(integer, place, course) for place in range(max(integer(1, facts_max), integer(1, facts_max)))]
    facts = [(with_value(other, event, course), arrived_at) for event, arrived_at in facts]
    facts += [resent(integer, facts, place) for place in range(integer(0, 2))]
    arriving = sorted(facts, key=lambda one: (one[1], one[0].event_id))
    return History(catalogue, tuple(arriving))


# -- worlds of several customers

CUSTOMERS = ("ada", "bob", "cyd")


@st.composite
def worlds(draw: st.DrawFn, facts_max: int = FACTS_MAX, *, with_merges: bool = True) -> History:
    """As `histories`, of several customers."""
    integer = _drawn(draw)
    return any_world(integer, facts_max, integer, with_merges=with_merges)


def world_of(seed: int, facts_max: int = FACTS_MAX, *, with_merges: bool = True) -> History:
    """As `history_of`, of several customers."""
    return any_world(Random(seed).randint, facts_max, of_settings(seed), with_merges=with_merges)


def any_world(integer: Integer, facts_max: int, other: Integer, *, with_merges: bool) -> History:
    """Facts about two or three customers whose sources are now and then transferred, and who may be merged.

    Most facts are told for who owns the source then, some for who owned it, few for a stranger.
    """
    catalogue = with_setting(other, any_catalogue(integer))
    course = any_course(integer, catalogue)
    customers = CUSTOMERS[: integer(2, 3)]
    owners: dict[str, list[str]] = {}
    merged: dict[str, str] = {}
    moved: dict[str, datetime] = {}
    facts: list[tuple[Event, datetime]] = []
    for place in range(max(integer(1, facts_max), integer(1, facts_max))):
        event, arrived_at = any_event(integer, place, course)
        which = integer(0, 11)
        transferable = sorted(source for source in owners if not source.startswith("assignment/"))
        if which <= 1 and transferable:
            event = transferred(integer, event, pick(integer, *transferable), customers, owners, merged, moved)
            arrived_at = max(arrived_at, event.occurred_at)
        elif which == 2 and with_merges and len(merged) < len(customers) - 1 and integer(0, 1):
            event = merge(integer, event, customers, merged)
            arrived_at = max(arrived_at, event.occurred_at)
        else:
            event = told_for(integer, event, customers, owners, facts)
        facts.append((with_value(other, event, course), arrived_at))
    facts += [resent(integer, facts, place) for place in range(integer(0, 2))]
    return History(catalogue, tuple(sorted(facts, key=lambda one: (one[1], one[0].event_id))))


def told_for(
    integer: Integer,
    event: Event,
    customers: Sequence[str],
    owners: dict[str, list[str]],
    facts: Sequence[tuple[Event, datetime]],
) -> Event:
    """The same event for one of the customers: of a reversal mostly whose usage it was."""
    fact = event.fact
    customer = pick(integer, *customers)
    if isinstance(fact, SourceFact):
        owned = owners.setdefault(source_key(fact), [customer])
        customer = pick(integer, *[owned[-1]] * 8, pick(integer, *owned), pick(integer, *owned), customer)
    if isinstance(fact, UsageReversed) and integer(0, 7):
        whose = [one.customer_id for one, _ in facts if one.event_id == fact.usage_event_id]
        customer = whose[0] if whose else customer
    return msgspec.structs.replace(event, customer_id=customer)


def transferred(
    integer: Integer,
    event: Event,
    source: str,
    customers: Sequence[str],
    owners: dict[str, list[str]],
    merged: dict[str, str],
    moved: dict[str, datetime],
) -> Event:
    """A source goes from its owner to another customer."""
    kind, _, key = source.partition("/")
    owned = owners[source]
    giver = owned[-1]
    receiver = pick(integer, *[one for one in customers if one != giver])
    owned.append(merged.get(receiver, receiver))
    # Each is later than the one before it: which of two that contradict each other counts depends on arrival.
    moved[source] = max(event.occurred_at, moved.get(source, START) + TICK)
    transfer_id = f"t-{event.event_id}"
    fact = (
        PurchaseTransferred(order_id=key, transfer_id=transfer_id, to_customer_id=receiver)
        if kind == "order"
        else SubscriptionTransferred(subscription_id=key, transfer_id=transfer_id, to_customer_id=receiver)
    )
    return msgspec.structs.replace(event, customer_id=giver, fact=fact, source_version=None, occurred_at=moved[source])


def merge(integer: Integer, event: Event, customers: Sequence[str], merged: dict[str, str]) -> Event:
    """A customer goes on as one before it in the alphabet, each at most once: no circles."""
    old = pick(integer, *[one for one in customers[1:] if one not in merged])
    into = merged[old] = pick(integer, *customers[: customers.index(old)])
    fact = CustomersMerged(merge_id=f"m-{old}", into_customer_id=into)
    return msgspec.structs.replace(event, customer_id=old, fact=fact, source_version=None)


# -- one life


def any_course(integer: Integer, catalogue: Catalogue) -> Course:
    """Commerce numbers the facts of some lives, and not those of others."""
    quotas = tuple(key for key, one in catalogue.entitlements.items() if one.type is EntitlementType.QUOTA)
    size = catalogue.entitlements.get("size")
    return Course(
        quotas=quotas,
        tick=integer(0, 8),
        version=pick(integer, None, None, 1),
        about=pick(integer, *THEMES),
        values=() if size is None else VALUES[size.merge],
    )


# -- the catalogue


def any_catalogue(integer: Integer) -> Catalogue:
    """A quota `api`, `video` which is access or a quota, and two SKUs that give some of both."""
    api = Entitlement(
        key="api",
        name="API calls",
        type=EntitlementType.QUOTA,
        unit="call",
        limit=pick(integer, LimitPolicy.HARD, LimitPolicy.SOFT),
        debt=pick(integer, DebtPolicy.FORGIVE, DebtPolicy.CARRY, DebtPolicy.BLOCK),
        overage=pick(integer, OveragePolicy.SEPARATE, OveragePolicy.CARRY),
        thresholds=pick(integer, (80, 100), (), (50,), (1, 100, 150)),
        expiring_soon=pick(integer, (), ("P1D",), ("P2D", "PT12H")),
        version=1,
    )
    other = pick(
        integer,
        Entitlement(key="video", name="Video", type=EntitlementType.ACCESS, version=1),
        msgspec.structs.replace(api, key="video", limit=LimitPolicy.HARD, debt=DebtPolicy.CARRY),
    )
    kinds = {"api": api.type, "video": other.type}
    offers = {sku: any_offers(integer, sku, kinds) for sku in ("basic", "plus")}
    return Catalogue(version=1, entitlements={"api": api, "video": other}, offers=offers)


def any_offers(integer: Integer, sku: str, kinds: dict[str, EntitlementType]) -> tuple[Offer, ...]:
    """One version of an offer, and sometimes one or two more, in which some allowances are the same as before."""
    apply = pick(integer, Apply.NOW, Apply.NOW, Apply.NEW_ONLY, Apply.NEXT_PERIOD)
    published = 0 if apply is Apply.NOW else integer(0, 10)
    versions = [
        Offer(
            sku=sku,
            allowances=any_allowances(integer, kinds),
            apply=apply,
            version=1,
            published_at=START + published * TICK,
        )
    ]
    for version in range(2, pick(integer, 1, 1, 2, 3) + 1):
        published += integer(1, 12)
        before, anew = versions[-1].allowances, any_allowances(integer, kinds)
        versions.append(
            Offer(
                sku=sku,
                allowances=tuple(
                    before[place] if place < len(before) and integer(0, 1) else one for place, one in enumerate(anew)
                ),
                apply=pick(integer, Apply.NEW_ONLY, Apply.NEXT_PERIOD, Apply.NOW),
                version=version,
                published_at=START + published * TICK,
            )
        )
    return tuple(versions)


def any_allowances(integer: Integer, kinds: dict[str, EntitlementType]) -> tuple[Allowance, ...]:
    """One to three; the second, where there is one, is of `video`."""
    allowances = []
    for place in range(pick(integer, 3, 1, 2, 3)):
        entitlement = "video" if place == 1 else "api"
        is_quota = kinds[entitlement] is EntitlementType.QUOTA
        units = pick(integer, 10, 3, 1, 0, 7, 10, None) if is_quota else None
        lasts = pick(integer, *PERIODS) if place < 2 else pick(integer, *SPANS)
        every = pick(integer, *EVERY) if lasts == "period" else None
        may_roll_over = units is not None and lasts == "period" and every is None
        allowances.append(
            Allowance(
                key=f"{entitlement}-{place}",
                entitlement=entitlement,
                units=units,
                lasts=lasts,
                priority=pick(integer, 100, 50),
                refund=pick(integer, RefundPolicy.UNUSED_ONLY, RefundPolicy.FULL_WITH_DEBT, RefundPolicy.PRORATE),
                on_cancel=pick(integer, OnCancel.FORFEIT, OnCancel.KEEP),
                leeway_seconds=pick(integer, 86_400, 0, 21_600),
                grace_seconds=pick(integer, 86_400, 0),
                on_change=pick(integer, OnChange.CARRY_USED, OnChange.FRESH, OnChange.PRORATE),
                pause=pick(integer, Clock.STOPS, Clock.RUNS),
                rollover_units=pick(integer, 0, 2, 5, 100) if may_roll_over else 0,
                rollover_times=pick(integer, 1, 2),
                extend_on_won=integer(0, 1) == 1 and every is None,
                return_after_end=pick(integer, ReturnAfterEnd.EXPIRE, ReturnAfterEnd.REGRANT),
                every=every,
                time_zone=None if every is None else pick(integer, None, "Europe/Berlin", "Pacific/Auckland"),
                times=None if every is None or every == "P1M" else integer(1, 4),
            )
        )
    return tuple(allowances)


# -- settings

VALUES = {
    None: (value_of("s"), value_of({"of": ["m"]}), value_of(None), value_of("l")),
    MergePolicy.MAX: (value_of(9), value_of(10), value_of(-1)),
    MergePolicy.MIN: (value_of(9), value_of(10), value_of(-1)),
    MergePolicy.UNION: (value_of(["eu", 2]), value_of([]), value_of([True, 1, 10, "eu"])),
    MergePolicy.ANY: (value_of(value=False), value_of(value=False), value_of(value=True)),
}
"""Values that a setting can have, by its merge."""


def with_setting(other: Integer, catalogue: Catalogue) -> Catalogue:
    """The same, in some lives with a setting that offers give now and then, for a period or for a time of its own."""
    if other(0, 3) == 0:
        return catalogue
    merge = pick(other, None, None, *MergePolicy)
    size = Entitlement(key="size", name="Size", type=EntitlementType.SETTING, merge=merge, version=1)
    offers = {
        sku: tuple(
            msgspec.structs.replace(offer, allowances=(*offer.allowances, *_valued(other, VALUES[merge])))
            for offer in versions
        )
        for sku, versions in catalogue.offers.items()
    }
    return msgspec.structs.replace(catalogue, entitlements={**catalogue.entitlements, "size": size}, offers=offers)


def _valued(other: Integer, values: Sequence[JsonText]) -> tuple[Allowance, ...]:
    return tuple(
        Allowance(
            key=f"size-{place}",
            entitlement="size",
            value=pick(other, *values),
            lasts=pick(other, "period", "forever", "P3D", "P1D"),
            priority=pick(other, 100, 100, 50),
            refund=pick(other, RefundPolicy.UNUSED_ONLY, RefundPolicy.FULL_WITH_DEBT, RefundPolicy.PRORATE),
            on_cancel=pick(other, OnCancel.FORFEIT, OnCancel.KEEP),
            leeway_seconds=pick(other, 86_400, 0),
            grace_seconds=pick(other, 86_400, 0),
            pause=pick(other, Clock.STOPS, Clock.RUNS),
            extend_on_won=other(0, 1) == 1,
        )
        for place in range(pick(other, 1, 1, 0, 2))
    )


def with_value(other: Integer, event: Event, course: Course) -> Event:
    """The same; what a person gives is sometimes the setting, and sometimes a value of what has none."""
    fact = event.fact
    if isinstance(fact, EntitlementAssigned) and course.values and other(0, 1):
        given = msgspec.structs.replace(fact, entitlement="size", units=None, value=pick(other, *course.values))
        return msgspec.structs.replace(event, fact=given)
    if isinstance(fact, AssignmentRenewed) and other(0, 1):
        again = msgspec.structs.replace(fact, value=pick(other, *course.values, *VALUES[MergePolicy.ANY]))
        return msgspec.structs.replace(event, fact=again)
    return event


# -- facts


def any_event(integer: Integer, place: int, course: Course) -> tuple[Event, datetime]:
    """Something happened at a tick and is told at once, or later; facts about sources also two minutes ahead."""
    is_noise = integer(0, 5) == 0
    tick = integer(0, LAST_TICK) if is_noise else min(course.tick + integer(0, 4), LAST_TICK)
    fact = any_fact(integer, tick, msgspec.structs.replace(course) if is_noise else course)
    if not is_noise:
        course.tick = tick
    event = Event(
        event_source=event_source_of(integer, fact),
        event_id=f"e{place}",
        customer_id="ada",
        occurred_at=START + tick * TICK,
        fact=fact,
        source_version=source_version_of(integer, fact, course),
    )
    if isinstance(fact, UsageRecorded):
        course.usages.append((event.event_source, event.event_id, fact.entitlement))
    lag = pick(integer, timedelta(), timedelta(), TICK, 5 * TICK, 60 * TICK, timedelta(minutes=-2))
    if isinstance(fact, UsageRecorded | UsageReversed):
        lag = max(lag, timedelta())
    return event, event.occurred_at + lag


def event_source_of(integer: Integer, fact: Fact) -> str:
    if isinstance(fact, EntitlementAssigned | AssignmentRenewed | AssignmentExtended | AssignmentRevoked):
        return "admin"
    return pick(integer, "commerce", "meter")


def source_version_of(integer: Integer, fact: Fact, course: Course) -> int | None:
    """Rising in some lives, now and then anything; without one in others."""
    if not isinstance(fact, SourceFact):
        return None
    if course.version is not None:
        course.version += 1
        return course.version if integer(0, 4) else integer(1, 4)
    return integer(1, 4) if integer(0, 7) == 0 else None


def resent(integer: Integer, facts: Sequence[tuple[Event, datetime]], place: int) -> tuple[Event, datetime]:
    """One of the facts is told again.

    As it was, or (about a source) under a new id, with or without a later instant.
    """
    event, arrived_at = facts[integer(0, len(facts) - 1)]
    if isinstance(event.fact, SourceFact | UsageReversed) and integer(0, 2):
        later = event.occurred_at + integer(0, 6) * TICK
        if isinstance(event.fact, PurchaseTransferred | SubscriptionTransferred):
            later = event.occurred_at  # who gives it is the teller as he was known then
        event = msgspec.structs.replace(event, event_id=f"again-{place}", occurred_at=later)
        arrived_at = max(arrived_at, later)
    return event, arrived_at + integer(0, 3) * TICK


def any_fact(integer: Integer, tick: int, course: Course) -> Fact:
    """Mostly of the life's theme; a subscription begins before anything else is told of it."""
    about = pick(integer, *course.about)
    if about == "use":
        return UsageRecorded(
            entitlement=pick(integer, "api", "api", *course.quotas), units=pick(integer, 1, 2, 4, 12, 5)
        )
    if about == "reverse":
        return _reversed(integer, course)
    if about == "buy" or (about == "take back" and not course.orders):
        order_id = pick(integer, "o1", "o1", "o2")
        course.orders.append(order_id)
        return PurchaseCompleted(order_id=order_id, lines=_lines(integer))
    if about == "take back":
        return _taken_back(integer, pick(integer, "o1", "o2", *course.orders, *course.orders))
    if about == "give by hand":
        return _by_hand(integer, tick, course)
    if course.period_start is None or integer(0, 12) == 0:
        return _started(integer, tick, course)
    if about == "renew":
        return _renewed(integer, tick, course)
    return _changed(integer, tick, course) if about == "change" else _other(integer, tick, course)


def _at(tick: int) -> datetime:
    return START + tick * TICK


# -- usage that was not, orders, assignments by hand


def _reversed(integer: Integer, course: Course) -> UsageReversed:
    source, event_id, entitlement = pick(integer, ("meter", "e0", "api"), *course.usages[-3:], *course.usages[-1:])
    return UsageReversed(
        entitlement=entitlement,
        reversal_id=f"{entitlement}-v{integer(1, 4)}",
        usage_event_id=event_id,
        usage_event_source=pick(integer, source, source, source, None),
        units=pick(integer, None, 1, 2, 3, 12),
    )


def _lines(integer: Integer) -> tuple[PurchaseLine, ...]:
    return tuple(
        PurchaseLine(
            line_id=f"l{number}",
            sku=pick(integer, "basic", "plus", "basic", "plus", "unheard-of"),
            quantity=integer(1, 3),
            amount=pick(integer, 300, 100, None, 0),
        )
        for number in range(1, integer(1, 2) + 1)
    )


def _taken_back(integer: Integer, order_id: str) -> Fact:
    dispute_id = pick(integer, "d1", "d2")
    which = integer(0, 6)
    if which == 0:
        return RefundReversed(
            order_id=order_id, reversal_id=pick(integer, "v1", "v2"), refund_id=pick(integer, "r1", "r2", "r3")
        )
    if which <= 2:
        return ChargebackOpened(order_id=order_id, dispute_id=dispute_id)
    if which == 3:
        return ChargebackWon(order_id=order_id, dispute_id=dispute_id)
    if which == 4:
        return ChargebackLost(order_id=order_id, dispute_id=dispute_id, amount=pick(integer, None, 100, 50))
    return _refund(integer, order_id)


def _refund(integer: Integer, order_id: str) -> PurchaseRefunded:
    refund_id = pick(integer, "r1", "r2", "r3")
    how = integer(0, 5)
    if how >= 4:
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id)
    if how <= 1:
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id, amount=pick(integer, 100, 50, 1000))
    if how == 2:
        line = RefundLine(line_id=pick(integer, "l1", "l2"), quantity=integer(1, 3))
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id, lines=(line,))
    line = RefundLine(line_id=pick(integer, "l1", "l2"), amount=pick(integer, 100, 33, None))
    return PurchaseRefunded(order_id=order_id, refund_id=refund_id, lines=(line,))


def _by_hand(integer: Integer, tick: int, course: Course) -> Fact:
    which = integer(0, 5)
    if which <= 2:
        entitlement = pick(integer, "api", "api", "video")
        return EntitlementAssigned(
            assignment_id="a1",
            entitlement=entitlement,
            effective_at=_at(tick + integer(0, 2)),
            actor="eve",
            note="goodwill",
            units=pick(integer, 5, 1, None) if entitlement in course.quotas else None,
            expires_at=pick(integer, None, _at(tick + PERIOD), _at(tick + 3)),
            priority=pick(integer, 100, 10),
        )
    if which == 3:
        return AssignmentRenewed(
            assignment_id="a1",
            effective_at=_at(tick),
            actor="eve",
            note="again",
            expires_at=pick(integer, None, _at(tick + 4)),
        )
    if which == 4:
        return AssignmentExtended(
            assignment_id="a1",
            extension_id=pick(integer, "x1", "x2"),
            new_expires_at=_at(tick + integer(1, PERIOD)),
            actor="eve",
            note="longer",
        )
    return AssignmentRevoked(
        assignment_id="a1",
        revocation_id=pick(integer, "k1", "k2"),
        effective_at=_at(tick + integer(-1, 2)),
        actor="eve",
        note="no more",
    )


# -- subscriptions


def _items(integer: Integer) -> tuple[SubscriptionItem, ...]:
    return tuple(
        SubscriptionItem(item_id=f"i{number}", sku=pick(integer, "basic", "plus"), quantity=integer(1, 2))
        for number in range(1, pick(integer, 1, 1, 2) + 1)
    )


def _period(integer: Integer, start: int, course: Course) -> tuple[datetime, datetime]:
    course.period_start = start
    course.period_end = start + pick(integer, PERIOD, PERIOD, 5)
    return _at(start), _at(course.period_end)


def _started(integer: Integer, tick: int, course: Course) -> Fact:
    """A subscription begins; periods of the grid meet each other, others do not."""
    start, end = _period(integer, pick(integer, tick, tick - tick % PERIOD, tick + PERIOD - tick % PERIOD), course)
    course.is_trial = integer(0, 3) == 0
    if course.is_trial:
        return SubscriptionTrialStarted(subscription_id="s1", items=_items(integer), trial_start=start, trial_end=end)
    return SubscriptionActivated(subscription_id="s1", items=_items(integer), period_start=start, period_end=end)


def _renewed(integer: Integer, tick: int, course: Course) -> Fact:
    """The next period, where the one before it ends, or a trial is converted there or sooner."""
    items = pick(integer, (), (), _items(integer))
    if course.is_trial:
        course.is_trial = False
        start, end = _period(integer, pick(integer, course.period_end, tick), course)
        return SubscriptionTrialConverted(subscription_id="s1", items=items, period_start=start, period_end=end)
    start, end = _period(integer, pick(integer, course.period_end, course.period_end, course.period_end, tick), course)
    return SubscriptionRenewed(subscription_id="s1", items=items, period_start=start, period_end=end)


def _changed(integer: Integer, tick: int, course: Course) -> Fact:
    """One item changes: now, a little later, at the end of the period, or at its start."""
    at = pick(integer, tick, tick, tick + 2, course.period_end, course.period_start or tick)
    change_id, item_id = f"ch{integer(1, 5)}", pick(integer, "i1", "i1", "i2")
    which = integer(0, 8)
    if which <= 3:
        return SubscriptionPlanChanged(
            subscription_id="s1",
            change_id=change_id,
            item_id=item_id,
            sku=pick(integer, "basic", "plus"),
            effective_at=_at(at),
            quantity=pick(integer, None, None, 1, 3),
            period_end=_at(at + PERIOD) if integer(0, 5) == 0 else None,
            keep_schedule=integer(0, 3) == 0,
        )
    if which <= 5:
        return SubscriptionQuantityChanged(
            subscription_id="s1",
            change_id=change_id,
            item_id=item_id,
            quantity=integer(1, 3),
            effective_at=_at(at),
            keep_schedule=integer(0, 3) == 0,
        )
    if which <= 7:
        item = SubscriptionItem(item_id=pick(integer, "i2", "i2", "i1"), sku="plus", quantity=integer(1, 2))
        return SubscriptionAddOnAdded(subscription_id="s1", change_id=change_id, item=item, effective_at=_at(at))
    return SubscriptionAddOnRemoved(subscription_id="s1", change_id=change_id, item_id=item_id, effective_at=_at(at))


def _other(integer: Integer, tick: int, course: Course) -> Fact:
    """What stops, suspends, extends or ends a subscription."""
    at = _at(pick(integer, tick, tick, tick + 2, course.period_end))
    pause_id, cancellation_id = pick(integer, "p1", "p1", "p2"), pick(integer, "c1", "c1", "c2")
    which = integer(0, 15)
    if which <= 2:
        return SubscriptionPaused(subscription_id="s1", pause_id=pause_id, effective_at=at)
    if which <= 4:
        return SubscriptionResumed(subscription_id="s1", pause_id=pause_id, effective_at=at)
    if which <= 6:
        return SubscriptionPaymentFailed(subscription_id="s1", failure_id=pick(integer, "f1", "f2"))
    if which <= 8:
        return SubscriptionPaymentRecovered(subscription_id="s1", recovery_id=pick(integer, "y1", "y2"))
    if which == 9:
        return SubscriptionCancellationScheduled(subscription_id="s1", cancellation_id=cancellation_id, effective_at=at)
    if which == 10:
        return SubscriptionCancellationWithdrawn(subscription_id="s1", cancellation_id=cancellation_id)
    if which == 11:
        return SubscriptionCancelled(
            subscription_id="s1", cancellation_id=cancellation_id, effective_at=_at(tick + integer(-4, 12))
        )
    if which == 12:
        return SubscriptionExpired(subscription_id="s1", expiry_id=pick(integer, "x1", "x2"), effective_at=at)
    if which == 13:
        return SubscriptionRevoked(subscription_id="s1", revocation_id=pick(integer, "k1", "k2"), effective_at=at)
    if which == 14:
        return SubscriptionTrialExpired(subscription_id="s1", effective_at=at)
    return SubscriptionExtended(
        subscription_id="s1",
        extension_id=pick(integer, "n1", "n2"),
        new_period_end=_at(course.period_end + integer(-2, 6)),
    )


def pick(integer: Integer, *values: _T) -> _T:
    """One of the values; the first is what Hypothesis ends with where it does not matter."""
    return values[integer(0, len(values) - 1)]
