"""A published version reaches whoever has the SKU; the list made before is what happens then, and leaves nothing."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    DebtPolicy,
    Entitlement,
    Offer,
    OnChange,
    OnShrink,
    RefundPolicy,
)
from ledger_worker.domain.events import UNITS_MAX, Event, PurchaseTransferred
from ledger_worker.domain.values import MergePolicy
from ledger_worker.metrics import CollectorRegistry, Metrics, Stage, Stages
from ledger_worker.operations import publish
from ledger_worker.operations.reach import Affected, Balance, Progress, Reach, Verdict, reach, rehearse_reach
from ledger_worker.operations.verify import Check, Finding, verify
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.wire.catalogue_file import Definitions
from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import (
    access,
    activated,
    bought,
    gives,
    item,
    line,
    quota,
    refunded,
    renewed,
    seat,
    seats,
    setting,
    told,
    used,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
API, SMS, VIDEO = quota("api", debt=DebtPolicy.CARRY), quota("sms"), access("video")
SIZE, LARGEST = setting("size"), setting("size", merge=MergePolicy.MAX)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    made = Ledger(database_url)
    yield made
    made.close()


def version(sku: str, *allowances: Allowance, apply: Apply = Apply.NOW) -> Offer:
    return Offer(sku=sku, allowances=allowances, apply=apply)


def defined(*entries: Entitlement | Offer) -> Definitions:
    return Definitions(
        entitlements=tuple(entry for entry in entries if isinstance(entry, Entitlement)),
        offers=tuple(entry for entry in entries if isinstance(entry, Offer)),
    )


def published(ledger: Ledger, *entries: Entitlement | Offer) -> int:
    compared = publish.publish(ledger.engine, defined(*entries))
    assert compared.problems == ()
    return compared.catalogue_version


def clock(ledger: Ledger) -> datetime:
    (now,) = ledger.rows("SELECT clock_timestamp()")[0]
    assert isinstance(now, datetime)
    return now


def run(ledger: Ledger, on_progress: Callable[[Progress], None] | None = None) -> Reach:
    return reach(ledger.engine, ledger.stages(), on_progress=on_progress)


def rehearsed(ledger: Ledger, *entries: Entitlement | Offer) -> Reach:
    return rehearse_reach(ledger.engine, defined(*entries), ledger.stages())


def verdicts(found: Reach) -> dict[tuple[str, str], Verdict]:
    return {(each.customer_id, each.entitlement): each.verdict for each in found.affected}


def stands(ledger: Ledger, found: Sequence[Affected]) -> list[Balance]:
    """Where those who were affected stand now."""
    pictures = {
        (picture.customer_id, each.entitlement): each
        for picture in ledger.pictures(sorted({each.customer_id for each in found}), clock(ledger))
        for each in picture.entitlements
    }
    shown = [pictures[each.customer_id, each.entitlement] for each in found]
    return [
        Balance(
            allowed=each.allowed,
            unlimited=each.unlimited,
            limit=each.limit,
            used=each.used,
            debt=each.debt,
            over_allocated=each.over_allocated,
            value=each.value,
        )
        for each in shown
    ]


def findings(ledger: Ledger) -> list[Finding]:
    """What verify finds; that the events came of a partition nobody claimed is how these tests tell them."""
    with ledger.engine.connect() as connection:
        found = verify(connection).findings
    return [finding for finding in found if finding.check is not Check.INPUT_PARTITION]


class Case(msgspec.Struct, frozen=True):
    """What was published first, what was told, what is published then, and what that means for whom.

    Instants of what is told are given the present; limits, or values of a setting, are those before and after.
    """

    first: tuple[Entitlement | Offer, ...]
    told: Callable[[datetime], tuple[Event, ...]]
    then: tuple[Entitlement | Offer, ...]
    means: dict[tuple[str, str], tuple[Verdict, int | str | None, int | str | None]]
    changed: int = 1


def subscribed(now: datetime) -> Event:
    return told("a", now - 10 * DAY, activated(now - 10 * DAY, now + 20 * DAY))


PLAN = (API, VIDEO, version("plan", gives(100), gives(None, "video")))
PACK = (API, version("pack", gives(10, lasts="forever")))
CASES = {
    "larger units": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", gives(150), gives(None, "video")),),
        # Of the new allowance 30 are used already.
        {("ada", "api"): (Verdict.GAINS, 100, 120)},
    ),
    "larger units, all but used up": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(95))),
        (version("plan", gives(150), gives(None, "video")),),
        {("ada", "api"): (Verdict.GAINS, 100, 55)},
    ),
    "fewer units": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", gives(50), gives(None, "video")),),
        {("ada", "api"): (Verdict.LOSES, 100, 20)},
    ),
    "fewer units than were used": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", gives(20), gives(None, "video")),),
        {("ada", "api"): (Verdict.OWES, 100, 0)},
    ),
    "units without a limit": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", gives(None), gives(None, "video")),),
        {("ada", "api"): (Verdict.GAINS, 100, None)},
    ),
    "all units afresh": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", msgspec.structs.replace(gives(80), on_change=OnChange.FRESH), gives(None, "video")),),
        {("ada", "api"): (Verdict.GAINS, 100, 80)},
    ),
    "another refund policy": Case(
        PACK,
        lambda now: (told("p", now - DAY, bought()), told("u", now - HOUR, used(4))),
        (version("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),),
        {("ada", "api"): (Verdict.CHANGES, 10, 6)},
    ),
    "a removed allowance": Case(
        PLAN,
        lambda now: (subscribed(now),),
        (version("plan", gives(100)),),
        {("ada", "video"): (Verdict.LOSES, None, None)},
    ),
    "a first version for what had no offer": Case(
        (API,),
        lambda now: (
            told("p", now - DAY, bought()),
            told("q", now - DAY, bought(order="o2"), customer="bob"),
            told("u", now - HOUR, used(12), customer="bob"),
        ),
        (version("pack", gives(10, lasts="forever")),),
        {("ada", "api"): (Verdict.GAINS, 0, 10), ("bob", "api"): (Verdict.GAINS, 0, 10)},
        changed=2,
    ),
    "a first version for what was used and refunded": Case(
        (API,),
        lambda now: (
            told("p", now - DAY, bought()),
            told("u", now - 2 * HOUR, used(4)),
            told("r", now - HOUR, refunded()),
        ),
        (version("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),),
        {("ada", "api"): (Verdict.OWES, 0, 0)},
    ),
    "several orders of one customer": Case(
        PACK,
        lambda now: (
            *(told(f"p{number}", now - DAY, bought(order=f"o{number}")) for number in range(3)),
            told("r", now - HOUR, refunded(order="o1")),
        ),
        (version("pack", gives(30, lasts="forever")),),
        {("ada", "api"): (Verdict.GAINS, 20, 60)},
        changed=3,
    ),
    "customers of two products at once": Case(
        (API, SMS, version("plan", gives(100)), version("pack", gives(10, "sms", lasts="forever"))),
        lambda now: (
            subscribed(now),
            told("p", now - DAY, bought()),
            told("q", now - DAY, bought(order="o2"), customer="bob"),
            told("s", now - DAY, activated(now - DAY, now + DAY, item("other"), subscription="s2"), customer="eve"),
        ),
        (version("plan", gives(90)), version("pack", gives(11, "sms", lasts="forever"))),
        {
            ("ada", "api"): (Verdict.LOSES, 100, 90),
            ("ada", "sms"): (Verdict.GAINS, 10, 11),
            ("bob", "sms"): (Verdict.GAINS, 10, 11),
        },
        changed=3,
    ),
    "another value": Case(
        (SIZE, version("pack", gives(None, "size", value=5, lasts="forever"))),
        lambda now: (told("p", now - DAY, bought()),),
        (version("pack", gives(None, "size", value={"of": 9}, lasts="forever")),),
        {("ada", "size"): (Verdict.CHANGES, "5", '{"of":9}')},
    ),
    "a value for some and none for others": Case(
        (
            SIZE,
            VIDEO,
            version("pack", gives(None, "size", value=5, lasts="forever")),
            version("plan", gives(None, "video")),
        ),
        lambda now: (subscribed(now), told("p", now - DAY, bought(), customer="bob")),
        (
            version("pack", gives(None, "video", lasts="forever")),
            version("plan", gives(None, "video"), gives(None, "size", value=[True])),
        ),
        {
            ("ada", "size"): (Verdict.GAINS, None, "[true]"),
            ("bob", "size"): (Verdict.LOSES, "5", None),
            ("bob", "video"): (Verdict.GAINS, None, None),
        },
        changed=2,
    ),
    "a value that another one outdoes": Case(
        (
            LARGEST,
            version("plan", gives(None, "size", value=10)),
            version("pack", gives(None, "size", value=5, lasts="forever")),
        ),
        lambda now: (subscribed(now), told("p", now - DAY, bought())),
        (version("pack", gives(None, "size", value=7, lasts="forever")),),
        # The largest is as before, so nobody is told.
        {},
    ),
    "the next period alone": Case(
        PLAN,
        lambda now: (subscribed(now), told("r", now - DAY, renewed(now + 20 * DAY, now + 50 * DAY))),
        (version("plan", gives(150), gives(None, "video"), apply=Apply.NEXT_PERIOD),),
        # Nothing of today differs, so nobody is told; the period that was told ahead gives more.
        {},
    ),
    "new items only": Case(
        PLAN,
        lambda now: (subscribed(now), told("u", now - DAY, used(30))),
        (version("plan", gives(150), apply=Apply.NEW_ONLY),),
        {},
        changed=0,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_list_made_beforehand_is_what_then_happens_and_leaves_nothing(ledger: Ledger, case: Case) -> None:
    published(ledger, *case.first)
    for event in case.told(clock(ledger)):
        ledger.tell_now(event)
    before = everything(ledger)

    expected = rehearsed(ledger, *case.then)
    after = everything(ledger)
    published(ledger, *case.then)
    found = run(ledger)

    assert after == before
    assert found == expected
    assert {
        (each.customer_id, each.entitlement): (
            each.verdict,
            each.before.value or each.before.limit,
            each.after.value or each.after.limit,
        )
        for each in found.affected
    } == case.means
    assert found.changed == case.changed
    assert found.counts == {verdict: [each[0] for each in case.means.values()].count(verdict) for verdict in Verdict}
    assert [each.after for each in found.affected] == stands(ledger, found.affected)
    assert findings(ledger) == []


def everything(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that a reach or a publishing writes."""
    published = {
        "entitlement": ledger.rows("SELECT * FROM entitlement ORDER BY 1, 2"),
        "offer": ledger.rows("SELECT * FROM offer ORDER BY 1, 2"),
        "ledger": ledger.rows("SELECT * FROM ledger"),
    }
    return {**ledger.dump(), **published}


