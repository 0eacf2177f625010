"""Changes within a subscription: another plan, now or scheduled, another quantity, and add-ons."""

from ledger_worker.domain.catalogue import OnChange
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import (
    activated,
    add_on_added,
    add_on_removed,
    catalogue,
    day,
    gives,
    item,
    offer,
    paused,
    plan_changed,
    quantity_changed,
    quota,
    renewed,
    resumed,
    used,
)
from tests.stories.story import Story, look, tell

PLAN = offer("plan", gives(10))
BIG = offer("big", gives(20))

STORIES = (
    Story(
        name="an upgrade gives the new plan less what was used",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(6)),
            tell(day(6), plan_changed("big", day(6))),
            look(day(6), allowed=True, limit=14, used=0, remaining=14, over_allocated=0, expires_at=day(12)),
            tell(day(7), used(1), happened_at=day(5)),
            look(day(7), limit=13),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="an upgrade gives the new plan whole",
        catalogue=catalogue(quota(), PLAN, offer("big", gives(20, on_change=OnChange.FRESH))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(6)),
            tell(day(6), plan_changed("big", day(6))),
            look(day(6), limit=20, used=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="an upgrade gives the share of the new plan that the rest of the period is",
        catalogue=catalogue(quota(), PLAN, offer("big", gives(21, on_change=OnChange.PRORATE))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(6)),
            tell(day(6), plan_changed("big", day(6))),
            look(day(6), limit=11, used=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="the share of a period does not count what a pause stopped",
        catalogue=catalogue(quota(), PLAN, offer("big", gives(20, on_change=OnChange.PRORATE))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), paused(day(3))),
            tell(day(5), resumed(day(5))),
            # Five of ten days are lived through.
            tell(day(8), plan_changed("big", day(8))),
            look(day(8), limit=10, period_end=day(13)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a downgrade below what was used is told as over-allocation, and is no debt",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11), item("big"))),
            tell(day(3), used(14)),
            tell(day(6), plan_changed("plan", day(6))),
            look(day(6), allowed=False, limit=0, over_allocated=4, debt=0, overage=0),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), allowed=True, limit=10, over_allocated=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit state over_allocated",
            "api: access limit end state over_allocated",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a downgrade at the end of the period is followed by a renewal that names nothing",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11), item("big"))),
            tell(day(4), plan_changed("plan", day(11))),
            look(day(4), limit=20),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), allowed=True, limit=10, expires_at=day(22)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a renewal that names the plan wins over what was scheduled",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11), item("big"))),
            tell(day(4), plan_changed("plan", day(11))),
            tell(day(11), renewed(day(11), day(21), item("big"))),
            look(day(11), allowed=True, limit=20),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: allocation limit end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a change told later overrules what was scheduled",
        catalogue=catalogue(quota(), PLAN, BIG, offer("huge", gives(50))),
        life=(
            tell(day(1), activated(day(1), day(11), item("big"))),
            tell(day(4), plan_changed("plan", day(11), "down")),
            tell(day(6), plan_changed("huge", day(6), "up")),
            look(day(6), limit=50),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=50),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a change that keeps the schedule is followed by what was scheduled",
        catalogue=catalogue(quota(), PLAN, BIG, offer("huge", gives(50))),
        life=(
            tell(day(1), activated(day(1), day(11), item("big"))),
            tell(day(4), plan_changed("plan", day(11), "down")),
            tell(day(6), plan_changed("huge", day(6), "up", keep_schedule=True)),
            look(day(6), limit=50),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=10),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit",
            "api: allocation limit end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what is scheduled within the period is shown beforehand",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), plan_changed("big", day(8))),
            # What was used by then is cut off it.
            look(
                day(3),
                limit=10,
                upcoming='[{"at":"2026-01-08T00:00:00Z","what":"begins","units":20},'
                '{"at":"2026-01-08T00:00:00Z","what":"cut"}]',
            ),
            look(day(8), limit=20, upcoming=None),
            tell(day(9), used(12)),
            look(day(9), used=12, remaining=8),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="of two changes at one instant the one told last is true",
        catalogue=catalogue(quota(), PLAN, BIG, offer("huge", gives(50))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(6), plan_changed("huge", day(6), "one")),
            tell(day(6), plan_changed("big", day(6), "other")),
            look(day(6), limit=20),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a change that restarts the anchor begins a period of its own",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(6)),
            tell(day(6), plan_changed("big", day(6), period_end=day(16))),
            look(day(6), limit=20, used=0, period_end=day(16), expires_at=day(17)),
            tell(day(16), renewed(day(16), day(26))),
            look(day(16), limit=20, period_end=day(26)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a change of what nobody has waits for it",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(6), plan_changed("big", day(6)), Outcome.WAITING),
            tell(day(7), quantity_changed(2, day(7), "ch2"), Outcome.WAITING),
            tell(day(8), activated(day(1), day(11)), happened_at=day(1)),
            look(day(8), limit=40),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a higher quantity adds its units at once, a lower one takes what is unused of the newest",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11), item(quantity=2))),
            tell(day(3), quantity_changed(3, day(3), "up")),
            look(day(3), limit=30),
            tell(day(4), used(7)),
            tell(day(5), quantity_changed(1, day(5), "down")),
            look(day(5), limit=10, used=7, over_allocated=0),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=10, used=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: limit",
            "api: allocation end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a lower quantity than was used is told as over-allocation",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11), item(quantity=3))),
            tell(day(4), used(14)),
            tell(day(5), quantity_changed(1, day(5))),
            look(day(5), allowed=False, limit=14, used=14, over_allocated=4),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access limit state level over_allocated",
            "api: allocation limit end state level over_allocated",
        ),
    ),
    Story(
        name="an add-on lasts to the end of the period and is renewed with it, until it is removed",
        catalogue=catalogue(quota(), quota("sms"), PLAN, offer("texts", gives(5, "sms"))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(6), add_on_added(item("texts", item_id="i2"), day(6))),
            look(day(6), "sms", allowed=True, limit=5, period_end=day(11), expires_at=day(12)),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), "sms", allowed=True, limit=5, period_end=day(21)),
            tell(day(13), add_on_removed(day(13))),
            look(day(13), "sms", allowed=False, state="expired"),
            look(day(13), allowed=True, limit=10),
            tell(day(21), renewed(day(21), day(31))),
            look(day(21), "sms", allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "sms: access allocation limit end state",
            "api: end",
            "sms: end",
            "sms: access allocation limit end state",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="an add-on of what is there changes it",
        catalogue=catalogue(quota(), PLAN, BIG),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(6), add_on_added(item("plan", 3), day(6))),
            look(day(6), limit=30),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what a change of plan closed rolls nothing over",
        catalogue=catalogue(
            quota(), offer("plan", gives(10, rollover_units=5)), offer("big", gives(20, rollover_units=7))
        ),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(6), plan_changed("big", day(6))),
            look(day(6), limit=20),
            tell(day(11), renewed(day(11), day(21))),
            # Seven of the new plan's twenty, and none of the old one's ten.
            look(day(11), limit=27),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: allocation limit end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a quantity that is scheduled for the next period begins with it",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11), item(quantity=3))),
            tell(day(4), quantity_changed(2, day(11))),
            tell(day(10), renewed(day(11), day(21))),
            look(day(10), limit=30, over_allocated=0),
            look(day(11), limit=20, over_allocated=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: access allocation limit end state",
        ),
    ),
)
