"""Seats, rule by rule: a life of a few facts, who holds one and why not, by hand, and the oracle agrees.

Behind the rules random lives and worlds: facts of all kinds, and in between somebody asks for a seat, gives one back,
or passes one on.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

import msgspec
import pytest

from ledger_worker.domain.catalogue import (
    Allowance,
    Catalogue,
    OnCancel,
    OnShrink,
    RefundPolicy,
    definition_problems,
)
from ledger_worker.domain.events import (
    EntitlementAssigned,
    Event,
    SeatAssigned,
    SeatFact,
    SeatsRevoked,
    SeatUnassigned,
)
from ledger_worker.domain.ledger import Account, Holder
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.domain.requests import (
    Answer,
    Asked,
    AssignSeat,
    Item,
    SeatAsked,
    SwapSeat,
    UnassignSeat,
    judge,
    seat_refusal,
)
from ledger_worker.domain.seats import (
    CUSTOMER_HOLDERS_BYTES_MAX,
    HOLDERS_BYTES_MAX,
    HOLDERS_MAX,
    beyond_bounds,
    holders_after,
)
from tests.domain.agreement import assert_all
from tests.domain.campaign import hold
from tests.domain.checked import Told
from tests.domain.driver import World
from tests.domain.histories import AFTER_ALL, TICK, History, history_of, world_of
from tests.domain.telling import (
    MICROSECOND,
    access,
    activated,
    assigned,
    assignment_revoked,
    bought,
    catalogue,
    consume,
    day,
    dispute_opened,
    gives,
    item,
    line,
    merged,
    offer,
    order_transferred,
    plan_changed,
    quantity_changed,
    quota,
    refunded,
    renewed,
    seat,
    seats,
    swap,
    told,
    unseat,
    used,
)

LIVED = 75
CAMPAIGN, PARTS = 20_000, 2
EVICTS = seats(on_shrink=OnShrink.REVOKE_NEWEST)


def shop(entitlement: object = None, *, units: int | None = 3, **given: object) -> Catalogue:
    """Sells `pack`, which gives seats for ever, and `plan` and `big` by the period."""
    desk = entitlement or seats()
    return catalogue(
        desk,  # type: ignore[arg-type]
        quota(),
        access(),
        offer("pack", gives(units, "desk", lasts="forever")),
        offer("plan", gives(3, "desk", key="plan", leeway_seconds=0, **given)),  # type: ignore[arg-type]
        offer("big", gives(5, "desk", key="big", leeway_seconds=0, **given)),  # type: ignore[arg-type]
        offer("calls", gives(10, lasts="forever")),
    )


@pytest.fixture
def life() -> Told:
    sold = Told(shop())
    sold.tell(day(1), bought())
    return sold


# -- taking, giving back, swapping


def test_a_seat_is_taken_and_given_back(life: Told) -> None:
    life.take(day(2), "ann", "ben")
    assert (life.holders(day(3)), life.counts(day(3))) == ("ann ben", (3, 2, 1, 0))

    assert life.ask(day(3), unseat("ann")).is_granted

    assert (life.holders(day(4)), life.counts(day(4))) == ("ben", (3, 1, 2, 0))
    kinds = [change.kinds for change in life.world.customers["ada"].changes[1:]]
    assert kinds == [("holders",), ("holders",), ("holders",)]


def test_a_swap_keeps_the_place_and_works_when_no_seat_is_left(life: Told) -> None:
    life.take(day(2), "ann", "ben", "cem")

    answer = life.ask(day(3), swap("ann", "dee"))

    assert (answer.is_granted, answer.items[0].granted) == (True, 1)
    assert life.holders(day(4)) == "dee ben cem"
    assert life.world.customers["ada"].accounts["desk"].holders[0] == Holder("dee", day(2))


def test_the_answer_carries_the_picture_without_its_holders(life: Told) -> None:
    answer = life.ask(day(2), seat("ann"))

    decision = answer.items[0].decision
    assert decision is not None
    assert (decision.remaining, decision.used, decision.holders) == (2, 1, None)


@pytest.mark.parametrize("hold_seconds", [None, 60], ids=["consume", "hold"])
@pytest.mark.parametrize("up_to", [False, True])
def test_who_asks_for_units_of_seats_is_not_told_who_holds_them(
    life: Told, hold_seconds: int | None, *, up_to: bool
) -> None:
    """All is refused, or the seats alone: in either answer the picture is there, and nobody's name."""
    life.take(day(2), "ann", "ben")
    life.tell(day(2, 1), bought(line("calls"), order="o2"))
    items = (Item(entitlement="desk", units=1), Item(entitlement="api", units=1))
    asked = msgspec.structs.replace(consume(1), items=items, up_to=up_to, hold_seconds=hold_seconds)

    answer = life.ask(day(3), asked)

    assert (answer.is_granted, answer.items[0].reason) == (up_to, "wrong_type")
    decision = answer.items[0].decision
    assert decision is not None
    assert (decision.used, decision.holders) == (2, None)


