"""Ids are their senders' words: none is taken for something of the ledger's own."""

import pytest

from ledger_worker.domain.catalogue import Apply
from ledger_worker.domain.events import OfferReached
from tests.domain.agreement import assert_all
from tests.domain.driver import Life
from tests.domain.telling import activated, catalogue, day, gives, offer, paused, quantity_changed, quota, told


@pytest.mark.parametrize("change_id", ["c9", "offer/2"])
def test_no_change_is_taken_for_a_version_of_the_offer(change_id: str) -> None:
    first = offer("plan", gives(10), published_at=day(1))
    second = offer("plan", gives(20), version=2, published_at=day(6), apply=Apply.NOW, catalogue_version=2)
    life = Life(catalogue(quota(), first))
    life.tell((told("a", day(1), activated(day(1), day(31))), day(1)))
    life.tell((told("q", day(3), quantity_changed(2, day(3), change_id)), day(3)))

    life.catalogue = catalogue(quota(), first, second, version=2)
    reached = OfferReached(source_key="subscription/s1", catalogue_version=2)
    life.tell((told("reached", day(6), reached, source="ledger"), day(6)))

    began = sorted((grant.terms.effective_at, grant.granted) for grant in life.grants.values())
    assert began == [(day(1), 10), (day(3), 10), (day(6), 40)]
    assert_all(life)


@pytest.mark.parametrize("pause_id", ["p1", "p1/lift"])
def test_no_pause_is_taken_for_the_end_of_another(pause_id: str) -> None:
    life = Life(catalogue(quota(), offer("plan", gives(10))))
    life.tell((told("a", day(1), activated(day(1), day(31))), day(1)))
    life.tell((told("p", day(2), paused(day(10), pause=pause_id)), day(2)))

    upcoming = life.picture("api", day(3)).upcoming
    assert upcoming is not None
    assert '"what":"suspended"' in upcoming
    assert "lifted" not in upcoming