def test_a_version_for_the_next_period_changes_the_one_told_ahead_and_not_the_running_one(ledger: Ledger) -> None:
    published(ledger, *PLAN)
    now = clock(ledger)
    ledger.tell_now(subscribed(now), told("r", now - DAY, renewed(now + 20 * DAY, now + 50 * DAY)))

    published(ledger, version("plan", gives(150), gives(None, "video"), apply=Apply.NEXT_PERIOD))
    run(ledger)

    grants = "SELECT phase, amount FROM \"grant\" WHERE entitlement = 'api' AND phase <> 'void' ORDER BY effective_at"
    assert ledger.rows(grants) == [("active", 100), ("pending", 150)]


def test_a_reach_that_is_repeated_finds_nothing(ledger: Ledger) -> None:
    published(ledger, *PACK)
    ledger.tell_now(told("p", clock(ledger) - DAY, bought()))
    published(ledger, version("pack", gives(20, lasts="forever")))
    first = run(ledger)
    before = ledger.dump()

    again = run(ledger)

    assert (first.sources, again.sources, again.affected) == (1, 0, ())
    assert ledger.dump() == before


def test_what_nobody_reached_in_time_is_reached_by_the_newest_version_once(ledger: Ledger) -> None:
    published(ledger, *PACK)
    ledger.tell_now(told("p", clock(ledger) - DAY, bought()))
    published(ledger, version("pack", gives(20, lasts="forever")))
    published(ledger, version("pack", gives(5, lasts="forever"), apply=Apply.NEW_ONLY))

    found = run(ledger)

    assert [(each.before.limit, each.after.limit) for each in found.affected] == [(10, 20)]
    assert ledger.rows("SELECT event_source, customer_id, source_key FROM event WHERE type = 'OfferReached'") == [
        ("ledger", "ada", "order/o1")
    ]