def test_a_level_counts_holders_against_the_limit(life: Told) -> None:
    life.take(day(2), "ann", "ben", "cem")

    assert life.world.picture_of("ada", "desk", day(3)).level == 100


def test_of_any_number_of_seats_none_is_ever_missing() -> None:
    life = Told(shop(units=None))
    life.tell(day(1), bought())
    life.take(day(2), "ann", "ben", "cem", "dee")

    shown = life.world.picture_of("ada", "desk", day(3))
    assert (shown.unlimited, shown.limit, shown.used, shown.remaining, shown.level) == (True, None, 4, None, None)


# -- why not, the first that applies


def test_reasons_come_in_their_order(life: Told) -> None:
    assert life.reason(day(2), seat("ann", customer="nobody")) == "not_entitled"
    assert life.reason(day(2), seat("ann", "k1", entitlement="unheard-of")) == "unknown_entitlement"
    assert life.reason(day(2), seat("ann", "k2", entitlement="api")) == "wrong_type"
    assert life.reason(day(2), swap("ann", "ben", "k3", entitlement="video")) == "wrong_type"
    assert life.reason(day(2), unseat("ann", "k4")) == "unknown_holder"
    assert life.reason(day(2), swap("ann", "ben", "k5")) == "unknown_holder"
    life.take(day(3), "ann", "ben", "cem")
    assert life.reason(day(4), seat("ann", "k6")) == "seat_taken"
    assert life.reason(day(4), swap("dee", "ann", "k7")) == "seat_taken"
    assert life.reason(day(4), seat("dee", "k8")) == "exhausted"
    life.tell(day(5), dispute_opened())
    assert life.reason(day(6), seat("ann", "k9")) == "suspended"
    assert life.reason(day(6), swap("ann", "dee", "k10")) == "suspended"
    assert life.ask(day(6), unseat("ann", "k11")).is_granted


def test_units_cannot_be_used_or_held_of_seats(life: Told) -> None:
    asked = msgspec.structs.replace(
        consume(1), items=(msgspec.structs.replace(consume(1).items[0], entitlement="desk"),)
    )
    assert life.world.ask(asked, day(2)).reason == "wrong_type"
    assert (
        life.world.ask(msgspec.structs.replace(asked, key="h", hold_seconds=60), day(2)).items[0].reason == "wrong_type"
    )
    life.world.tell((told("u", day(2), used(1, "desk")), day(2)))
    assert [one.reason.value for one in life.world.refused] == ["wrong_type"]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (seat(""), "holder has 0 characters"),
        (seat("a" * 201, "k"), "holder has 201 characters"),
        (seat("a\nb", "k"), "holder has characters that cannot be printed"),
        (swap("ann", "ann"), "to is ann as holder is"),
        (swap("ann", "", "k"), "to has 0 characters"),
        (unseat("ann", entitlement="e" * 101), "entitlement has 101 characters"),
        (seat("ann", "k" * 91), "key has 91 characters"),
    ],
)
def test_what_cannot_be_is_impossible(asked: SeatAsked, problem: str) -> None:
    assert problem in (judge(asked) or "")


