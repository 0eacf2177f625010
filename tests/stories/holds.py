"""Services ask for units: to use them now, or to hold them and to decide later."""

from ledger_worker.domain.catalogue import DebtPolicy, RefundPolicy
from tests.domain.telling import (
    DAY,
    activated,
    bought,
    catalogue,
    confirm,
    consume,
    day,
    gives,
    hold,
    merged,
    offer,
    quota,
    refunded,
    release,
    renewed,
    used,
)
from tests.stories.story import Story, ask, look, tell

PACK = offer("pack", gives(10, lasts="forever"))

STORIES = (
    Story(
        name="a render farm holds what it may need, uses part of it and gives back the rest",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            ask(day(2), hold(8)),
            look(day(2, 1), limit=10, used=0, held=8, remaining=2),
            ask(day(2, 2), consume(3), "exhausted"),
            ask(day(2, 3), consume(2, "u2")),
            look(day(2, 4), allowed=False, reason="exhausted", remaining=0),
            ask(day(3), confirm(5)),
            look(day(3, 1), used=7, held=0, remaining=3),
            ask(day(4), release(), "hold_ended"),
        ),
        told=("api: access allocation limit state", "api: access state", "api: access state"),
    ),
    Story(
        name="nobody comes back for what is held, and it is free again to the second",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            ask(day(2), hold(10, seconds=DAY)),
            look(day(2, 23), allowed=False, remaining=0),
            look(day(3), allowed=True, remaining=10),
            ask(day(3, 1), confirm(), "hold_expired"),
        ),
        told=("api: access allocation limit state", "api: access state", "api: access state"),
    ),
    Story(
        name="a hold lasts across a renewal: what is used is of the old month, what comes back rolls over",
        catalogue=catalogue(quota(), offer("plan", gives(10, rollover_units=6))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            ask(day(9), hold(8, seconds=7 * DAY)),
            tell(day(10), renewed(day(11), day(21))),
            look(day(11), limit=12, used=0, held=0, remaining=12),
            ask(day(13), confirm(3)),
            look(day(13, 1), limit=16, used=0, remaining=16),
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
        name="a refund takes from under a hold, and what is confirmed all the same is overage",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought()),
            ask(day(2), hold(4)),
            tell(day(3), refunded()),
            look(day(3), allowed=False, reason="revoked", held=0),
            ask(day(4), confirm()),
            look(day(4, 1), used=0, overage=4, debt=0),
        ),
        told=("api: access allocation limit state", "api: access limit state", "api: level overage"),
    ),
    Story(
        name="late usage takes what was held, and the answer stands",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            ask(day(4), hold(7)),
            tell(day(5), used(5), happened_at=day(3)),
            look(day(5), used=5, held=5, remaining=0),
            ask(day(6), confirm()),
            look(day(6, 1), used=10, overage=2),
        ),
        told=(
            "api: access allocation limit state",
            "api: access state",
            "api: level overage",
        ),
    ),
    Story(
        name="who goes on as another confirms what was held before",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            ask(day(2), hold(7)),
            tell(day(3), merged()),
            look(day(3), customer="bob", held=7, remaining=3),
            ask(day(4), confirm(customer="bob")),
            look(day(4, 1), customer="bob", used=7, held=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state merged",
            "bob's api: access allocation limit state",
        ),
    ),
)