def test_a_source_that_a_new_fact_folded_first_is_not_folded_again(ledger: Ledger) -> None:
    published(ledger, *PACK)
    now = clock(ledger)
    ledger.tell_now(told("p", now - DAY, bought()))
    published(ledger, version("pack", gives(20, lasts="forever")))
    ledger.tell_now(told("more", now - HOUR, bought(line(quantity=2))))

    assert run(ledger).sources == 0


def test_what_is_published_as_new_only_touches_nobody(ledger: Ledger) -> None:
    published(ledger, API, version("pack", gives(10, lasts="forever"), apply=Apply.NEW_ONLY))
    ledger.tell_now(told("p", clock(ledger), bought()))
    published(ledger, version("pack", gives(20, lasts="forever"), apply=Apply.NEW_ONLY))
    before = ledger.dump()

    found = run(ledger)

    assert (found.sources, found.affected) == (0, ())
    assert ledger.dump() == before


# -- many, and what goes on beside them


MANY = 230


def many(ledger: Ledger) -> tuple[Offer, ...]:
    """Customers of packs, the last of whom got an order of the first; and the offer that reaches them."""
    published(ledger, API, SMS, version("pack", gives(10, lasts="forever"), gives(1, "sms", lasts="forever")))
    now = clock(ledger)
    ledger.tell_now(
        *(told(f"p{n}", now - 3 * DAY, bought(order=f"o{n}"), customer=f"customer-{n:03}") for n in range(MANY)),
        told("another", now - 3 * DAY, bought(order="another"), customer="customer-000"),
        *(told(f"u{n}", now - 2 * DAY, used(n % 12), customer=f"customer-{n:03}") for n in range(1, MANY, 2)),
    )
    transfer = PurchaseTransferred(order_id="another", transfer_id="t1", to_customer_id=f"customer-{MANY - 1:03}")
    ledger.tell_now(told("moved", now - DAY, transfer, customer="customer-000"))
    return (version("pack", gives(5, lasts="forever"), gives(2, "sms", lasts="forever")),)


