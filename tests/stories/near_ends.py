"""An end that comes is told beforehand: at its lead times, once, and only if nothing goes on there."""

from ledger_worker.domain.catalogue import Clock
from tests.domain.telling import (
    activated,
    assigned,
    assignment_extended,
    assignment_revoked,
    bought,
    cancellation_scheduled,
    cancellation_withdrawn,
    catalogue,
    day,
    dispute_opened,
    dispute_won,
    gives,
    item,
    line,
    offer,
    paused,
    quota,
    refund_reversed,
    refunded,
    renewed,
    resumed,
    used,
)
from tests.stories.story import Story, look, tell

API = quota(expiring_soon=("P7D", "P1D"))
MONTH = catalogue(API, offer("pack", gives(10, lasts="P30D")))
PLAN = catalogue(API, offer("plan", gives(10)))
BEGINS = ENDS = "api: access allocation limit end state"
SOON = "api: expiring_soon"

STORIES = (
    Story(
        name="an end is told a week and a day before it comes",
        catalogue=MONTH,
        life=(tell(day(1), bought()), look(day(31), allowed=False)),
        told=(BEGINS, SOON, SOON, ENDS),
    ),
    Story(
        name="a subscription that goes on by itself has no end to warn of",
        catalogue=PLAN,
        life=(
            tell(day(1), activated(day(1), day(31), item("plan"))),
            tell(day(31, 1), renewed(day(31), day(61))),
            tell(day(40), cancellation_scheduled(day(61))),
            look(day(61), allowed=False),
        ),
        told=(BEGINS, "api: end", "api: end", SOON, SOON, ENDS),
    ),
    Story(
        name="a cancellation within the lead time is told to be near, and again when it is withdrawn and made anew",
        catalogue=PLAN,
        life=(
            tell(day(1), activated(day(1), day(31), item("plan"))),
            tell(day(26), cancellation_scheduled(day(31))),
            tell(day(27), cancellation_withdrawn()),
            tell(day(28), cancellation_scheduled(day(31), "c2")),
            look(day(31), allowed=False),
        ),
        told=(BEGINS, "api: end expiring_soon", "api: end", "api: end expiring_soon", SOON, ENDS),
    ),
    Story(
        name="an end that moves away and back before its lead time is told once",
        catalogue=PLAN,
        life=(
            tell(day(1), activated(day(1), day(31), item("plan"))),
            tell(day(2), cancellation_scheduled(day(31))),
            tell(day(3), cancellation_withdrawn()),
            tell(day(4), cancellation_scheduled(day(31), "c2")),
            look(day(31), allowed=False),
        ),
        told=(BEGINS, "api: end", "api: end", "api: end", SOON, SOON, ENDS),
    ),
    Story(
        name="an end at which something else goes on is not told",
        catalogue=catalogue(
            API, offer("pack", gives(10, every="P1M", times=2)), offer("other", gives(5, lasts="P75D"))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), bought(line("other"), order="o2")),
            look(day(60), limit=5, expires_at=day(77)),
            look(day(77), allowed=False),
        ),
        told=(BEGINS, "api: allocation limit end", "api: allocation limit", SOON, SOON, ENDS),
    ),
    Story(
        name="an end at which nothing goes on any more is told when that is known",
        catalogue=PLAN,
        life=(
            tell(day(1), assigned(5, day(1), until=day(31))),
            tell(day(2), assigned(5, day(31), until=day(61), assignment="a2")),
            look(day(25), expires_at=day(31)),
            tell(day(29), assignment_revoked(day(29), assignment="a2")),
            look(day(31), allowed=False),
        ),
        told=(BEGINS, SOON, SOON, ENDS),
    ),
    Story(
        name="what recurs is told to end with its last occurrence",
        catalogue=catalogue(API, offer("pack", gives(10, every="P1M", times=2))),
        life=(tell(day(1), bought()), look(day(60), allowed=False)),
        told=(BEGINS, "api: end", SOON, SOON, ENDS),
    ),
    Story(
        name="nothing is told while a pause stops the clock, and at its new instant afterwards",
        catalogue=catalogue(API, offer("plan", gives(10, leeway_seconds=0))),
        life=(
            tell(day(1), activated(day(1), day(31), item("plan"))),
            tell(day(20), paused(day(20))),
            look(day(29), allowed=False, state="suspended"),
            tell(day(40), resumed(day(40))),
            look(day(40), allowed=True, expires_at=day(51)),
            look(day(51), allowed=False),
        ),
        told=(BEGINS, ENDS, BEGINS, SOON, SOON, ENDS),
    ),
    Story(
        name="a pause that runs, or a dispute, hides the end, which is told when it is there again and near",
        catalogue=catalogue(API, offer("pack", gives(10, lasts="P30D", pause=Clock.RUNS))),
        life=(
            tell(day(1), bought()),
            tell(day(20), dispute_opened()),
            tell(day(28), dispute_won()),
            look(day(31), allowed=False),
        ),
        told=(BEGINS, ENDS, "api: access allocation limit end state expiring_soon", SOON, ENDS),
    ),
    Story(
        name="grants that end together are one end, and a longer one puts it off",
        catalogue=MONTH,
        life=(
            tell(day(1), bought()),
            tell(day(1), bought(order="o2"), happened_at=day(1)),
            tell(day(2), bought(order="o3")),
            tell(day(25, 1), refunded(order="o3")),
            tell(day(25, 2), refund_reversed(order="o3")),
            look(day(32), allowed=False),
        ),
        told=(
            BEGINS,
            "api: allocation limit",
            "api: allocation limit end",
            SOON,
            "api: limit",
            "api: limit",
            "api: allocation limit",
            SOON,
            ENDS,
        ),
    ),
    Story(
        name="what is shorter than its lead time ends without a warning, and what is told late is warned of at once",
        catalogue=MONTH,
        life=(
            tell(day(1), assigned(5, day(1), until=day(2))),
            tell(day(26), bought(), happened_at=day(1)),
            tell(day(27), used(1)),
            tell(day(28), assignment_extended(day(28))),
            look(day(31), allowed=False),
        ),
        told=(
            BEGINS,
            ENDS,
            "api: access allocation limit end state expiring_soon",
            SOON,
            ENDS,
        ),
    ),
)
