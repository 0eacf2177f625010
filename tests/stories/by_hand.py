"""What people give by hand: assigned, extended, given once more, revoked."""

from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from tests.domain.telling import (
    access,
    assigned,
    assigned_again,
    assignment_extended,
    assignment_revoked,
    bought,
    catalogue,
    day,
    gives,
    offer,
    quota,
    used,
)
from tests.stories.story import Story, look, tell

PACK = offer("pack", gives(10, lasts="forever"))

STORIES = (
    Story(
        name="a person gives units for a while, a while longer, once more, and takes them back",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), assigned(5, day(1), day(5))),
            look(day(1), allowed=True, limit=5, expires_at=day(5)),
            tell(day(2), assignment_extended(day(6))),
            look(day(2), expires_at=day(6)),
            look(day(6), allowed=False, state="expired"),
            tell(day(7), assigned_again(day(7), day(17))),
            look(day(7), allowed=True, limit=5, expires_at=day(17)),
            tell(day(8), used(2)),
            tell(day(9), assignment_revoked(day(9))),
            look(day(9), allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what a person gives burns by its priority, beside what was bought",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(1), bought()),
            tell(day(2), assigned(5, day(2), priority=1)),
            tell(day(3), used(6)),
            tell(day(4), assignment_revoked(day(4))),
            # The gift was used up first, one unit of the pack after it.
            look(day(4), limit=10, used=1),
        ),
        told=(
            "api: access allocation limit state",
            "api: allocation limit",
            "api: allocation limit",
        ),
    ),
    Story(
        name="a person gives access, and as much as is wanted",
        catalogue=catalogue(quota(), access(), PACK),
        life=(
            tell(day(1), assigned(None, day(1), day(3), entitlement="video", assignment="a1")),
            tell(day(1), assigned(None, day(2), day(3), assignment="a2")),
            look(day(1), "video", allowed=True, expires_at=day(3)),
            look(day(1), state="pending", starts_at=day(2)),
            look(day(2), allowed=True, unlimited=True, limit=None),
            look(day(3), "video", allowed=False, state="expired"),
        ),
        told=(
            "video: access end state",
            "api: state",
            "api: access allocation limit end state",
            "video: access end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="what is done to an assignment that nobody told of waits for it",
        catalogue=catalogue(quota(), PACK),
        life=(
            tell(day(2), assignment_extended(day(9)), Outcome.WAITING),
            tell(day(3), assigned(5, day(1), day(5)), happened_at=day(1)),
            look(day(3), allowed=True, expires_at=day(9)),
            tell(day(4), assigned(5, day(1), day(5)), Outcome.DUPLICATE_FACT, happened_at=day(1), event_id="again"),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="units cannot be given of what has none, nor anything of what is unknown",
        catalogue=catalogue(quota(), access(), PACK),
        life=(
            tell(day(1), assigned(5, day(1), entitlement="video"), DeadLetterReason.WRONG_TYPE),
            tell(day(1), assigned(5, day(1), entitlement="unheard-of"), DeadLetterReason.UNKNOWN_ENTITLEMENT),
        ),
        told=(),
    ),
)
