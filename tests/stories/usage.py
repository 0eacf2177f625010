"""Usage: which grant covers it, limits and thresholds, what comes late, and what is reversed."""

from ledger_worker.domain.catalogue import LimitPolicy, OveragePolicy
from tests.domain.telling import MINUTE, activated, bought, catalogue, day, gives, line, offer, quota, renewed, used
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
)
