"""What becomes of events: refusals and outcomes in their order, what falls due, and what is told."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from ledger_worker.domain.catalogue import Catalogue, DebtPolicy, LimitPolicy, OveragePolicy, RefundPolicy
from ledger_worker.domain.changes import Change
from ledger_worker.domain.decide import DUE_MAX, book_due, decide
from ledger_worker.domain.decided import Decided, Loaded, LoadedCustomer, Told, TooManyDue
from ledger_worker.domain.events import Event, Fact, TransitionsDue, content_hash, event_key, fact_bytes
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from tests.domain.agreement import assert_all
from tests.domain.driver import SETTLEMENT_WINDOW, USAGE_KEPT, Life, World
from tests.domain.telling import (
    MICROSECOND,
    MINUTE,
    PACK_OF_TEN,
    access,
    activated,
    bought,
    cancelled,
    catalogue,
    day,
    gives,
    item,
    line,
    offer,
    quota,
    refunded,
    renewed,
    told,
    used,
)

Step = tuple[datetime, Fact]

PLAN = catalogue(quota(), offer("plan", gives(10)))


def lived(offered: Catalogue, *steps: Step) -> Life:
    """A life in which each step is told when it happened."""
    life = Life(offered)
    for number, (at, fact) in enumerate(steps):
        life.tell((told(f"e{number}", at, fact), at))
        assert_all(life)
    return life


def refusal(life: Life, event: Event, now: datetime) -> DeadLetterReason | None:
    decided = life.tell((event, now))
    return decided.refused[0].reason if decided.refused else None


# -- the same event again


def test_the_same_event_again_is_a_duplicate_and_leaves_nothing() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()))

    decided = life.tell((told("e0", day(1), bought()), day(5)))

    assert (decided.duplicates, decided.events, decided.customers) == ((0,), (), {})


def test_the_same_event_twice_in_one_batch_is_applied_once() -> None:
    life = Life(PACK_OF_TEN)

    decided = life.tell((told("u", day(1), used(3)), day(1)), (told("u", day(1), used(3)), day(1)))

    assert (len(decided.events), decided.duplicates) == (1, (1,))


@pytest.mark.parametrize(
    "other",
    [
        told("u", day(1), used(4)),
        told("u", day(1) + MICROSECOND, used(3)),
        told("u", day(1), used(3, "video")),
        told("u", day(1), bought()),
    ],
)
def test_the_same_id_with_other_content_is_never_applied(other: Event) -> None:
    life = Life(PACK_OF_TEN)

    decided = life.tell((told("u", day(1), used(3)), day(1)), (other, day(1)))

    assert [refused.reason for refused in decided.refused] == [DeadLetterReason.CONFLICTING_CONTENT]
    assert refusal(life, other, day(2)) is DeadLetterReason.CONFLICTING_CONTENT
    assert life.accounts["api"].usage == 3


def test_the_same_id_of_another_source_system_is_another_event() -> None:
    life = Life(PACK_OF_TEN)

    decided = life.tell((told("u", day(1), used(3)), day(1)), (told("u", day(1), used(3), source="meter"), day(1)))

    assert len(decided.events) == 2


def test_a_version_is_part_of_the_content() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()))

    assert refusal(life, told("e0", day(1), bought(), version=1), day(1)) is DeadLetterReason.CONFLICTING_CONTENT


# -- refusals


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (told("x", day(500) + 5 * MINUTE, used(1)), None),
        (told("x", day(500) + 5 * MINUTE + MICROSECOND, used(1)), DeadLetterReason.TOO_EARLY),
        (told("x", day(500) + 6 * MINUTE, bought()), DeadLetterReason.TOO_EARLY),
        (told("x", day(500) - USAGE_KEPT, used(1)), None),
        (told("x", day(500) - USAGE_KEPT - MICROSECOND, used(1)), DeadLetterReason.TOO_LATE),
        (told("x", day(500) - 2 * USAGE_KEPT, bought()), None),
        (told("x", day(500), used(1, "unheard-of")), DeadLetterReason.UNKNOWN_ENTITLEMENT),
        (told("x", day(500), used(1, "video")), DeadLetterReason.WRONG_TYPE),
        # The first that applies is given.
        (told("x", day(501), used(1, "unheard-of")), DeadLetterReason.TOO_EARLY),
        (told("x", day(2), used(1, "unheard-of")), DeadLetterReason.TOO_LATE),
        (told("x", day(2), used(1, "video")), DeadLetterReason.TOO_LATE),
        (told("x", day(501), used(1, "video")), DeadLetterReason.TOO_EARLY),
    ],
)
def test_what_cannot_be_applied_is_refused_with_the_first_reason_that_applies(
    event: Event, reason: DeadLetterReason | None
) -> None:
    life = Life(catalogue(quota(), access(), offer("pack", gives(10, lasts="forever"))))

    assert refusal(life, event, day(500)) is reason


def test_a_conflict_is_told_before_anything_else_that_is_wrong() -> None:
    life = lived(PACK_OF_TEN, (day(1), used(1)))

    assert refusal(life, told("e0", day(900), used(1, "unheard-of")), day(2)) is DeadLetterReason.CONFLICTING_CONTENT


def test_a_duplicate_that_would_be_too_late_now_is_a_duplicate() -> None:
    life = lived(PACK_OF_TEN, (day(1), used(1)))

    assert life.tell((told("e0", day(1), used(1)), day(1000))).duplicates == (0,)


def test_a_refused_event_leaves_nothing_and_may_be_sent_again_corrected() -> None:
    life = Life(PACK_OF_TEN)

    assert refusal(life, told("u", day(1), used(1, "unheard-of")), day(1)) is DeadLetterReason.UNKNOWN_ENTITLEMENT
    assert (life.head.recorded_at, life.inbox) == (None, {})
    assert life.outcome_of(told("u", day(1), used(1)), day(1)) is Outcome.APPLIED


def test_a_refused_event_leaves_its_neighbours_alone() -> None:
    life = Life(PACK_OF_TEN)

    decided = life.tell(
        (told("a", day(1), used(1)), day(1)),
        (told("b", day(1), used(1, "unheard-of")), day(1)),
        (told("c", day(1), used(1)), day(1)),
    )

    assert ([event.told for event in decided.events], [one.told for one in decided.refused]) == ([0, 2], [1])


def test_a_message_says_what_came_and_what_was_expected() -> None:
    life = Life(PACK_OF_TEN)

    (refused,) = life.tell((told("u", day(1), used(1, "unheard-of")), day(1))).refused

    assert refused.message == "entitlement unheard-of is not in the catalogue, expected one that is published"


# -- whose source it is


def test_a_fact_about_a_source_of_another_customer_is_kept_and_not_folded() -> None:
    world = World(PACK_OF_TEN)
    world.tell((told("p", day(1), bought()), day(1)))

    decided = world.tell((told("r", day(2), refunded(), customer="bob"), day(2)))

    assert [event.outcome for event in decided.events] == [Outcome.AWAITING_TRANSFER]
    assert (decided.customers["bob"].postings, world.customer("bob").grants) == ((), {})
    state = decided.sources["order/o1"]
    assert ([fact.event_id for _, fact in state.facts], [fact.event_id for fact in state.others]) == (["p"], ["r"])
    assert world.tell((told("r", day(2), refunded(), customer="bob"), day(3))).duplicates == (0,)


# -- instants and numbers


def test_instants_of_a_customer_strictly_increase_also_when_the_clock_stands_or_goes_back() -> None:
    life = Life(PACK_OF_TEN)

    life.tell(*[(told(f"u{n}", day(1), used(1)), day(2)) for n in range(3)])
    life.tell((told("u3", day(1), used(1)), day(1)))

    assert [decided.recorded_at for decided in life.inbox.values()] == [day(2) + n * MICROSECOND for n in range(4)]


def test_each_posting_is_chained_to_the_one_before_it() -> None:
    one = lived(PACK_OF_TEN, (day(1), bought()), (day(2), used(1)), (day(3), used(1)))
    other = lived(PACK_OF_TEN, (day(1), bought()), (day(2), used(2)), (day(3), used(1)))

    assert one.postings[0].hash == other.postings[0].hash
    assert one.postings[1].hash != other.postings[1].hash
    assert one.postings[2].hash != other.postings[2].hash
    assert one.head.chain_head == one.postings[-1].hash


def test_an_event_without_effect_makes_no_posting() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()))

    decided = life.tell((told("again", day(2), bought()), day(2)))

    assert ([event.outcome for event in decided.events], decided.customers["ada"].postings) == (
        [Outcome.DUPLICATE_FACT],
        (),
    )


# -- what falls due


def test_an_end_is_booked_before_the_event_that_finds_it() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))))

    decided = life.tell((told("u", day(20), used(3)), day(20)))

    assert [type(event.event.fact).__name__ for event in decided.events] == ["TransitionsDue", "UsageRecorded"]
    assert [event.recorded_at for event in decided.events] == [day(20) - MICROSECOND, day(20)]
    assert life.accounts["api"].overage == 3


def test_what_is_due_goes_by_instant_then_kind_then_subject() -> None:
    offered = catalogue(
        quota(),
        quota("sms"),
        offer("plan", gives(10, leeway_seconds=0), gives(5, "sms", leeway_seconds=0)),
        offer("pack", gives(10, lasts="P10D")),
    )
    life = lived(
        offered,
        (day(1), activated(day(1), day(11))),
        (day(1), bought()),
        (day(2), renewed(day(11), day(21))),
        (day(3), bought(line(line_id="l3"), order="o3")),
    )

    life.catch_up(day(14))

    facts = [event.event.fact for event in life.inbox.values() if isinstance(event.event.fact, TransitionsDue)]
    order = [(fact.instant, fact.kind, hex_of(fact)) for fact in facts]
    ends = sorted(hex_of(fact) for fact in facts if (fact.instant, fact.kind) == (day(11), "end"))
    begins = sorted(hex_of(fact) for fact in facts if (fact.instant, fact.kind) == (day(11), "begin"))
    assert (len(ends), len(begins)) == (3, 2)
    assert order == [
        *((day(11), "end", subject) for subject in ends),
        *((day(11), "begin", subject) for subject in begins),
        (day(13), "end", order[-1][2]),
    ]


def test_the_same_end_has_the_same_id_whoever_books_it_and_when() -> None:
    by_clock, by_usage = (lived(PLAN, (day(1), activated(day(1), day(11)))) for _ in range(2))

    by_clock.catch_up(day(12))
    by_usage.tell((told("u", day(30), used(1)), day(30)))

    ids = [
        [event.event.event_id for event in life.inbox.values() if event.told is None] for life in (by_clock, by_usage)
    ]
    assert ids[0] == ids[1] == ["86c41637-6f39-588f-8c9a-500abb5142b0"]


def test_an_end_booked_then_moved_away_and_moved_back_is_told_again() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))))
    life.catch_up(day(13))
    life.tell((told("r", day(11), renewed(day(11), day(21), item(item_id="i1"))), day(14)))
    life.tell((told("c", day(11), cancelled(day(11))), day(15)))

    told_ends = [change for change in life.changes if change.before.allowed and not change.after.allowed]
    assert [change.cause.type for change in told_ends] == ["TransitionsDue", "SubscriptionCancelled"]
    assert_all(life)


def test_a_transition_of_which_nothing_comes_makes_neither_posting_nor_event() -> None:
    """The end of a period that was used up while another of the same access goes on, told to nobody."""
    offered = catalogue(
        access(), offer("pack", gives(None, "video", lasts="P1D"), gives(None, "video", key="long", lasts="P5D"))
    )
    life = lived(offered, (day(1), bought()))

    decided = life.catch_up(day(3))

    assert (decided.events, decided.customers["ada"].postings, decided.customers["ada"].changes) == ((), (), ())
    assert life.catch_up(day(3)).customers["ada"].accounts == ()


def many_due(packs: int) -> tuple[Life, Catalogue]:
    """A customer for whom `packs` ends are due on the second day."""
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P1D")))
    life = Life(offered)
    lines = tuple(line(line_id=f"l{number}") for number in range(packs))
    life.tell((told("p", day(1), bought(*lines)), day(1)))
    return life, offered


def loaded(life: Life) -> Loaded:
    customer = LoadedCustomer(head=life.head, accounts=life.accounts, grants=life.open_grants("api"), histories={})
    return Loaded(customers={"ada": customer}, sources=life.sources, claimants=life.claimants)


def as_told(event: Event, now: datetime) -> Told:
    payload = fact_bytes(event.fact)
    return Told(
        event=event,
        key=event_key(event.event_source, event.event_id),
        content_hash=content_hash(event, payload),
        payload=payload,
        now=now,
    )


@pytest.mark.parametrize(("packs", "count"), [(DUE_MAX, None), (DUE_MAX + 1, DUE_MAX + 1)])
def test_more_than_a_hundred_due_are_booked_apart(packs: int, count: int | None) -> None:
    life, offered = many_due(packs)

    found = decide(
        loaded(life),
        [as_told(told("u", day(3), used(1)), day(3))],
        offered,
        timeline=1,
        usage_kept=USAGE_KEPT,
        settlement_window=SETTLEMENT_WINDOW,
    )

    assert found == TooManyDue(customer_id="ada", count=count, now=day(3)) if count else isinstance(found, Decided)


def test_a_hundred_at_most_are_booked_at_once_and_the_earliest_first() -> None:
    life, offered = many_due(250)

    found = book_due(loaded(life), "ada", day(3), offered, timeline=1)

    assert isinstance(found, Decided)
    assert len(found.events) == DUE_MAX
    ended = [hex_of(event.event.fact) for event in found.events if isinstance(event.event.fact, TransitionsDue)]
    assert ended == sorted(grant.terms.grant_id.hex for grant in life.grants.values())[:DUE_MAX]


def test_two_hundred_and_fifty_due_are_booked_before_the_event_at_hand() -> None:
    life, _ = many_due(250)

    life.tell((told("u", day(3), used(1)), day(3)))

    assert [grant.phase.value for grant in life.grants.values()] == ["ended"] * 250
    assert life.accounts["api"].overage == 1
    assert_all(life)


# -- what is told


def changes_of(offered: Catalogue, *steps: Step) -> list[Change]:
    return lived(offered, *steps).changes


def test_a_tick_that_flips_nothing_is_booked_and_not_told() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()), (day(2), used(1)))

    assert (len(life.postings), len(life.changes)) == (2, 1)


@pytest.mark.parametrize(
    ("thresholds", "units", "levels"),
    [
        ((80, 100), [7, 1, 1, 1, 1], [(0, 80), (80, 100)]),
        ((80, 100), [10], [(0, 100)]),
        ((50, 80, 100, 150), [5, 4, 1, 4, 1], [(0, 50), (50, 80), (80, 100), (100, 150)]),
        ((), [9], []),
        ((1,), [1], [(0, 1)]),
    ],
)
def test_each_threshold_is_told_once_when_it_is_reached(
    thresholds: tuple[int, ...], units: list[int], levels: list[tuple[int, int]]
) -> None:
    offered = catalogue(quota(thresholds=thresholds), offer("pack", gives(10, lasts="forever")))
    steps: list[Step] = [(day(2, hours), used(one)) for hours, one in enumerate(units)]

    changes = changes_of(offered, (day(1), bought()), *steps)

    assert [(change.before.level, change.after.level) for change in changes if "level" in change.kinds] == levels


def test_a_level_falls_when_more_is_granted_and_is_told_again_when_reached_again() -> None:
    changes = changes_of(
        PACK_OF_TEN,
        (day(1), bought()),
        (day(2), used(8)),
        (day(3), bought(line(line_id="l2"), order="o2")),
        (day(4), used(8)),
    )

    assert [change.after.level for change in changes] == [0, 80, 0, 80]


@pytest.mark.parametrize(("units", "level"), [(0, 0), (1, 100)])
def test_a_limit_of_nothing_has_no_level_until_something_is_used(units: int, level: int) -> None:
    offered = catalogue(quota(), offer("pack", gives(0, lasts="forever")))
    steps: list[Step] = [(day(2), used(units))] if units else []

    life = lived(offered, (day(1), bought()), *steps)

    assert life.picture("api", day(3)).level == level


def test_an_unlimited_quota_has_no_level() -> None:
    offered = catalogue(quota(), offer("pack", gives(None, lasts="forever")))
    life = lived(offered, (day(1), bought()), (day(2), used(500)))

    assert (life.picture("api", day(3)).level, len(life.changes)) == (None, 1)


def test_overage_is_told_when_it_begins_and_not_as_it_grows() -> None:
    offered = catalogue(quota(limit=LimitPolicy.SOFT, thresholds=()), offer("pack", gives(10, lasts="forever")))
    life = lived(offered, (day(1), bought()), (day(2), used(10)), (day(3), used(1)), (day(4), used(1)))

    assert [(change.kinds, change.after.overage) for change in life.changes[1:]] == [(("overage",), 1)]


def test_overage_is_told_when_it_ceases() -> None:
    offered = catalogue(quota(overage=OveragePolicy.CARRY), offer("pack", gives(10, lasts="forever")))

    changes = changes_of(
        offered, (day(1), bought()), (day(2), used(13)), (day(3), bought(line(line_id="l2"), order="o2"))
    )

    assert [("overage" in change.kinds, change.after.overage) for change in changes] == [
        (False, 0),
        (True, 3),
        (True, 0),
    ]


def test_debt_is_told_when_it_begins_and_when_it_ceases_and_blocks_meanwhile() -> None:
    offered = catalogue(
        quota(debt=DebtPolicy.BLOCK), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
    )

    changes = changes_of(
        offered,
        (day(1), bought()),
        (day(2), bought(line(line_id="l2"), order="o2")),
        (day(3), used(6)),
        (day(4), refunded()),
        (day(5), bought(line(line_id="l3"), order="o3")),
    )

    assert [(change.after.debt, change.after.allowed, change.after.reason) for change in changes[-2:]] == [
        (6, False, "in_debt"),
        (0, True, "allowed"),
    ]


def test_one_change_is_told_for_each_entitlement_that_an_event_changed() -> None:
    offered = catalogue(
        quota(), access(), offer("pack", gives(10, lasts="forever"), gives(None, "video", lasts="forever"))
    )

    changes = changes_of(offered, (day(1), bought()))

    assert [(change.sequence, change.entitlement, change.posting) for change in changes] == [
        (1, "api", 1),
        (2, "video", 1),
    ]


def test_a_change_says_what_it_was_and_is_and_why() -> None:
    life = Life(PACK_OF_TEN)
    life.tell((told("p", day(1), bought()), day(2)))

    (change,) = life.changes

    assert (change.kinds, change.before.state, change.after.state) == (
        ("access", "allocation", "limit", "state"),
        "none",
        "active",
    )
    assert (change.cause.event_source, change.cause.event_id, change.cause.type) == (
        "commerce",
        "p",
        "PurchaseCompleted",
    )
    assert (change.effective_at, change.recorded_at) == (day(1), day(2))
    assert (change.posting, change.posting_hash) == (1, life.postings[0].hash)
    assert not change.correction


def test_a_posting_that_takes_something_booked_back_is_a_correction() -> None:
    changes = changes_of(PLAN, (day(1), activated(day(1), day(11))), (day(13), used(4)))
    assert not any(change.correction for change in changes)

    life = lived(PLAN, (day(1), activated(day(1), day(11))), (day(13), used(4)))
    life.tell((told("r", day(11, 6), renewed(day(11), day(21))), day(14)))

    assert life.changes[-1].correction
    assert life.changes[-1].effective_at == day(11)


@pytest.mark.parametrize(
    ("steps", "state", "reason", "is_allowed"),
    [
        ([], "none", "not_entitled", False),
        ([(day(1), activated(day(3), day(13)))], "pending", "not_yet_active", False),
        ([(day(1), activated(day(1), day(11)))], "active", "allowed", True),
        ([(day(1), activated(day(1), day(11))), (day(2), used(10))], "exhausted", "exhausted", False),
        ([(day(1), activated(day(1), day(2))), (day(1, 1), cancelled(day(2)))], "expired", "expired", False),
        (
            [
                (day(1), activated(day(1), day(2))),
                (day(1, 1), cancelled(day(2))),
                (day(1, 2), activated(day(4), day(9))),
            ],
            "pending",
            "not_yet_active",
            False,
        ),
        ([(day(1), bought()), (day(2), refunded())], "revoked", "revoked", False),
    ],
)
def test_the_state_gives_the_first_reason_that_is_true(
    steps: list[Step],
    state: str,
    reason: str,
    is_allowed: bool,  # noqa: FBT001 -- a column of the table
) -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("pack", gives(10, lasts="forever")))

    shown = lived(offered, *steps).picture("api", day(2, 12))

    assert (shown.state, shown.reason, shown.allowed) == (state, reason, is_allowed)


def test_a_soft_limit_allows_beyond_it() -> None:
    offered = catalogue(quota(limit=LimitPolicy.SOFT), offer("pack", gives(10, lasts="forever")))

    shown = lived(offered, (day(1), bought()), (day(2), used(14))).picture("api", day(3))

    assert (shown.allowed, shown.used, shown.remaining, shown.overage) == (True, 10, 0, 4)


def test_a_picture_ends_when_the_last_of_what_is_in_force_ends() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("pack", gives(10, lasts="P30D")))

    shown = lived(offered, (day(1), activated(day(1), day(11))), (day(2), bought())).picture("api", day(3))

    assert (shown.expires_at, shown.period_end, shown.starts_at) == (day(32), day(11), day(1))


def test_the_ledgers_own_events_are_not_taken_from_outside() -> None:
    forged = TransitionsDue(entitlement="api", instant=day(1), kind="end", grant_id=UUID(int=1))

    with pytest.raises(TypeError, match="cannot be told from outside"):
        Life(PACK_OF_TEN).tell((told("x", day(1), forged), day(1)))


# -- a catalogue that grows


def test_a_sku_offered_later_gives_to_its_old_orders_with_their_next_fact() -> None:
    nothing = catalogue(quota())
    life = Life(nothing)
    assert life.outcome_of(told("p", day(1), bought()), day(1)) is Outcome.NO_OFFER

    life.catalogue = catalogue(quota(), offer("pack", gives(10, lasts="forever"), catalogue_version=2), version=2)
    life.tell((told("r", day(3), refunded(quantity=1)), day(3)))

    assert [(grant.granted, grant.revoked) for grant in life.grants.values()] == [(10, 10)]
    assert_all(life)


def test_a_new_version_of_an_offer_leaves_what_was_bought_before() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()))

    life.catalogue = catalogue(
        quota(),
        offer("pack", gives(10, lasts="forever")),
        offer("pack", gives(99, lasts="forever"), version=2, published_at=day(2), catalogue_version=2),
        version=2,
    )
    life.tell((told("p2", day(3), bought(line(quantity=2))), day(3)))
    life.tell((told("p3", day(3), bought(order="o2")), day(4)))

    assert sorted((grant.terms.source_key, grant.granted) for grant in life.grants.values()) == [
        ("order/o1", 20),
        ("order/o2", 99),
    ]
    assert_all(life)


def test_every_posting_names_the_catalogue_and_the_rules_that_made_it() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()))
    life.catalogue = msgspec.structs.replace(PACK_OF_TEN, version=7)
    life.tell((told("u", day(2), used(1)), day(2)))

    assert [(posting.catalogue_version, posting.rules_version) for posting in life.postings] == [(1, 1), (7, 1)]


def test_two_thousand_ticks_in_one_batch_are_all_counted() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought(line(quantity=10_000))))

    life.tell(*[(told(f"u{n}", day(2) + n * timedelta(minutes=1), used(1)), day(9)) for n in range(2_000)])

    assert life.accounts["api"].used_total == 2_000


def hex_of(fact: TransitionsDue) -> str:
    assert fact.grant_id is not None
    return fact.grant_id.hex
