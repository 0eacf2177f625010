"""A customer's life as a table, and what reads it.

A story is steps in their order of arrival: what is told, when it arrives, and the outcome expected; and looks: what a
read at an instant shows. A look changes nothing, so it may ask about any instant that is not before the last step.
"""

from datetime import datetime

import msgspec

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import Event, Fact
from ledger_worker.domain.outcomes import Outcome
from tests.domain.telling import told


class Step(msgspec.Struct, frozen=True):
    """`fact` happened at `happened_at` and arrives at `arrives_at`; its outcome is `becomes` (a refusal.

    Its reason).
    """

    arrives_at: datetime
    happened_at: datetime
    fact: Fact
    becomes: str
    version: int | None
    event_id: str | None


class Look(msgspec.Struct, frozen=True):
    """A read of one entitlement at `at` shows these fields of its picture."""

    at: datetime
    entitlement: str
    shows: dict[str, object]


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One customer. `told` are the kinds of all changes told, in order, once the clock has passed the last look."""

    name: str
    catalogue: Catalogue
    life: tuple[Step | Look, ...]
    told: tuple[str, ...]

    def events(self) -> list[tuple[Step, Event]]:
        steps = [one for one in self.life if isinstance(one, Step)]
        return [
            (
                step,
                told(step.event_id or f"e{place}", step.happened_at, step.fact, version=step.version),
            )
            for place, step in enumerate(steps)
        ]


def tell(
    arrives_at: datetime,
    fact: Fact,
    becomes: Outcome | str = Outcome.APPLIED,
    *,
    happened_at: datetime | None = None,
    version: int | None = None,
    event_id: str | None = None,
) -> Step:
    """A step; it happened when it arrives unless said otherwise."""
    return Step(arrives_at, happened_at or arrives_at, fact, str(becomes), version, event_id)


def look(at: datetime, entitlement: str = "api", **shows: object) -> Look:
    return Look(at, entitlement, shows)


def mismatches(shown: EntitlementPicture | None, expected: Look) -> dict[str, object]:
    """The fields of the look that the picture shows otherwise."""
    return {
        field: getattr(shown, field, None)
        for field, value in expected.shows.items()
        if getattr(shown, field, None) != value
    }