def test_more_holders_than_can_be_told_are_refused(life: Told) -> None:
    offered = shop(units=None)
    shown = life.world.picture_of("ada", "desk", day(2))
    many = tuple(f"n{number}" for number in range(HOLDERS_MAX))
    long = tuple(f"{number:0200}" for number in range(HOLDERS_BYTES_MAX // 200))
    for holders in (many, long):
        full = msgspec.structs.replace(shown, unlimited=True, limit=None, remaining=None, holders=holders)
        assert seat_refusal(seat("ann"), offered, full) == "too_many_holders"
        assert seat_refusal(unseat(holders[0]), offered, full) is None
        less = msgspec.structs.replace(full, holders=holders[1:])
        assert seat_refusal(seat("ann"), offered, less) is None
    at_most = msgspec.structs.replace(shown, holders=long)
    assert seat_refusal(swap(long[0], "a" * 200), offered, at_most) is None


def holders_named(count: int, *, bytes_each: int = 200, first: datetime, name: str = "") -> tuple[Holder, ...]:
    """So many, a second after each other, by names of so many bytes."""
    return tuple(
        Holder(f"{name}{number:0{bytes_each - len(name)}}", first + number * timedelta(seconds=1))
        for number in range(count)
    )


def test_holders_of_all_entitlements_of_a_customer_are_bounded_together() -> None:
    world = World(catalogue(*(seats(key) for key in "abcd"), offer("pack", *(gives(None, key) for key in "abcd"))))
    world.tell((told("b", day(1), assigned(3, day(1), entitlement="d")), day(1)))
    ada = world.customers["ada"]
    held = {"a": 2_000, "b": 2_000, "c": 998}
    for key, count in held.items():
        ada.accounts[key] = Account(entitlement=key, holders=holders_named(count, first=day(1)))

    assert world.ask(seat("x" * 200, "k1", entitlement="d"), day(2)).is_granted
    assert world.ask(seat("y" * 199, "k2", entitlement="d"), day(2)).is_granted
    assert world.ask(seat("zz", "k3", entitlement="d"), day(2)).reason == "too_many_holders"
    assert world.ask(swap("y" * 199, "z" * 200, "k4", entitlement="d"), day(2)).is_granted
    assert world.ask(seat("z", "k5", entitlement="d"), day(2)).reason == "too_many_holders"
    assert world.ask(unseat("z" * 200, "k6", entitlement="d"), day(2)).is_granted


@pytest.mark.parametrize("policy", list(OnShrink))
def test_a_merge_takes_the_newest_seats_beyond_what_can_be_told_and_tells_it(policy: OnShrink) -> None:
    world = World(shop(seats(on_shrink=policy), units=None))
    for number, customer in enumerate(("ada", "bob")):
        world.tell((told(f"b{number}", day(1), bought(order=f"o{number}"), customer=customer), day(1)))
    ada, bob = world.customers["ada"], world.customers["bob"]
    theirs = holders_named(2_000, first=day(1))
    others = holders_named(2_000, first=day(1, 1), name="b")
    ada.accounts["desk"] = msgspec.structs.replace(ada.accounts["desk"], holders=theirs)
    bob.accounts["desk"] = msgspec.structs.replace(bob.accounts["desk"], holders=others)

    world.tell((told("m", day(3), merged()), day(3)))

    in_order = sorted((*theirs, *others), key=lambda one: (one.since, one.name))
    assert bob.accounts["desk"].holders == tuple(in_order[:2_000])
    (lost,) = [one.event.fact.holders for one in world.inbox.values() if isinstance(one.event.fact, SeatsRevoked)]
    assert lost == tuple(one.name for one in in_order[2_000:])
    assert [len(change.after.holders or ()) for change in bob.changes[-2:]] == [4_000, 2_000]


def test_beyond_the_bounds_are_the_newest_of_an_entitlement_and_of_the_customer() -> None:
    small, large = holders_named(HOLDERS_MAX + 2, bytes_each=9, first=day(1)), holders_named(2_001, first=day(2))

    assert beyond_bounds({"a": small[:-2], "b": large[:-1]}) == {}
    assert beyond_bounds({"a": small, "b": large}) == {"a": small[-2:], "b": large[-1:]}
    third = holders_named(2_000, first=day(3))
    left = (CUSTOMER_HOLDERS_BYTES_MAX - 9 * HOLDERS_MAX - HOLDERS_BYTES_MAX) // 200
    assert beyond_bounds({"a": small[:-2], "b": large[:-1], "c": third}) == {}
    fourth = holders_named(2_000, first=day(4))
    assert left - 2_000 == 550
    assert beyond_bounds({"a": small[:-2], "b": large[:-1], "c": third, "d": fourth}) == {"d": fourth[550:]}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"rollover_units": 3}, "rollover_units is 3, expected 0 for seats"),
        ({"refund": RefundPolicy.PRORATE}, "refund is prorate, expected another policy for seats"),
        ({"on_change": "prorate"}, "on_change is prorate, expected another policy for seats"),
    ],
)
def test_a_share_of_seats_and_what_is_left_of_them_cannot_be_published(given: dict[str, object], problem: str) -> None:
    allowance = msgspec.convert(
        {"key": "d", "entitlement": "desk", "units": 3, **msgspec.to_builtins(given)}, Allowance
    )
    known = Catalogue(version=0, entitlements={}, offers={})

    assert any(problem in one for one in definition_problems((seats(),), (offer("pack", allowance),), known))


