"""Offers published while customers have them: what a new version reaches, and what it leaves alone."""

from ledger_worker.domain.catalogue import Apply
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import activated, bought, catalogue, day, gives, offer, quota, refunded, renewed, used
from tests.stories.story import Story, look, publish, tell

PLAN = offer("plan", gives(10))
PACK = offer("pack", gives(10, lasts="forever"))

STORIES = (
    Story(
        name="a version for what is new leaves what exists as it is, renewals too",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            publish(day(5), "plan", gives(30), apply=Apply.NEW_ONLY),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=10),
            tell(day(12), activated(day(12), day(22), subscription="s2")),
            look(day(12), limit=40),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: allocation limit end",
            "api: allocation limit",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a version for the next period is given with it",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            publish(day(5), "plan", gives(30), apply=Apply.NEXT_PERIOD),
            look(day(5), limit=10),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=30),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a version for now is given at once, less what was used",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(6)),
            publish(day(5), "plan", gives(30), apply=Apply.NOW),
            look(day(5), limit=24, used=0, expires_at=day(12)),
            tell(day(11), renewed(day(11), day(21))),
            look(day(11), limit=30),
        ),
        told=(
            "api: access allocation limit end state",
            "api: allocation limit",
            "api: limit end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what is the same in a new version goes on untouched",
        catalogue=catalogue(quota(), quota("sms"), offer("plan", gives(10), gives(5, "sms"))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(2, "sms")),
            publish(day(5), "plan", gives(30), gives(5, "sms"), apply=Apply.NOW),
            look(day(5), limit=30),
            look(day(5), "sms", limit=5, used=2, starts_at=day(1)),
        ),
        told=(
            "api: access allocation limit end state",
            "sms: access allocation limit end state",
            "api: allocation limit",
            "sms: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what was bought before there was an offer is given when the first one is published for now",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), bought(), Outcome.NO_OFFER),
            tell(day(2), used(3)),
            look(day(2), allowed=False, overage=3),
            publish(day(5), "pack", gives(10, lasts="forever"), apply=Apply.NOW),
            look(day(5), allowed=True, limit=10, used=3, overage=0, starts_at=day(1)),
        ),
        told=(
            "api: level overage",
            "api: access allocation limit state level overage",
        ),
    ),
    Story(
        name="what was bought before there was an offer stays without one where it is for what is new",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), bought(), Outcome.NO_OFFER),
            publish(day(5), "pack", gives(10, lasts="forever"), apply=Apply.NEW_ONLY),
            look(day(5), allowed=None),
            tell(day(6), bought(order="o2")),
            look(day(6), allowed=True, limit=10),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="a version for now reaches what was bought for good, and a refund takes of both",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(4)),
            publish(day(5), "pack", gives(30, lasts="forever"), apply=Apply.NOW),
            look(day(5), limit=26, used=0),
            tell(day(6), refunded()),
            look(day(6), allowed=False, limit=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: access limit state",
        ),
    ),
)
