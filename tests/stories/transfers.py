"""Between customers: an order or a subscription goes to somebody else, and what is told of others' things."""

from ledger_worker.domain.catalogue import DebtPolicy, RefundPolicy
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import (
    access,
    activated,
    bought,
    catalogue,
    day,
    gives,
    line,
    offer,
    order_transferred,
    quota,
    refund_reversed,
    refunded,
    renewed,
    transferred,
    used,
)
from tests.stories.story import Story, look, tell

PACK = offer("pack", gives(10, lasts="forever"))
PLAN = offer("plan", gives(10))
FULL = offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))

STORIES = (
    Story(
        name="an order that goes to somebody else takes along what is left of it",
        catalogue=catalogue(quota(), offer("pack", gives(10, lasts="P30D"))),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), order_transferred("bob")),
            look(day(3), allowed=False, state="expired"),
            look(day(3), customer="bob", allowed=True, limit=4, remaining=4, starts_at=day(3), expires_at=day(31)),
            tell(day(4), used(3), customer="bob"),
            look(day(4), customer="bob", used=3, remaining=1),
            tell(day(5), used(1)),
            look(day(5), overage=1),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: level overage",
            "bob's api: access allocation limit end state",
            "bob's api: access allocation limit end state",
        ),
    ),
    Story(
        name="a refund after a transfer takes from the receiver, and makes a debt of whoever used the units",
        catalogue=catalogue(quota(debt=DebtPolicy.CARRY), FULL),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), order_transferred("bob")),
            tell(day(4), used(3), customer="bob"),
            tell(day(5), refunded(), customer="bob"),
            look(day(5), debt=6),
            look(day(5), customer="bob", allowed=False, limit=0, debt=3),
            tell(day(6), refund_reversed(), customer="bob"),
            look(day(6), debt=0),
            look(day(6), customer="bob", allowed=True, limit=4, used=3, debt=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: debt",
            "api: debt",
            "bob's api: access allocation limit state",
            "bob's api: access limit state debt",
            "bob's api: access limit state debt",
        ),
    ),
    Story(
        name="a refund of the receiver leaves the giver what it used",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(quantity=2))),
            tell(day(2), used(6)),
            tell(day(3), order_transferred("bob")),
            look(day(3), customer="bob", limit=14),
            tell(day(4), refunded(quantity=1), customer="bob"),
            look(day(4), customer="bob", limit=4),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "bob's api: access allocation limit state",
            "bob's api: limit",
        ),
    ),
    Story(
        name="a transfer told late takes back the use after it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(3)),
            tell(day(5), used(4)),
            look(day(5), used=7),
            tell(day(6), order_transferred("bob"), happened_at=day(4)),
            look(day(6), allowed=False, overage=4),
            look(day(6), customer="bob", limit=7, remaining=7),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state level overage",
            "bob's api: access allocation limit state",
        ),
    ),
    Story(
        name="usage of the giver that is told late leaves less for the receiver",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(3), order_transferred("bob")),
            look(day(3), customer="bob", limit=10),
            tell(day(4), used(6), happened_at=day(2)),
            look(day(4), customer="bob", limit=4),
            look(day(4), overage=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "bob's api: access allocation limit state",
            "bob's api: allocation limit",
        ),
    ),
    Story(
        name="an order goes on from hand to hand",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(1)),
            tell(day(3), order_transferred("bob", "t1")),
            tell(day(4), used(2), customer="bob"),
            tell(day(5), order_transferred("cyd", "t2"), customer="bob"),
            look(day(5), customer="bob", allowed=False, limit=0),
            look(day(5), customer="cyd", allowed=True, limit=7),
            tell(day(6), refunded(), customer="cyd"),
            look(day(6), customer="cyd", allowed=False, state="revoked", limit=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "bob's api: access allocation limit state",
            "bob's api: access allocation limit state",
            "cyd's api: access allocation limit state",
            "cyd's api: access limit state",
        ),
    ),
    Story(
        name="a subscription goes to somebody else, and is renewed and rolls over there",
        catalogue=catalogue(quota(), offer("plan", gives(10, rollover_units=5))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(2), used(7)),
            tell(day(6), transferred("bob")),
            look(day(6), allowed=False, state="expired"),
            look(day(6), customer="bob", allowed=True, limit=3, period_end=day(11), expires_at=day(12)),
            tell(day(11), renewed(day(11), day(21)), customer="bob"),
            look(day(11), customer="bob", limit=13, expires_at=day(22)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "bob's api: access allocation limit end state",
            "bob's api: allocation limit end",
            "bob's api: access allocation limit end state",
        ),
    ),
    Story(
        name="access goes along with the order that gave it",
        catalogue=catalogue(access(), offer("pack", gives(None, "video", lasts="forever"))),
        life=(
            tell(day(1), bought()),
            tell(day(3), order_transferred("bob")),
            look(day(3), "video", allowed=False, state="expired"),
            look(day(3), "video", customer="bob", allowed=True),
        ),
        told=(
            "video: access state",
            "video: access state",
            "bob's video: access state",
        ),
    ),
    Story(
        name="what is told of somebody else's order waits for the transfer that explains it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(3), refunded(), Outcome.AWAITING_TRANSFER, customer="bob"),
            look(day(3), allowed=True, limit=10),
            tell(day(4), order_transferred("bob"), happened_at=day(2)),
            look(day(4), allowed=False, state="expired"),
            look(day(4), customer="bob", allowed=False, state="revoked"),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "bob's api: allocation state",
        ),
    ),
    Story(
        name="a transfer that arrives before its order is true when the order comes",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(3), order_transferred("bob"), Outcome.NO_EFFECT),
            tell(day(4), bought(), happened_at=day(1)),
            look(day(4), allowed=False),
            look(day(4), customer="bob", allowed=True, limit=10, starts_at=day(3)),
        ),
        told=(
            "api: state",
            "bob's api: access allocation limit state",
        ),
    ),
    Story(
        name="only who has an order can give it away",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), order_transferred("bob", "t1")),
            tell(day(3), order_transferred("cyd", "t2"), Outcome.WAITING),
            look(day(3), customer="bob", limit=10),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "bob's api: access allocation limit state",
        ),
    ),
)