def test_what_becomes_of_holders_is_said_of_seats_alone() -> None:
    known = Catalogue(version=0, entitlements={}, offers={})
    wrong = msgspec.structs.replace(quota(), on_shrink=OnShrink.BLOCK_NEW)

    (problem,) = definition_problems((wrong,), (), known)

    assert problem == "entitlement api: on_shrink is block_new, expected it of an entitlement of type seats only"


# -- fewer seats than holders


def test_by_keep_they_stay_and_it_is_told(life: Told) -> None:
    life.tell(day(1), bought(order="o2"))
    life.take(day(2), "ann", "ben", "cem", "dee")
    life.tell(day(3), refunded("r1", order="o2"))

    assert (life.holders(day(4)), life.counts(day(4))) == ("ann ben cem dee", (3, 4, 0, 1))
    assert life.world.customers["ada"].changes[-1].kinds[-1] == "over_allocated"
    assert life.reason(day(4), seat("eve")) == "exhausted"
    assert life.ask(day(4), swap("ann", "eve")).is_granted
    assert life.evictions() == []


def test_by_block_new_nobody_comes_in_meanwhile_not_even_by_a_swap() -> None:
    life = Told(shop(seats(on_shrink=OnShrink.BLOCK_NEW)))
    life.tell(day(1), bought())
    life.tell(day(1), bought(order="o2"))
    life.take(day(2), "ann", "ben", "cem", "dee")
    life.tell(day(3), refunded("r1", order="o2"))

    assert life.reason(day(4), seat("eve", "k1")) == "over_allocated"
    assert life.reason(day(4), swap("ann", "eve", "k2")) == "over_allocated"
    life.ask(day(5), unseat("dee"))
    assert life.reason(day(6), seat("eve", "k3")) == "exhausted"
    assert life.ask(day(6), swap("ann", "eve", "k4")).is_granted


def test_by_revoke_newest_the_newest_lose_their_seats_right_behind_and_are_told() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought())
    life.tell(day(1), bought(order="o2"))
    life.take(day(2), "ann", "ben", "cem", "dee", "eve")
    life.ask(day(2, 1), swap("ann", "fay"))
    life.tell(day(3), refunded("r1", order="o2"))

    assert (life.holders(day(3)), life.counts(day(3))) == ("fay ben cem", (3, 3, 0, 0))
    assert life.evictions() == [("dee", "eve")]
    refund, eviction = life.world.customers["ada"].changes[-2:]
    assert (refund.after.over_allocated, eviction.kinds) == (2, ("holders", "over_allocated"))
    assert (eviction.cause.type, eviction.cause.event_source) == ("SeatsRevoked", "ledger")
    assert eviction.recorded_at == refund.recorded_at + MICROSECOND
    assert eviction.posting == refund.posting + 1


def test_who_was_evicted_does_not_come_back_by_himself() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought())
    life.take(day(2), "ann")
    life.tell(day(3), refunded())
    assert life.holders(day(4)) == ""

    life.tell(day(4), bought(order="o2"))

    assert (life.holders(day(5)), life.counts(day(5))) == ("", (3, 0, 3, 0))


def test_a_suspension_takes_nobodys_seat() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought())
    life.take(day(2), "ann")
    life.tell(day(3), dispute_opened())

    shown = life.world.picture_of("ada", "desk", day(4))
    assert (shown.allowed, shown.reason, shown.limit, shown.holders, shown.over_allocated) == (
        False,
        "suspended",
        0,
        ("ann",),
        0,
    )


@pytest.mark.parametrize("clock", ["none", "runs", "comes back"])
def test_an_ending_evicts_whoever_books_it_and_whenever(clock: str) -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought(line(quantity=1)))
    life.tell(day(1), activated(day(1), day(11), item("big")))
    life.take(day(2), "a", "b", "c", "d", "e")
    if clock == "runs":
        life.pass_to(day(11, 1))
        assert life.evictions() == [("d", "e")]
    if clock == "comes back":
        life.pass_to(day(18))

    assert (life.holders(day(19)), life.counts(day(19))) == ("a b c", (3, 3, 0, 0))
    life.tell(day(19), bought(order="o2"))
    assert (life.holders(day(20)), life.evictions()) == ("a b c", [("d", "e")])


