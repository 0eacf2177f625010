"""Usage: which grant covers it, limits and thresholds, what comes late, and what is reversed."""

from ledger_worker.domain.catalogue import DebtPolicy, LimitPolicy, OveragePolicy, RefundPolicy, ReturnAfterEnd
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import (
    MINUTE,
    activated,
    bought,
    catalogue,
    day,
    gives,
    line,
    offer,
    paused,
    quota,
    refunded,
    renewed,
    resumed,
    usage_reversed,
    used,
)
from tests.stories.story import Story, look, tell

PACK = offer("pack", gives(10, lasts="forever"))
PLAN = offer("plan", gives(10))

STORIES = (
    Story(
        name="usage overtakes the purchase that paid for it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(3), used(4)),
            look(day(3), allowed=False, state="none", overage=4),
            tell(day(4), bought(), happened_at=day(2)),
            look(day(4), allowed=True, used=4, remaining=6, overage=0),
        ),
        told=("api: level overage", "api: access allocation limit state level overage"),
    ),
    Story(
        name="a pack is used up, more is bought, the thresholds are told on the way",
        catalogue=catalogue(quota(thresholds=(50, 100)), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(4)),
            look(day(2), used=4, level=0),
            tell(day(3), used(1)),
            look(day(3), used=5, level=50),
            tell(day(4), used(7)),
            look(day(4), allowed=False, state="exhausted", used=10, remaining=0, overage=2, level=100),
            tell(day(5), bought(order="o2")),
            look(day(5), allowed=True, limit=20, used=10, remaining=10, overage=2, level=50),
        ),
        told=(
            "api: access allocation limit state",
            "api: level",
            "api: access state level overage",
            "api: access allocation limit state level",
        ),
    ),
    Story(
        name="a plan burns before a pack when it ends sooner, and after it within its leeway",
        catalogue=catalogue(quota(), PLAN, offer("pack", gives(10, lasts="P10D"))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(1, 12), bought()),
            tell(day(5), used(4)),
            look(day(5), limit=20, used=4),
            look(day(11, 12), limit=10, used=0, remaining=10),
            tell(day(6), renewed(day(11), day(21))),
            look(day(11), limit=20, used=0, remaining=20),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: end",
            "api: end",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="an unlimited pack covers what the limited ones do not",
        catalogue=catalogue(quota(), PACK, offer("flat", gives(None, lasts="P10D"))),
        life=(
            tell(day(1), bought()),
            tell(day(2), bought(line("flat"), order="o2")),
            look(day(2), allowed=True, unlimited=True, limit=None, remaining=None, level=None),
            tell(day(3), used(50)),
            look(day(3), allowed=True, unlimited=True, used=50, overage=0),
            look(day(12), allowed=False, state="exhausted", unlimited=False, limit=10, used=10),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: access allocation limit state level",
        ),
    ),
    Story(
        name="a soft limit lets use go on, and its overage is carried to the next pack",
        catalogue=catalogue(quota(limit=LimitPolicy.SOFT, overage=OveragePolicy.CARRY), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(13)),
            look(day(2), allowed=True, used=10, remaining=0, overage=3),
            tell(day(3), bought(order="o2")),
            look(day(3), allowed=True, limit=20, used=13, remaining=7, overage=0),
        ),
        told=("api: access allocation limit state", "api: level overage", "api: allocation limit level overage"),
    ),
    Story(
        name="usage dated a little ahead counts when it was recorded",
        catalogue=catalogue(quota(), offer("pack", gives(10, lasts="P1D"))),
        life=(
            tell(day(1), bought()),
            tell(day(2) - MINUTE, used(4), happened_at=day(2) + MINUTE),
            look(day(2) - MINUTE, used=4, overage=0),
        ),
        told=("api: access allocation limit end state", "api: access allocation limit end state"),
    ),
    Story(
        name="usage that is reversed makes room for the usage after it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6), event_id="u1"),
            tell(day(3), used(6), event_id="u2"),
            look(day(3), used=10, remaining=0, overage=2),
            tell(day(4), usage_reversed("u1")),
            look(day(4), used=6, remaining=4, overage=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access state level overage",
            "api: access state level overage",
        ),
    ),
    Story(
        name="reversals of one usage add up, and take no more than was used",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6), event_id="u1"),
            tell(day(3), usage_reversed("u1", 4, "v1")),
            look(day(3), used=2),
            tell(day(4), usage_reversed("u1", 4, "v1"), Outcome.DUPLICATE_FACT),
            look(day(4), used=2),
            tell(day(5), usage_reversed("u1", 4, "v2")),
            look(day(5), used=0, remaining=10),
            tell(day(6), usage_reversed("u1", 1, "v3"), Outcome.NO_EFFECT),
            look(day(6), used=0, remaining=10),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="a reversal that arrives before its usage waits for it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(3), usage_reversed("u1", 4), Outcome.WAITING),
            look(day(3), used=0),
            tell(day(4), used(6), happened_at=day(2), event_id="u1"),
            look(day(4), used=2, remaining=8),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="what comes back after the end is lost, or given once more for as long, as the offer says",
        catalogue=catalogue(
            quota(),
            quota("sms"),
            offer(
                "pack",
                gives(10, lasts="P2D"),
                gives(10, "sms", lasts="P2D", return_after_end=ReturnAfterEnd.REGRANT),
            ),
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(7), event_id="u1"),
            tell(day(2), used(7, "sms"), event_id="u2"),
            look(day(3), allowed=False, state="expired"),
            tell(day(5), usage_reversed("u1", 4)),
            tell(day(5), usage_reversed("u2", 4, entitlement="sms")),
            look(day(5), allowed=False, state="expired"),
            look(day(5), "sms", allowed=True, limit=4, remaining=4, starts_at=day(5), expires_at=day(7)),
            look(day(7), "sms", allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "sms: access allocation limit end state",
            "sms: access allocation limit end state",
            "api: access allocation limit end state",
            "sms: access allocation limit end state",
            "sms: access allocation limit end state",
        ),
    ),
    Story(
        name="the lower priority number is burnt first, then what ends sooner",
        catalogue=catalogue(
            quota(),
            offer("late", gives(10, lasts="P9D")),
            offer("soon", gives(10, lasts="P2D")),
            offer("first", gives(10, lasts="forever", priority=1)),
        ),
        life=(
            tell(day(1), bought(line("late"), line("soon", line_id="l2"), line("first", line_id="l3"))),
            tell(day(2), used(15)),
            # Ten of what has priority, five of what ends sooner: of that, five expire.
            look(day(2), limit=30, used=15),
            look(day(3), limit=20, used=10, remaining=10),
            look(day(10), limit=10, used=10),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: access allocation limit state level",
        ),
    ),
    Story(
        name="use without a limit to count against is the highest threshold, and a new pack lowers it",
        catalogue=catalogue(quota(thresholds=(50, 80)), PACK),
        life=(
            tell(day(1), used(1)),
            look(day(1), limit=0, overage=1, level=80),
            tell(day(2), bought()),
            # Of the use before the pack nothing counts.
            look(day(2), limit=10, overage=0, level=0),
            tell(day(3), used(5)),
            look(day(3), level=50),
            tell(day(4), refunded(), happened_at=day(4)),
            look(day(4), limit=5, used=5, level=80),
        ),
        told=(
            "api: level overage",
            "api: access allocation limit state level overage",
            "api: level",
            "api: access limit state level",
        ),
    ),
    Story(
        name="a debt is not paid by what runs already, but by what begins next, the oldest debt first",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY),
            offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),
            offer("bit", gives(4, lasts="forever")),
        ),
        life=(
            tell(day(1), bought()),
            tell(day(1), bought(line("bit"), order="o2")),
            tell(day(2), used(6)),
            tell(day(3), refunded()),
            look(day(3), limit=4, used=0, remaining=4, debt=6),
            tell(day(4), bought(line("bit"), order="o3")),
            look(day(4), limit=8, used=4, remaining=4, debt=2),
            tell(day(5), bought(line("bit"), order="o4")),
            look(day(5), limit=12, used=6, remaining=6, debt=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: limit debt",
            "api: allocation limit",
            "api: allocation limit debt",
        ),
    ),
    Story(
        name="use that is suspended away stays overage when the suspension is over",
        catalogue=catalogue(quota(), PLAN, offer("pack", gives(10, lasts="P30D"))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(1), bought()),
            tell(day(3), paused(day(3))),
            tell(day(4), used(12)),
            # The pack covers what it can; the plan rests.
            look(day(4), limit=10, used=10, overage=2, suspension_causes=("pause/p1",)),
            tell(day(5), resumed(day(5))),
            look(day(5), limit=20, used=10, overage=2),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit end",
            "api: allocation limit",
            "api: access state level overage",
            "api: access allocation limit state level",
            "api: access allocation limit state level",
            "api: allocation limit end state level overage",
        ),
    ),
)