def test_many_customers_and_those_tied_by_a_transfer_end_as_the_list_says(ledger: Ledger) -> None:
    then = many(ledger)
    before = everything(ledger)

    expected = rehearsed(ledger, *then)
    after = everything(ledger)
    published(ledger, *then)
    found = run(ledger)

    assert after == before
    assert found == expected
    assert (found.sources, found.changed) == (MANY + 1, MANY + 1)
    assert {each.verdict for each in found.affected} == {Verdict.OWES, Verdict.LOSES, Verdict.GAINS}
    assert [each.after for each in found.affected] == stands(ledger, found.affected)
    assert findings(ledger) == []
    assert len(found.affected) == 2 * MANY


class _InterruptedError(Exception):
    pass


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(ledger: Ledger) -> None:
    then = many(ledger)
    expected = rehearsed(ledger, *then)
    published(ledger, *then)

    def interrupt(progress: Progress) -> None:
        if progress.sources:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        run(ledger, interrupt)
    (done,) = ledger.rows("SELECT count(*) FROM event WHERE type = 'OfferReached'")[0]
    rest = run(ledger)

    assert 0 < done < MANY
    assert rest.sources == MANY + 1 - done
    assert run(ledger).sources == 0
    assert stands(ledger, expected.affected) == [each.after for each in expected.affected]
    assert findings(ledger) == []


def test_progress_counts_up_to_every_source(ledger: Ledger) -> None:
    then = many(ledger)
    published(ledger, *then)
    seen: list[Progress] = []

    run(ledger, seen.append)

    assert seen[-1] == Progress(looked_at=MANY + 1, total=MANY + 1, sources=MANY + 1, affected=2 * MANY)
    assert [each.sources for each in seen] == sorted(each.sources for each in seen)


class _Meanwhile(Stages):
    """Does something while the rehearsal stands in the middle of its transaction, once."""

    def __init__(self, does: Callable[[], None]) -> None:
        super().__init__(Metrics(CollectorRegistry()))
        self._does: list[Callable[[], None]] = [does]

    def reached(self, stage: Stage) -> None:
        if stage is Stage.DECIDED and self._does:
            self._does.pop()()


def test_workers_go_on_beside_a_rehearsal_by_the_catalogue_that_is_published(ledger: Ledger) -> None:
    published(ledger, *PACK)
    now = clock(ledger)
    ledger.tell_now(told("p", now - DAY, bought()))

    def work() -> None:
        applied = ledger.tell_now(told("q", now - DAY, bought(order="o2"), customer="bob"))
        assert applied.outcomes == {"applied": 1}
        assert publish.rehearse_publish(ledger.engine, defined()).catalogue_version == 1

    then = defined(version("pack", gives(20, lasts="forever")))
    found = rehearse_reach(ledger.engine, then, _Meanwhile(work))

    assert verdicts(found) == {("ada", "api"): Verdict.GAINS}
    assert ledger.rows("SELECT amount FROM \"grant\" WHERE customer_id = 'bob'") == [(10,)]