@pytest.mark.parametrize("told_at", [9, 11, 12])
def test_a_renewal_takes_nobodys_seat_also_one_told_within_the_leeway(told_at: int) -> None:
    offered = catalogue(EVICTS, offer("plan", gives(2, "desk")))
    life = Told(offered)
    life.tell(day(1), activated(day(1), day(11), item("plan")))
    life.take(day(2), "ann", "ben")
    if told_at > 11:
        life.pass_to(day(11, 12))
    life.tell(day(told_at) - MICROSECOND, renewed(day(11), day(21)))
    life.pass_to(day(13))

    assert (life.holders(day(13)), life.evictions()) == ("ann ben", [])
    life.pass_to(day(23))
    assert (life.holders(day(23)), life.evictions()) == ("", [("ann", "ben")])


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_a_clock_that_stops_between_two_of_one_instant_evicts_nobody(at_once: int) -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), activated(day(1), day(11), item("plan")))
    life.take(day(2), "ann", "ben")
    life.tell(day(3), renewed(day(11), day(21)))

    for _ in range(5):
        life.world.catch_up(day(12), "ada", at_most=at_once)
    assert_all(life.world)

    assert (life.holders(day(12)), life.evictions()) == ("ann ben", [])


def test_fewer_of_a_quantity_or_a_smaller_plan_evicts_at_that_instant() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), activated(day(1), day(11), item("big", 2)))
    life.take(day(2), *"abcdefgh")
    life.tell(day(3), quantity_changed(1, day(3)))
    assert life.holders(day(4)) == "a b c d e"

    life.tell(day(4), plan_changed("plan", day(6), change="c2"))
    assert life.holders(day(5)) == "a b c d e"
    life.pass_to(day(6, 1))
    assert life.holders(day(7)) == "a b c"


def test_a_bigger_plan_evicts_nobody() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), activated(day(1), day(11), item("plan")))
    life.take(day(2), "ann", "ben", "cem")
    life.tell(day(3), plan_changed("big", day(3)))

    assert (life.holders(day(4)), life.counts(day(4))) == ("ann ben cem", (5, 3, 2, 0))


def test_seats_given_by_hand_end_by_hand() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), assigned(2, day(1), entitlement="desk"))
    life.take(day(2), "ann", "ben")
    life.tell(day(3), assignment_revoked(day(3)))

    assert (life.holders(day(4)), life.evictions()) == ("", [("ann", "ben")])


# -- several customers


def test_a_transfer_takes_the_seats_along_and_leaves_the_holders() -> None:
    life = Told(shop())
    life.tell(day(1), bought())
    life.take(day(2), "ann")
    life.tell(day(3), order_transferred())

    assert (life.holders(day(4)), life.counts(day(4))) == ("ann", (0, 1, 0, 1))
    assert (life.holders(day(4), "bob"), life.counts(day(4), "bob")) == ("", (3, 0, 3, 0))


def test_a_transfer_evicts_at_the_giver_alone() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought())
    life.tell(day(1), bought(order="o2"), customer="bob")
    life.take(day(2), "ann")
    life.take(day(2), "bea", customer="bob")
    life.tell(day(3), order_transferred())

    assert (life.holders(day(4)), life.holders(day(4), "bob")) == ("", "bea")
    assert life.counts(day(4), "bob") == (6, 1, 5, 0)


def test_a_merge_brings_the_holders_together_and_who_is_met_twice_once() -> None:
    life = Told(shop())
    life.tell(day(1), bought())
    life.tell(day(1), bought(order="o2"), customer="bob")
    life.take(day(2), "ann", "cem")
    life.take(day(2, 1), "ben", "ann", customer="bob")
    life.tell(day(3), merged())

    assert (life.holders(day(4), "bob"), life.counts(day(4), "bob")) == ("ann cem ben", (6, 3, 3, 0))
    assert life.world.customers["ada"].accounts["desk"].holders == ()
    assert life.ask(day(4), seat("dee")).is_granted
    assert life.ask(day(5), unseat("cem")).is_granted
    assert life.holders(day(6), "bob") == "ann ben dee"


