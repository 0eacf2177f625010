"""Whose turn it is, without threads and without a database: every order of asking and of transactions ending."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_worker.apply.turns import Taken, Turns, Waiting
from ledger_worker.domain.requests import Item, Request


def asked(customer: str, key: str = "k") -> Waiting:
    items = (Item(entitlement="api", units=1),)
    return Waiting(Request(caller="shop", key=key, customer_id=customer, items=items), 0.0)


def turns(*, connections: int = 3, batch_max: int = 2, unanswered_max: int = 9) -> Turns:
    return Turns(connections=connections, batch_max=batch_max, unanswered_max=unanswered_max)


def waiting(own: Turns, *customers: str) -> None:
    for number, customer in enumerate(customers):
        assert own.add(asked(customer, f"{customer}{number}"))


def keys(taken: Taken | None) -> list[str]:
    return [] if taken is None else [request.key for request in taken.requests]


def take(own: Turns) -> Taken:
    taken = own.take()
    assert taken is not None
    return taken


def test_the_oldest_are_taken_together_whoever_they_are_of() -> None:
    own = turns()
    waiting(own, "ada", "bob", "ada")

    assert keys(own.take()) == ["ada0", "bob1"]


def test_a_customer_is_in_one_transaction_at_a_time() -> None:
    own = turns()
    waiting(own, "ada", "ada", "ada", "bob")

    first = take(own)
    second = take(own)

    assert [keys(first), keys(second)] == [["ada0", "ada1"], ["bob3"]]
    assert own.take() is None
    own.done(first)
    assert keys(own.take()) == ["ada2"]


def test_no_more_wait_than_may_whether_taken_or_not() -> None:
    own = turns(unanswered_max=3)
    waiting(own, "ada", "bob", "eve")

    taken = take(own)
    assert not own.add(asked("dan"))
    own.done(taken)

    assert own.add(asked("dan"))
    assert own.unanswered == 2


def test_what_waits_can_be_withdrawn_and_what_is_taken_cannot() -> None:
    own = turns(batch_max=1)
    first, second = asked("ada", "first"), asked("ada", "second")
    own.add(first)
    own.add(second)
    own.take()

    assert [own.withdraw(first), own.withdraw(second), own.withdraw(second)] == [False, True, False]
    assert own.unanswered == 1


def test_who_is_held_is_answered_alone_and_the_others_go_on_in_their_order() -> None:
    own = turns(batch_max=3)
    waiting(own, "ada", "bob", "ada")
    taken = take(own)
    waiting(own, "eve")

    own.put_back(taken, {"ada"})

    alone, others = take(own), take(own)
    assert (keys(alone), alone.is_alone) == (["ada0", "ada2"], True)
    assert (keys(others), others.is_alone) == (["bob1", "eve0"], False)


@pytest.mark.parametrize("connections", [2, 3, 5])
def test_one_connection_is_always_left_for_those_whom_nobody_holds(connections: int) -> None:
    own = turns(connections=connections, batch_max=9)
    held = [f"held{number}" for number in range(6)]
    waiting(own, *held)
    own.put_back(take(own), held)

    alone = [take(own) for _ in range(connections - 1)]

    assert all(one.is_alone for one in alone)
    assert own.take() is None
    waiting(own, "ada")
    assert keys(own.take()) == ["ada0"]


def test_after_one_who_was_held_the_others_are_tried_with_everybody() -> None:
    own = turns(connections=2, batch_max=9)
    waiting(own, "ada", "bob", "eve")
    own.put_back(take(own), {"ada", "bob", "eve"})

    own.done(take(own))

    assert keys(own.take()) == ["bob1", "eve2"]


def test_a_customer_set_aside_whose_requests_were_all_withdrawn_keeps_nobody_back() -> None:
    own = turns(connections=2)
    given_up = asked("ada")
    own.add(given_up)
    own.put_back(take(own), {"ada"})

    own.withdraw(given_up)
    waiting(own, "ada")

    assert keys(own.take()) == ["ada0"]


STEPS = st.lists(st.one_of(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=120)
"""A letter: a request for that customer comes; a number: that one of the transactions under way ends."""


@given(STEPS, st.integers(2, 4), st.integers(1, 4), st.integers(1, 12))
def test_no_request_waits_for_more_transactions_than_stated_and_none_overtakes_its_own_customer(
    steps: Sequence[str | int], connections: int, batch_max: int, unanswered_max: int
) -> None:
    own = turns(connections=connections, batch_max=batch_max, unanswered_max=unanswered_max)
    under_way: list[Taken] = []
    came: list[Waiting] = []
    before: dict[Waiting, int] = {}
    answered: list[Waiting] = []

    def go_on() -> None:
        """Every free connection takes; whom it passes over though their customer is free waits for one more."""
        while len(under_way) < connections:
            busy = {customer for one in under_way for customer in one.customer_ids}
            taken = own.take()
            if taken is None:
                return
            under_way.append(taken)
            for one in came:
                if one not in taken.asked and one not in answered and one.request.customer_id not in busy:
                    before[one] += all(one not in other.asked for other in under_way)

    for number, step in enumerate([*steps, *[0] * len(steps)]):
        if isinstance(step, str):
            one = asked(step, str(number))
            if own.add(one):
                came.append(one)
                before[one] = len(under_way) == connections or any(step in taken.customer_ids for taken in under_way)
        elif step < len(under_way):
            taken = under_way.pop(step)
            own.done(taken)
            answered += taken.asked
        go_on()

    assert max(before.values(), default=0) <= own.batches_before_max
    assert (own.unanswered, len(under_way)) == (0, 0)
    assert len(answered) == len(came) == len(set(answered))
    for customer in "abcdef":
        assert [one.number for one in answered if one.request.customer_id == customer] == sorted(
            one.number for one in came if one.request.customer_id == customer
        )
