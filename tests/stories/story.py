"""Customers' lives as a table, and what reads it.

A story is steps in their order of arrival: what is told, when it arrives, and the outcome expected; what is asked, and
how it is answered; versions of offers published on the way; and looks: what a read at an instant shows. A look changes
nothing, so it may ask about any instant that is not before the last step.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from ledger_worker.domain.catalogue import Allowance, Apply, Catalogue, Offer
from ledger_worker.domain.changes import Change, EntitlementPicture
from ledger_worker.domain.events import Event, Fact, OfferReached
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.requests import Asked
from ledger_worker.domain.sources import SourceState, facts_of, skus_of
from tests.domain.telling import told

ADA = "ada"


class Step(msgspec.Struct, frozen=True):
    """`fact` happened at `happened_at` and arrives at `arrives_at`.

    Its outcome is `becomes`; of a refusal, the reason.
    """

    arrives_at: datetime
    happened_at: datetime
    fact: Fact
    becomes: str
    version: int | None
    event_id: str | None
    customer: str


class Look(msgspec.Struct, frozen=True):
    """A read of one entitlement of a customer at `at` shows these fields of its picture."""

    at: datetime
    entitlement: str
    customer: str
    shows: dict[str, object]


class Ask(msgspec.Struct, frozen=True):
    """Something is asked at `at`: it is granted, or refused for the reason that it `becomes`."""

    at: datetime
    asked: Asked
    becomes: str

    @property
    def customer(self) -> str:
        """Of whom it is asked."""
        return self.asked.customer_id


class Publication(msgspec.Struct, frozen=True):
    """The next version of the SKU's offer is published at `at`, and reaches what exists as `apply` says."""

    at: datetime
    sku: str
    allowances: tuple[Allowance, ...]
    apply: Apply

    def onto(self, known: Catalogue) -> tuple[Offer, Catalogue]:
        """The version, and the catalogue with it."""
        version = Offer(
            sku=self.sku,
            allowances=self.allowances,
            apply=self.apply,
            version=len(known.offers.get(self.sku, ())) + 1,
            published_at=self.at,
            catalogue_version=known.version + 1,
        )
        offers = known.offers | {self.sku: (*known.offers.get(self.sku, ()), version)}
        return version, msgspec.structs.replace(known, version=version.catalogue_version, offers=offers)

    def reached(self, offered: Catalogue, sources: Mapping[str, SourceState]) -> Iterator[Event]:
        """What publishing tells the ledger: one event for each source that named the SKU before."""
        if self.apply is Apply.NEW_ONLY:
            return
        for source_key, state in sorted(sources.items()):
            if any(self.sku in skus_of(fact) for fact in facts_of(state)):
                fact = OfferReached(source_key=source_key, catalogue_version=offered.version)
                event_id = f"{source_key} by {offered.version}"
                yield told(event_id, self.at, fact, source="ledger", customer=state.claimant)


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """`told` are the kinds of all changes told, in order, once the clock has passed the last look.

    Ada's first, then those of whom else the story is about.
    """

    name: str
    catalogue: Catalogue
    life: tuple[Step | Look | Ask | Publication, ...]
    told: tuple[str, ...]

    def customers(self) -> list[str]:
        """Ada, and everybody whom anything is told of or who is looked at, in order."""
        others = {one.customer for one in self.life if not isinstance(one, Publication)}
        return [ADA, *sorted(others - {ADA})]

    def events(self) -> Iterator[Event]:
        """The events of its steps."""
        steps = (one for one in self.life if isinstance(one, Step))
        for place, step in enumerate(steps):
            event_id = step.event_id or f"e{place}"
            yield told(event_id, step.happened_at, step.fact, version=step.version, customer=step.customer)

    def last_instant(self) -> datetime:
        """When the last step arrives, or of the last look if that is later."""
        return max(one.arrives_at if isinstance(one, Step) else one.at for one in self.life)


def tell(
    arrives_at: datetime,
    fact: Fact,
    becomes: Outcome | str = Outcome.APPLIED,
    *,
    happened_at: datetime | None = None,
    version: int | None = None,
    event_id: str | None = None,
    customer: str = ADA,
) -> Step:
    """A step; it happened when it arrives unless said otherwise."""
    return Step(arrives_at, happened_at or arrives_at, fact, str(becomes), version, event_id, customer)


def ask(at: datetime, asked: Asked, becomes: str = "granted") -> Ask:
    """It is granted unless said otherwise."""
    return Ask(at, asked, becomes)


def look(at: datetime, entitlement: str = "api", *, customer: str = ADA, **shows: object) -> Look:
    """`shows` are fields of the picture by name; one that is not named may be anything."""
    return Look(at, entitlement, customer, shows)


def publish(at: datetime, sku: str, *allowances: Allowance, apply: Apply = Apply.NEW_ONLY) -> Publication:
    """Whoever has the SKU keeps what he has, unless said otherwise."""
    return Publication(at, sku, allowances, apply)


def mismatches(shown: EntitlementPicture | None, expected: Look) -> dict[str, object]:
    """The fields of the look that the picture shows otherwise."""
    return {
        field: getattr(shown, field, None)
        for field, value in expected.shows.items()
        if getattr(shown, field, None) != value
    }


def in_words(change: Change) -> str:
    """What a change says differs, as a story writes it."""
    whose = "" if change.customer_id == ADA else f"{change.customer_id}'s "
    return f"{whose}{change.entitlement}: {' '.join(change.kinds)}"