def test_a_merge_evicts_whom_it_brings_beyond_the_seats() -> None:
    life = Told(shop(EVICTS))
    life.tell(day(1), bought())
    life.tell(day(1), bought(order="o2"), customer="bob")
    life.take(day(2), "a", "b", "c")
    life.take(day(2, 1), "d", "e", "f", customer="bob")
    life.tell(day(3), merged())
    assert life.holders(day(4), "bob") == "a b c d e f"

    life.tell(day(5), refunded())

    assert (life.holders(day(6), "bob"), life.evictions("bob")) == ("a b c", [("d", "e", "f")])


# -- random lives and worlds


def with_seats(number: int, history: History) -> tuple[History, OnShrink]:
    """The same facts, with seats that offers give now and then, and that are given by hand instead of video."""
    chance = Random(f"seats of {number}")
    on_shrink = chance.choice([OnShrink.KEEP, OnShrink.BLOCK_NEW, OnShrink.REVOKE_NEWEST, OnShrink.REVOKE_NEWEST])

    def given() -> tuple[Allowance, ...]:
        return tuple(
            Allowance(
                key=f"desk-{place}",
                entitlement="desk",
                units=chance.choice([1, 2, 2, 3, 0, None] if chance.random() < 0.3 else [1, 2, 3]),
                lasts=chance.choice(["period", "period", "forever", "P3D"]),
                refund=chance.choice([RefundPolicy.UNUSED_ONLY, RefundPolicy.FULL_WITH_DEBT]),
                on_cancel=chance.choice([OnCancel.FORFEIT, OnCancel.KEEP]),
                leeway_seconds=chance.choice([86_400, 0, 21_600]),
                grace_seconds=chance.choice([86_400, 0]),
                extend_on_won=chance.random() < 0.5,
            )
            for place in range(chance.choice([1, 1, 2]))
        )

    offers = {
        sku: tuple(msgspec.structs.replace(version, allowances=(*version.allowances, *given())) for version in versions)
        for sku, versions in history.catalogue.offers.items()
    }
    entitlements = {**history.catalogue.entitlements, "desk": seats(on_shrink=on_shrink)}

    def by_hand(event: Event) -> Event:
        fact = event.fact
        if not isinstance(fact, EntitlementAssigned) or number % 3:
            return event
        units = chance.choice([1, 2, 3, None])
        fact = msgspec.structs.replace(fact, entitlement="desk", units=units, value=None)
        return msgspec.structs.replace(event, fact=fact)

    offered = msgspec.structs.replace(history.catalogue, entitlements=entitlements, offers=offers)
    # What was told again is the same again.
    replaced = {event.event_id: by_hand(event) for event, _ in history.told}
    facts = tuple(
        (msgspec.structs.replace(event, fact=replaced[event.event_id].fact), at) for event, at in history.told
    )
    return History(offered, facts), on_shrink


class Also(Protocol):
    """Another ledger that is told and asked the same."""

    def tell(self, *told: tuple[Event, datetime]) -> object: ...

    def ask(self, now: datetime, *asked: Asked) -> tuple[Answer, ...]: ...


def lived(number: int, *, is_clock_running: bool = True, also: Also | None = None) -> World:
    """The life (even) or world (odd) of that number, told event by event, with seats asked for in between.

    While a clock runs everything is checked after each step.
    """
    chance = Random(number)
    history, _ = with_seats(number, world_of(number) if number % 2 else history_of(number))
    world = World(history.catalogue, timedelta(days=365))
    now = history.told[0][1]
    for place, (event, told_at) in enumerate(history.told):
        # Never before what was asked last: with a clock that would be behind what it has booked, without one before.
        now = max(now, told_at)
        world.tell((event, now))
        if also is not None:
            also.tell((event, now))
        if is_clock_running:
            checked(world, now)
        for again in range(chance.randint(0, 4)):
            now += chance.choice([timedelta(milliseconds=1), TICK / 10, TICK + timedelta(milliseconds=1)])
            answer = ask(world, chance, f"k{place}-{again}", now)
            assert also is None or also.ask(now, answer[0]) == (answer[1],)
            if is_clock_running:
                checked(world, now)
    if also is None:
        checked(world, AFTER_ALL)
    return world


