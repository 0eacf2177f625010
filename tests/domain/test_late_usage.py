"""Usage that is told a little late costs no run where it could as well stand last, and comes to the same bytes."""

from datetime import timedelta

import pytest

from ledger_worker.domain.catalogue import Catalogue, DebtPolicy, RefundPolicy
from ledger_worker.domain.events import Event
from tests.domain.driver import Life, without_states
from tests.domain.telling import PACK_OF_TEN, bought, catalogue, day, gives, line, offer, quota, refunded, told, used

NOW = day(20)
_TWO_PACKS = catalogue(
    quota(debt=DebtPolicy.CARRY),
    offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),
    offer("first", gives(4, lasts="forever", priority=1)),
)
_LIVES = {
    "the grant has units left": (told("a", day(4), used(3)), told("b", day(3), used(2))),
    "the grant has just as many left": (told("a", day(4), used(3)), told("b", day(3), used(7))),
    "the grant has too few left": (told("a", day(4), used(3)), told("b", day(3), used(8))),
    "another began since then": (
        told("more", day(4), bought(line("first"), order="o2")),
        told("a", day(5), used(3)),
        told("b", day(3), used(2)),
    ),
    "another burnt first and is used up": (
        told("more", day(2), bought(line("first"), order="o2")),
        told("a", day(5), used(5)),
        told("b", day(3), used(2)),
    ),
    "units were taken back since then": (
        told("a", day(3), used(1)),
        told("r", day(4), refunded(quantity=1)),
        told("b", day(3, 1), used(2)),
    ),
    "what was used is taken back afterwards, the latest first": (
        told("a", day(4), used(3)),
        told("b", day(3), used(5)),
        told("r", day(6), refunded(quantity=1)),
        told("late", day(5), used(1)),
    ),
}


@pytest.mark.parametrize("name", _LIVES)
def test_a_step_for_late_usage_comes_to_the_same_bytes_as_settling_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = _lived(_TWO_PACKS, *_LIVES[name])

    monkeypatch.setattr("ledger_worker.domain.settlement.could_be_last", lambda _book, _usage: False)
    again = _lived(_TWO_PACKS, *_LIVES[name])

    assert stepped.postings == again.postings
    assert stepped.changes == again.changes
    assert without_states(stepped.accounts["api"]) == without_states(again.accounts["api"])
    assert stepped.grants == again.grants


def test_usage_that_overtook_other_usage_asks_for_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    life = _lived(PACK_OF_TEN, told("a", day(4), used(3)))
    asked: list[str] = []
    monkeypatch.setattr(Life, "history", lambda _life, entitlement: asked.append(entitlement))

    life.tell((told("b", day(4) - timedelta(milliseconds=1), used(2)), NOW))

    assert asked == []
    assert life.accounts["api"].used_total == 5


def _lived(offered: Catalogue, *events: Event) -> Life:
    life = Life(offered)
    for event in (told("bought", day(2), bought()), *events):
        life.tell((event, NOW))
    return life
