"""Usage from beyond the settlement window of 35 days: counted when it is told, as overage, or not at all."""

from ledger_worker.domain.catalogue import DebtPolicy, LateUsage, OveragePolicy, RefundPolicy
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import (
    MICROSECOND,
    activated,
    bought,
    catalogue,
    day,
    gives,
    merged,
    offer,
    quota,
    refunded,
    renewed,
    usage_reversed,
    used,
)
from tests.stories.story import Story, look, tell

PACK = offer("pack", gives(10, lasts="forever"))
PLAN = offer("plan", gives(10))
NOW, OVERAGE, IGNORED = LateUsage.COUNT_NOW, LateUsage.OVERAGE, LateUsage.IGNORE_AND_TELL

STORIES = (
    Story(
        name="usage of just 35 days ago counts when it occurred, a microsecond older when it is told",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(31))),
            tell(day(30), renewed(day(31), day(61))),
            tell(day(45), used(4), happened_at=day(10)),
            look(day(45), used=0, remaining=10),
            tell(day(45, 1), used(3), Outcome.COUNTED_LATE, happened_at=day(10, 1) - MICROSECOND),
            look(day(45, 1), used=3, remaining=7),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="late usage that counts now burns what is active now, and comes back to that",
        catalogue=catalogue(quota(late_usage=NOW), offer("pack", gives(10, lasts="P30D"))),
        life=(
            tell(day(1), bought()),
            tell(day(40), bought(order="o2")),
            tell(day(50), used(14), Outcome.COUNTED_LATE, happened_at=day(5), event_id="u1"),
            look(day(50), allowed=False, state="exhausted", used=10, remaining=0, overage=4),
            tell(day(51), usage_reversed("u1", 7), happened_at=day(6)),
            look(day(51), allowed=True, used=7, remaining=3, overage=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access state level overage",
            "api: access state level overage",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="late usage that is overage burns nothing of what was there, and a reversal takes overage back",
        catalogue=catalogue(quota(late_usage=OVERAGE), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(45), used(2)),
            tell(day(50), used(4), Outcome.OVERAGE_LATE, happened_at=day(5), event_id="u1"),
            look(day(50), allowed=True, used=2, remaining=8, overage=4),
            tell(day(51), usage_reversed("u1", 3), happened_at=day(50)),
            look(day(51), allowed=True, used=2, remaining=8, overage=1),
            tell(day(52), usage_reversed("u1", reversal="v2")),
            look(day(52), used=2, remaining=8, overage=0),
        ),
        told=("api: access allocation limit state", "api: overage", "api: overage"),
    ),
    Story(
        name="late overage that is carried is paid by the grants that began since then",
        catalogue=catalogue(quota(late_usage=OVERAGE, overage=OveragePolicy.CARRY), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(20), bought(order="o2")),
            tell(day(50), used(14), Outcome.OVERAGE_LATE, happened_at=day(5), event_id="u1"),
            look(day(50), limit=20, used=10, remaining=10, overage=4),
            tell(day(51), bought(order="o3")),
            look(day(51), limit=30, used=14, remaining=16, overage=0),
            tell(day(52), usage_reversed("u1", 12)),
            look(day(52), limit=30, used=2, remaining=28, overage=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: overage",
            "api: allocation limit overage",
        ),
    ),
    Story(
        name="late overage is of its own instant, also where nothing was had by then",
        catalogue=catalogue(quota(late_usage=OVERAGE), offer("pack", gives(10, lasts="P10D"))),
        life=(
            tell(day(50), used(4), Outcome.OVERAGE_LATE, happened_at=day(5)),
            look(day(50), allowed=False, state="none", overage=4),
            tell(day(51), bought(), happened_at=day(4)),
            look(day(51), allowed=False, state="expired", overage=0),
        ),
        told=("api: level overage", "api: state level overage"),
    ),
    Story(
        name="late usage that is ignored moves nothing, and neither does its reversal, before or after it",
        catalogue=catalogue(quota(late_usage=IGNORED), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(45), used(2), event_id="u0"),
            tell(day(50), used(4), Outcome.IGNORED_LATE, happened_at=day(5), event_id="u1"),
            look(day(50), used=2, remaining=8, overage=0),
            tell(day(51), usage_reversed("u1", 3), Outcome.NO_EFFECT),
            tell(day(52), usage_reversed("u2", reversal="v2"), Outcome.WAITING),
            tell(day(53), used(20), Outcome.IGNORED_LATE, happened_at=day(6), event_id="u2"),
            tell(day(54), usage_reversed("u0", reversal="v3")),
            look(day(54), used=0, remaining=10, overage=0),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="a late refund is settled at its own instant, though usage as late is ignored",
        catalogue=catalogue(
            quota(late_usage=IGNORED, debt=DebtPolicy.CARRY),
            offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),
        ),
        life=(
            tell(day(1), bought()),
            tell(day(30), used(4)),
            tell(day(90), used(3), Outcome.IGNORED_LATE, happened_at=day(20)),
            tell(day(91), refunded(), happened_at=day(20)),
            look(day(91), allowed=False, limit=0, used=0, overage=4, debt=0),
        ),
        told=("api: access allocation limit state", "api: access limit state level overage"),
    ),
    Story(
        name="late usage that counts now is of whom the customer goes on as, late overage of the old one",
        catalogue=catalogue(
            quota(),
            quota("sms", late_usage=OVERAGE),
            offer("pack", gives(10, lasts="forever"), gives(10, "sms", lasts="forever")),
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), bought(order="o2"), customer="bob"),
            tell(day(10), merged()),
            tell(day(50), used(4), Outcome.COUNTED_LATE, happened_at=day(5)),
            tell(day(50, 1), used(4, "sms"), Outcome.OVERAGE_LATE, happened_at=day(5)),
            look(day(51), customer="bob", used=4, remaining=16, overage=0),
            look(day(51), "sms", customer="bob", used=0, remaining=20, overage=4),
        ),
        told=(
            "api: access allocation limit state",
            "sms: access allocation limit state",
            "api: access allocation limit state merged",
            "sms: access allocation limit state merged",
            "bob's api: access allocation limit state",
            "bob's sms: access allocation limit state",
            "bob's api: allocation limit",
            "bob's sms: allocation limit",
            "bob's sms: overage",
        ),
    ),
)
