"""Orders: purchases, corrections, refunds and what they leave owing, disputes."""

from ledger_worker.domain.catalogue import DebtPolicy, RefundPolicy
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from tests.domain.telling import (
    MINUTE,
    access,
    bought,
    catalogue,
    day,
    dispute_lost,
    dispute_opened,
    dispute_won,
    gives,
    line,
    line_refunded,
    offer,
    quota,
    refund_reversed,
    refunded,
    usage_reversed,
    used,
)
from tests.stories.story import Story, look, tell

PACK = offer("pack", gives(10, lasts="forever"))

STORIES = (
    Story(
        name="a purchase is usable at once, and is told",
        catalogue=catalogue(
            quota(), access(), offer("pack", gives(10, lasts="P30D"), gives(None, "video", lasts="P30D"))
        ),
        life=(
            look(day(1), allowed=None),
            tell(day(2), bought(line(quantity=3))),
            look(day(2), allowed=True, limit=30, used=0, remaining=30, starts_at=day(2), expires_at=day(32)),
            look(day(2), "video", allowed=True, limit=None, expires_at=day(32)),
            look(day(32) - MINUTE, allowed=True),
            look(day(32), allowed=False, state="expired", limit=0, remaining=0, expires_at=None),
            look(day(32), "video", allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "video: access end state",
            "api: access allocation limit end state",
            "video: access end state",
        ),
    ),
    Story(
        name="a whole refund takes what is unused, and usage that comes late takes it back",
        catalogue=catalogue(quota(), offer("pack", gives(100, lasts="forever"))),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(60)),
            tell(day(5), refunded()),
            look(day(5), allowed=False, state="exhausted", limit=60, used=60, remaining=0),
            tell(day(6), used(30), happened_at=day(4)),
            look(day(6), limit=90, used=90, overage=0),
            tell(day(7), used(1)),
            look(day(7), used=90, overage=1),
        ),
        told=(
            "api: access allocation limit state",
            "api: access limit state level",
            "api: limit",
            "api: overage",
        ),
    ),
    Story(
        name="three refunds of a third take the whole",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(amount=300))),
            tell(day(2), refunded("r1", of_line=100)),
            look(day(2), limit=7),
            tell(day(3), refunded("r2", amount=100)),
            look(day(3), limit=4),
            tell(day(4), refunded("r3", of_line=100)),
            look(day(4), allowed=False, state="revoked", limit=0),
            tell(day(5), refunded("r4", of_line=100), Outcome.OVER_REFUNDED),
            tell(day(6), refunded("r5", amount=100), Outcome.NOTHING_TO_REFUND),
        ),
        told=("api: access allocation limit state", "api: limit", "api: limit", "api: access limit state"),
    ),
    Story(
        name="a refund that takes all makes a debt, which the next purchase pays first",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), refunded()),
            look(day(3), allowed=False, state="revoked", limit=0, used=0, debt=6, overage=0),
            tell(day(4), bought(order="o2")),
            look(day(4), allowed=True, limit=10, used=6, remaining=4, debt=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access limit state debt",
            "api: access allocation limit state debt",
        ),
    ),
    Story(
        name="a debt that blocks refuses until it is paid, although there are units",
        catalogue=catalogue(
            quota(debt=DebtPolicy.BLOCK), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(1, 1), bought(order="o2")),
            tell(day(2), used(6)),
            tell(day(3), refunded()),
            look(day(3), allowed=False, reason="in_debt", remaining=10, debt=6),
            tell(day(4), bought(order="o3")),
            look(day(4), allowed=True, reason="allowed", remaining=14, debt=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: access limit debt",
            "api: access allocation limit debt",
        ),
    ),
    Story(
        name="a debt is forgiven where the entitlement says so",
        catalogue=catalogue(
            quota(debt=DebtPolicy.FORGIVE),
            offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), refunded()),
            look(day(3), limit=0, used=0, debt=0, forgiven=6),
            tell(day(4), bought(order="o2")),
            look(day(4), remaining=10, forgiven=6),
        ),
        told=(
            "api: access allocation limit state",
            "api: access limit state",
            "api: access allocation limit state",
        ),
    ),
    Story(
        name="a prorated refund takes the unused time's share",
        catalogue=catalogue(quota(), offer("pack", gives(10, lasts="P10D", refund=RefundPolicy.PRORATE))),
        life=(
            tell(day(1), bought()),
            tell(day(4), refunded()),
            look(day(4), allowed=True, limit=3, remaining=3),
            look(day(11), allowed=False, state="expired"),
        ),
        told=("api: access allocation limit end state", "api: limit", "api: access allocation limit end state"),
    ),
    Story(
        name="a refund that arrives before its order waits for it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(3), refunded(), Outcome.WAITING),
            look(day(3), allowed=None),
            tell(day(4), bought(), happened_at=day(1)),
            look(day(4), allowed=False, state="revoked"),
        ),
        told=("api: allocation state",),
    ),
    Story(
        name="what is told twice happens once",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(3), event_id="u"),
            tell(day(3), used(3), Outcome.DUPLICATE, happened_at=day(2), event_id="u"),
            tell(day(4), bought(), Outcome.DUPLICATE_FACT, event_id="the order again, by another system"),
            tell(day(5), used(4), DeadLetterReason.CONFLICTING_CONTENT, happened_at=day(2), event_id="u"),
            look(day(5), limit=10, used=3),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="what cannot be is refused and harms nothing",
        catalogue=catalogue(quota(), access(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(1, "unheard-of"), DeadLetterReason.UNKNOWN_ENTITLEMENT),
            tell(day(2), used(1, "video"), DeadLetterReason.WRONG_TYPE),
            tell(day(2), used(1), DeadLetterReason.TOO_EARLY, happened_at=day(3)),
            tell(day(500), used(1), DeadLetterReason.TOO_LATE, happened_at=day(2)),
            tell(day(501), bought(line("unheard-of"), order="o2"), Outcome.NO_OFFER),
            look(day(501), limit=10, used=0),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="versions order what the instants would not",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(3), bought(line(quantity=2)), happened_at=day(2), version=2),
            look(day(3), limit=20, starts_at=day(2)),
            tell(day(4), bought(line(quantity=1)), happened_at=day(3), version=1),
            look(day(4), limit=20, starts_at=day(3)),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="a corrected order gives what it should have given from the beginning",
        catalogue=catalogue(quota(), PACK, offer("large", gives(100, lasts="forever"))),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(14)),
            look(day(2), used=10, overage=4),
            tell(day(3), bought(line("large")), version=None),
            look(day(3), limit=100, used=14, overage=0, starts_at=day(1)),
        ),
        told=(
            "api: access allocation limit state",
            "api: access state level overage",
            "api: access allocation limit state level overage",
        ),
    ),
    Story(
        name="a refund of one line leaves the other",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(), line(line_id="l2", quantity=2))),
            look(day(1), limit=30),
            tell(day(2), line_refunded("l2")),
            look(day(2), limit=10),
            tell(day(3), line_refunded("l2", "r2"), Outcome.NO_EFFECT),
            look(day(3), limit=10),
        ),
        told=(
            "api: access allocation limit state",
            "api: limit",
        ),
    ),
    Story(
        name="a refund by quantity takes the units of as many, and no more than there are",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(quantity=3))),
            tell(day(2), refunded("r1", quantity=1)),
            look(day(2), limit=20),
            tell(day(3), refunded("r2", quantity=5), Outcome.OVER_REFUNDED),
            look(day(3), allowed=False, state="revoked", limit=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: limit",
            "api: access limit state",
        ),
    ),
    Story(
        name="a refund by amount is spread over what is left of each line",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(amount=300), line(line_id="l2", amount=100))),
            tell(day(2), refunded("r1", of_line=300)),
            look(day(2), limit=10),
            # Of the order 100 are left, all of them the second line's.
            tell(day(3), refunded("r2", amount=50)),
            look(day(3), limit=5),
        ),
        told=(
            "api: access allocation limit state",
            "api: limit",
            "api: limit",
        ),
    ),
    Story(
        name="an order without amounts has nothing to refund by amount",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), refunded("r1", amount=50), Outcome.NOTHING_TO_REFUND),
            tell(day(3), refunded("r2", of_line=50), Outcome.NOTHING_TO_REFUND),
            look(day(3), limit=10),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="access goes when all of its line is refunded, and not before",
        catalogue=catalogue(
            quota(), access(), offer("pack", gives(10, lasts="forever"), gives(None, "video", lasts="forever"))
        ),
        life=(
            tell(day(1), bought(line(amount=300))),
            tell(day(2), refunded("r1", amount=200)),
            look(day(2), limit=4),
            look(day(2), "video", allowed=True),
            tell(day(3), refunded("r2", amount=100)),
            look(day(3), limit=0),
            look(day(3), "video", allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit state",
            "video: access state",
            "api: limit",
            "api: access limit state",
            "video: access state",
        ),
    ),
    Story(
        name="a refund that is reversed gives back all that it took, the debt it made included",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), refunded()),
            look(day(3), allowed=False, limit=0, used=0, debt=6),
            tell(day(4), refund_reversed()),
            look(day(4), allowed=True, limit=10, used=6, remaining=4, debt=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access limit state debt",
            "api: access limit state debt",
        ),
    ),
    Story(
        name="a reversal that arrives before its refund waits, and then there is no refund",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(3), refund_reversed(), Outcome.WAITING),
            tell(day(4), refunded(), Outcome.NO_EFFECT, happened_at=day(2)),
            look(day(4), limit=10),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="what comes back later goes to an open refund first",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6), event_id="u1"),
            tell(day(3), refunded()),
            look(day(3), state="exhausted", limit=6, used=6),
            tell(day(4), usage_reversed("u1", 5)),
            look(day(4), allowed=False, limit=1, used=1),
        ),
        told=(
            "api: access allocation limit state",
            "api: access limit state level",
            "api: limit",
        ),
    ),
    Story(
        name="a refund that takes all takes what expired before it takes what was used",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="P1D", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought(line(quantity=2))),
            tell(day(1, 12), used(12)),
            look(day(2), state="expired"),
            # Of the twenty, eight expired unused: a refund of ten makes a debt of two.
            tell(day(3), refunded(quantity=1)),
            look(day(3), debt=2),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: debt",
        ),
    ),
    Story(
        name="an order of what lasts a period gives nothing, for an order has none",
        catalogue=catalogue(quota(), quota("sms"), offer("plan", gives(10), gives(5, "sms", lasts="P10D"))),
        life=(
            tell(day(1), bought(line("plan")), Outcome.NO_PERIOD),
            look(day(1), allowed=None),
            look(day(1), "sms", allowed=True, limit=5, expires_at=day(11)),
        ),
        told=(
            "sms: access allocation limit end state",
            "sms: access allocation limit end state",
        ),
    ),
    Story(
        name="a dispute blocks what the order gave until it is won, and use meanwhile stays overage",
        catalogue=catalogue(quota(), offer("pack", gives(10, lasts="P10D"))),
        life=(
            tell(day(1), bought()),
            tell(day(3), dispute_opened()),
            look(day(3), allowed=False, state="suspended", limit=0, suspension_causes=("dispute/d1",)),
            tell(day(4), used(2)),
            look(day(4), used=0, overage=2),
            tell(day(5), dispute_won()),
            look(day(5), allowed=True, limit=10, used=0, overage=2, suspension_causes=None, expires_at=day(11)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: level overage",
            "api: access allocation limit end state level",
            "api: access allocation limit end state overage",
        ),
    ),
    Story(
        name="a dispute that was won gives its time back where the offer says so",
        catalogue=catalogue(quota(), offer("pack", gives(10, lasts="P10D", extend_on_won=True))),
        life=(
            tell(day(1), bought()),
            tell(day(3), dispute_opened()),
            tell(day(5), dispute_won()),
            look(day(5), allowed=True, expires_at=day(13)),
            look(day(12), allowed=True),
            look(day(13), allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a dispute that was lost takes like a refund, with debt for what was used",
        catalogue=catalogue(
            quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), used(6)),
            tell(day(3), dispute_opened()),
            tell(day(9), dispute_lost()),
            look(day(9), allowed=False, state="revoked", limit=0, debt=6, suspension_causes=None),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: allocation state debt",
        ),
    ),
    Story(
        name="a dispute over a part of the order that was lost takes that part",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought(line(amount=100))),
            tell(day(2), dispute_opened()),
            tell(day(3), dispute_lost(amount=30)),
            look(day(3), allowed=True, limit=7),
            tell(day(4), refunded("r1", of_line=60)),
            look(day(4), limit=1),
            tell(day(5), refunded("r2", of_line=60), Outcome.OVER_REFUNDED),
            look(day(5), limit=0),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: limit",
            "api: access limit state",
        ),
    ),
    Story(
        name="what is told last of how a dispute ended is true",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), dispute_opened()),
            tell(day(3), dispute_lost()),
            look(day(3), allowed=False, state="revoked"),
            tell(day(5), dispute_won()),
            look(day(5), allowed=True, limit=10),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: allocation state",
            "api: access limit state",
        ),
    ),
    Story(
        name="an order is blocked as long as one of its disputes is open",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), dispute_opened("d1")),
            tell(day(3), dispute_opened("d2")),
            look(day(3), suspension_causes=("dispute/d1", "dispute/d2")),
            tell(day(4), dispute_won("d1")),
            look(day(4), allowed=False, suspension_causes=("dispute/d2",)),
            tell(day(5), dispute_won("d2")),
            look(day(5), allowed=True),
        ),
        told=(
            "api: access allocation limit state",
            "api: access allocation limit state",
            "api: access allocation limit state",
        ),
    ),
    Story(
        name="an end of a dispute that arrives before its opening waits for it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(4), dispute_won(), Outcome.WAITING),
            tell(day(5), used(2), happened_at=day(3)),
            look(day(5), used=2, overage=0),
            tell(day(6), dispute_opened(), happened_at=day(2)),
            look(day(6), allowed=True, used=0, overage=2),
        ),
        told=(
            "api: access allocation limit state",
            "api: overage",
        ),
    ),
    Story(
        name="a dispute that ended before it was opened never was",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(3), dispute_won(), Outcome.WAITING),
            tell(day(4), dispute_opened(), Outcome.CONTRADICTED),
            look(day(4), allowed=True, limit=10),
        ),
        told=("api: access allocation limit state",),
    ),
    Story(
        name="a prorated refund does not count the time that a won dispute stopped",
        catalogue=catalogue(
            quota(), offer("pack", gives(10, lasts="P10D", refund=RefundPolicy.PRORATE, extend_on_won=True))
        ),
        life=(
            tell(day(1), bought()),
            tell(day(2), dispute_opened()),
            tell(day(6), dispute_won()),
            look(day(6), expires_at=day(15)),
            # One day of ten was lived through.
            tell(day(6), refunded()),
            look(day(6), limit=1),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: limit",
            "api: access allocation limit end state",
        ),
    ),
)
