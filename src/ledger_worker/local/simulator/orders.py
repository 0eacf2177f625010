"""Orders: bought, refunded in part and whole, refunded after all not, disputed, corrected, given to someone else."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ledger_worker.domain.events import (
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundLine,
    RefundReversed,
)
from ledger_worker.local.simulator.life import DAY, Life, Source, Used, between
from ledger_worker.local.simulator.shop import PACKS, PRICES, UNKNOWN_SKU, USED_OF, WITHOUT_PERIOD

__all__ = ["ORDER_PLOTS", "buy"]

ORDER_PLOTS: Sequence[tuple[str, ...]] = (
    ("refund a part", "refund a part", "refund a part"),
    ("refund the rest",),
    ("refund a part", "reverse a refund"),
    ("refund the rest", "reverse a refund", "refund a part"),
    ("win a dispute",),
    ("win a dispute", "refund a part"),
    ("lose a dispute",),
    ("refund a part", "lose a dispute"),
    ("dispute",),
    ("transfer",),
    ("transfer", "refund a part"),
    ("correct", "refund a part"),
)
"""The turns that an order certainly takes, one after the other."""

_USUAL_TURNS = ("refund a part", "refund the rest", "reverse a refund", "win a dispute", "lose a dispute", "correct")
_TURN_SHARE = 0.15
"""The share of ordinary orders that take a turn."""
_UNKNOWN_SHARE, _WITHOUT_PERIOD_SHARE, _WITHOUT_AMOUNT_SHARE = 0.02, 0.01, 0.05
_QUANTITIES = (1, 1, 1, 2, 3, 5)
_USED_FOR = 60 * DAY


class _Order(msgspec.Struct):
    """An order while it is made up: what was bought, and which refunds still stand."""

    life: Life
    source: Source
    order_id: str
    lines: tuple[PurchaseLine, ...]
    refund_ids: list[str] = []
    things: int = 0

    def next_id(self, kind: str) -> str:
        """Names a refund, a reversal, a dispute or a transfer."""
        self.things += 1
        return f"{kind}-{self.order_id}-{self.things}"


def buy(life: Life, plot: Sequence[str] = ()) -> None:
    """The customer buys once, and the order takes the turns of its plot, or by chance one or none."""
    chance = life.chance
    order_id = life.next_number()
    order = _Order(life, Source(life, f"order-{order_id}"), order_id, _basket(life, is_moved="transfer" in plot))
    bought_at = between(chance, life.joined_at, life.now, (0, 0.6) if plot else (0, 1))
    order.source.tell(bought_at, _completed(order))
    for line in order.lines:
        for entitlement, units in USED_OF[line.sku]:
            life.used.append(Used(entitlement, units, bought_at, bought_at + _USED_FOR))
    if not plot and chance.random() < _TURN_SHARE:
        plot = (chance.choice(_USUAL_TURNS),)
    at = bought_at
    for turn in plot:
        at = between(chance, at, life.now)
        at = _TURNS[turn](order, at)
    order.source.close()


def _basket(life: Life, *, is_moved: bool) -> tuple[PurchaseLine, ...]:
    """One to three packs, and now and then something that gives less than it seems, or nothing.

    Not in an order that moves to another customer: what comes of that line would depend on who is told of it first.
    """
    chance = life.chance
    skus = chance.sample(PACKS, chance.choices((1, 2, 3), (60, 25, 15))[0])
    drawn = chance.random()
    if drawn < _UNKNOWN_SHARE and not is_moved:
        skus.append(UNKNOWN_SKU)
    elif drawn > 1 - _WITHOUT_PERIOD_SHARE and not is_moved:
        skus.append(WITHOUT_PERIOD)
    lines = []
    for number, sku in enumerate(skus, start=1):
        quantity = chance.choice(_QUANTITIES)
        has_amount = chance.random() >= _WITHOUT_AMOUNT_SHARE
        amount = quantity * PRICES.get(sku, 500) if has_amount else None
        lines.append(PurchaseLine(line_id=str(number), sku=sku, quantity=quantity, amount=amount))
    return tuple(lines)


def _completed(order: _Order) -> PurchaseCompleted:
    return PurchaseCompleted(order_id=order.order_id, lines=order.lines, currency="EUR")


# -- turns: each acts at an instant and answers when it is over --


def _refund_a_part(order: _Order, at: datetime) -> datetime:
    """By quantity of a line, by amount of a line, a whole line, or by amount of the order."""
    chance = order.life.chance
    line = chance.choice(order.lines)
    total = sum(each.amount or 0 for each in order.lines)
    way = chance.choices(("quantity", "line amount", "line", "amount"), (40, 20, 15, 25))[0]
    refund_id = order.next_id("refund")
    fact = PurchaseRefunded(order_id=order.order_id, refund_id=refund_id, lines=(RefundLine(line_id=line.line_id),))
    if way == "quantity":
        of_line = RefundLine(line_id=line.line_id, quantity=chance.randint(1, max(1, line.quantity - 1)))
        fact = msgspec.structs.replace(fact, lines=(of_line,))
    elif way == "line amount" and line.amount:
        of_line = RefundLine(line_id=line.line_id, amount=chance.randint(1, line.amount))
        fact = msgspec.structs.replace(fact, lines=(of_line,))
    elif way == "amount" and total:
        fact = msgspec.structs.replace(fact, lines=(), amount=chance.randint(1, total))
    order.source.tell(at, fact)
    order.refund_ids.append(refund_id)
    return at


def _refund_the_rest(order: _Order, at: datetime) -> datetime:
    refund_id = order.next_id("refund")
    order.source.tell(at, PurchaseRefunded(order_id=order.order_id, refund_id=refund_id))
    order.refund_ids.append(refund_id)
    return at


def _reverse_a_refund(order: _Order, at: datetime) -> datetime:
    """The bank sends the money back to the shop; of an order without refunds nothing."""
    if order.refund_ids:
        refund_id = order.refund_ids.pop(order.life.chance.randrange(len(order.refund_ids)))
        order.source.tell(
            at, RefundReversed(order_id=order.order_id, reversal_id=order.next_id("reversal"), refund_id=refund_id)
        )
    return at


def _dispute(order: _Order, at: datetime) -> datetime:
    """A dispute that is still open."""
    order.source.tell(at, ChargebackOpened(order_id=order.order_id, dispute_id=order.next_id("dispute")))
    return at


def _win_a_dispute(order: _Order, at: datetime) -> datetime:
    dispute_id = order.next_id("dispute")
    closed_at = between(order.life.chance, at, order.life.now)
    order.source.tell(at, ChargebackOpened(order_id=order.order_id, dispute_id=dispute_id))
    order.source.tell(closed_at, ChargebackWon(order_id=order.order_id, dispute_id=dispute_id))
    return closed_at


def _lose_a_dispute(order: _Order, at: datetime) -> datetime:
    """Of the whole order or of a part; one in five was told as won first."""
    chance = order.life.chance
    dispute_id = order.next_id("dispute")
    total = sum(line.amount or 0 for line in order.lines)
    closed_at = between(chance, at, order.life.now)
    order.source.tell(at, ChargebackOpened(order_id=order.order_id, dispute_id=dispute_id))
    if chance.random() < 0.2:  # noqa: PLR2004 - one in five
        won_at = between(chance, at, closed_at)
        order.source.tell(won_at, ChargebackWon(order_id=order.order_id, dispute_id=dispute_id))
    amount = chance.randint(1, total) if total and chance.random() < 0.5 else None  # noqa: PLR2004 - a half
    order.source.tell(closed_at, ChargebackLost(order_id=order.order_id, dispute_id=dispute_id, amount=amount))
    return closed_at


def _transfer(order: _Order, at: datetime) -> datetime:
    order.source.hand_over(
        at,
        PurchaseTransferred(
            order_id=order.order_id,
            transfer_id=order.next_id("transfer"),
            to_customer_id=order.life.partner_id,
        ),
    )
    return at


def _correct(order: _Order, at: datetime) -> datetime:
    """The shop had another quantity of the first line in its books."""
    first, *others = order.lines
    quantity = first.quantity + 1
    amount = None if first.amount is None else quantity * (first.amount // first.quantity)
    order.lines = (msgspec.structs.replace(first, quantity=quantity, amount=amount), *others)
    order.source.tell(at, _completed(order))
    return at


_TURNS: dict[str, Callable[[_Order, datetime], datetime]] = {
    "refund a part": _refund_a_part,
    "refund the rest": _refund_the_rest,
    "reverse a refund": _reverse_a_refund,
    "dispute": _dispute,
    "win a dispute": _win_a_dispute,
    "lose a dispute": _lose_a_dispute,
    "transfer": _transfer,
    "correct": _correct,
}