def test_two_rehearsals_at_once_wait_for_each_other_at_most(ledger: Ledger) -> None:
    """The second is begun while the first is in its transaction: it gives up waiting, and the first ends well."""
    published(ledger, *PACK)
    ledger.tell_now(told("p", clock(ledger) - DAY, bought()))
    then = version("pack", gives(20, lasts="forever"))
    waited: list[str] = []

    def second() -> None:
        with ledger.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
            catalogue_store.lock_shared(connection)
            try:
                publish.publish_on(connection, defined(then))
            except Exception as error:  # noqa: BLE001 - whatever the database says
                waited.append(getattr(getattr(error, "orig", None), "sqlstate", ""))
            transaction.rollback()

    found = rehearse_reach(ledger.engine, defined(then), _Meanwhile(second))

    assert waited == ["55P03"]
    assert verdicts(found) == {("ada", "api"): Verdict.GAINS}


def test_a_customer_with_much_due_is_caught_up_first_and_what_was_due_is_not_in_the_list(ledger: Ledger) -> None:
    published(ledger, API, VIDEO, version("pack", gives(10, lasts="P1D")), version("pass", gives(None, "video")))
    now = clock(ledger)
    packs = tuple(line(line_id=f"l{number}") for number in range(150))
    long_ago = now - 20 * DAY
    ledger.tell(
        (told("s", long_ago, activated(long_ago, now + DAY, item("pass"))), long_ago),
        (told("p", long_ago, bought(*packs)), long_ago),
    )
    then = (version("pass", gives(None, "video"), gives(7)),)

    expected = rehearsed(ledger, *then)
    (booked,) = ledger.rows("SELECT count(*) FROM event WHERE type = 'TransitionsDue'")[0]
    published(ledger, *then)
    found = run(ledger)

    assert booked >= 100
    assert found == expected
    assert verdicts(found) == {("ada", "api"): Verdict.GAINS}
    assert ledger.rows("SELECT count(*) FROM \"grant\" WHERE phase = 'ended' AND source_key = 'order/o1'") == [(150,)]


def test_a_source_is_given_what_can_be_counted_of_a_version_that_gives_more(ledger: Ledger) -> None:
    published(ledger, API, version("pack", gives(1, lasts="forever")))
    now = clock(ledger)
    ledger.tell_now(
        told("a", now - DAY, bought()),
        told("b", now - DAY, bought(line(quantity=2**52), order="o2"), customer="bob"),
    )
    then = (version("pack", gives(2**20, lasts="forever")),)

    expected = rehearsed(ledger, *then)
    published(ledger, *then)
    found = run(ledger)

    assert found == expected
    assert verdicts(found) == {("ada", "api"): Verdict.GAINS, ("bob", "api"): Verdict.GAINS}
    assert {each.after.limit for each in found.affected} == {2**20, UNITS_MAX}


@pytest.mark.parametrize("apply", Apply)
def test_every_version_reaches_what_is_dated_ahead_of_it(ledger: Ledger, apply: Apply) -> None:
    published(ledger, API, version("pack", gives(10, lasts="forever")))
    now = clock(ledger)
    ledger.tell_now(
        told("a", now + timedelta(minutes=4), bought()),
        told("b", now - DAY, bought(order="o2"), customer="bob"),
    )
    then = (version("pack", gives(3, lasts="forever"), apply=apply),)

    expected = rehearsed(ledger, *then)
    published(ledger, *then)
    found = run(ledger)

    assert found == expected
    assert ledger.rows("SELECT DISTINCT granted FROM \"grant\" WHERE customer_id = 'ada' AND phase = 'pending'") == [
        (3,)
    ]
    assert run(ledger).sources == 0


def test_a_version_with_fewer_seats_takes_those_of_the_newest_as_the_dry_run_lists(ledger: Ledger) -> None:
    published(ledger, seats(on_shrink=OnShrink.REVOKE_NEWEST), version("team", gives(3, "desk", lasts="forever")))
    now = clock(ledger)
    ledger.tell((told("b", now, bought(line("team"))), now))
    ledger.ask(clock(ledger), *(seat(name) for name in "abc"))
    fewer = version("team", gives(1, "desk", lasts="forever"))

    listed = rehearsed(ledger, fewer)
    published(ledger, fewer)
    done = run(ledger)

    assert verdicts(listed) == verdicts(done) == {("ada", "desk"): Verdict.LOSES}
    (desk,) = done.affected
    assert (desk.before.limit, desk.before.used, desk.after.limit, desk.after.used, desk.after.over_allocated) == (
        3,
        3,
        1,
        1,
        0,
    )
    (picture,) = ledger.pictures(["ada"], clock(ledger))
    assert [each.holders for each in picture.entitlements] == [("a",)]
    assert unproven(ledger) == []