def checked(world: World, now: datetime) -> None:
    """What is due is booked of all, so that nobody's seat is left to be lost, and everything holds."""
    for customer_id in tuple(world.customers):
        # Never at the very instant at which something falls due: that is recorded just before it.
        world.catch_up(now + timedelta(milliseconds=1), customer_id)
    assert_all(world)


def ask(world: World, chance: Random, key: str, now: datetime) -> tuple[SeatAsked, Answer]:
    """Somebody asks about a seat; what is granted is what the picture before it allows, and all else stays."""
    customer_id = chance.choice(sorted(world.customers))
    tied = (customer_id, *world.customers[customer_id].head.linked)
    last = max((head.recorded_at for each in tied if (head := world.customers[each].head).recorded_at), default=now)
    at = max(now, last + MICROSECOND)
    user = goes_on_as(customer_id, world.merges(), at)
    before = world.picture_of(user, "desk", at)
    names = before.holders or ()
    some = chance.choice(names) if names and chance.random() < 0.8 else "nobody"
    new = chance.choice([name for name in "abcdefgh" if name != some])
    named = {"caller": "team", "key": key, "customer_id": customer_id, "entitlement": "desk"}
    assign, unassign = AssignSeat(**named, holder=new), UnassignSeat(**named, holder=some)
    could_ask: list[SeatAsked] = [assign, assign, unassign, SwapSeat(**named, holder=some, to=new)]
    asked = chance.choice(could_ask)

    answer = world.ask(asked, now)

    after = world.picture_of(user, "desk", answer.recorded_at)
    is_known, is_new = some in names, new not in names
    if isinstance(asked, UnassignSeat):
        assert answer.is_granted is is_known
        assert after.holders == tuple(name for name in names if name != some)
    elif isinstance(asked, AssignSeat):
        is_left = before.unlimited or bool(before.remaining)
        assert answer.is_granted is (before.allowed and is_new and is_left)
        assert after.holders == ((*names, new) if answer.is_granted else names)
    else:
        is_blocked = bool(before.over_allocated) and world.catalogue.entitlements["desk"].on_shrink == "block_new"
        assert answer.is_granted is (before.allowed and is_new and is_known and not is_blocked)
        swapped = tuple(new if name == some else name for name in names)
        assert after.holders == (swapped if answer.is_granted else names)
    return asked, answer


@pytest.mark.parametrize("number", range(2 * 860_000, 2 * 860_000 + 2 * LIVED))
def test_random_lives_and_worlds_hold_every_claim(number: int) -> None:
    lived(number)


@pytest.mark.parametrize("number", range(2 * 870_000, 2 * 870_000 + LIVED))
def test_whether_a_clock_runs_takes_and_leaves_nobodys_seat(number: int) -> None:
    awake, asleep = lived(number), lived(number, is_clock_running=False)

    assert [(one.key, one.reason) for one in awake.answers.values()] == [
        (one.key, one.reason) for one in asleep.answers.values()
    ]
    for customer_id, customer in awake.customers.items():
        holders = {key: [one.name for one in account.holders] for key, account in customer.accounts.items()}
        others = asleep.customers[customer_id].accounts
        assert holders == {key: [one.name for one in others[key].holders] for key in holders}


def test_random_lives_have_everything_that_can_become_of_a_seat() -> None:
    worlds = [lived(number) for number in range(2 * 860_000, 2 * 860_000 + 80)]
    answers = [answer for world in worlds for answer in world.answers.values()]
    facts = {type(one.event.fact) for world in worlds for one in world.inbox.values()}

    reasons = {answer.reason for answer in answers}
    assert {None, "exhausted", "seat_taken", "unknown_holder", "expired", "suspended"} <= reasons
    assert {SeatAssigned, SeatUnassigned, SeatsRevoked} <= facts
    merged_holders = [world for world in worlds if world.merges() and any(_has_seats(world))]
    assert merged_holders


def _has_seats(world: World) -> Sequence[bool]:
    return [isinstance(one.event.fact, SeatFact) for one in world.inbox.values()]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_thousand_lives_with_seats_hold_every_claim(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


def hold_every_claim(number: int) -> None:
    lived(number)


def test_holders_are_as_decided_whatever_settling_finds() -> None:
    since = (day(1), day(2))
    held = (Holder("ann", since[0]), Holder("ben", since[1]))

    assert holders_after(held, SeatsRevoked(entitlement="desk", holders=("ben",)), day(3)) == held[:1]
