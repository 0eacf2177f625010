"""Processes that ask for the same units to the last one: round after round the sum granted is the limit.

Each round is a customer with a limit of its own. Every process asks for one to three units of it, over and over under
keys of its own, until it is refused, and goes on to the next. Every other time it holds them first and confirms. In
the campaign they are killed in the middle and begin again from the first round: what was answered before is answered
the same.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import bought, catalogue, day, gives, line, offer, quota, told

PROCESSES = 4
ROUNDS, ROUNDS_LONG = 100, 10_000
LIMIT_MAX = 12
KILLS_MAX = 8
PROGRAM = """
import sys
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.requests import answer_requests
from ledger_worker.domain.requests import Confirm, Item, Request
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.store.database import engine

url, worker, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ledger, catalogues, stages = engine(url), Catalogues(), Stages(Metrics(CollectorRegistry()))
for round_number in range(rounds):
    for number in range(1_000):
        caller, key, customer_id = f"worker-{worker}", f"{round_number}-{number}", f"customer-{round_number}"
        items = (Item(entitlement="api", units=1 + (worker + number) % 3),)
        seconds = 86_400 if number % 2 else None
        asked = Request(caller=caller, key=key, customer_id=customer_id, items=items, hold_seconds=seconds)
        (answer,) = answer_requests(ledger, [asked], catalogues, stages)
        if answer.expires_at is not None:
            ended = Confirm(caller=caller, key=f"{key}-used", customer_id=customer_id, hold=key)
            (confirmed,) = answer_requests(ledger, [ended], catalogues, stages)
            assert confirmed.is_granted, confirmed
        # One unit may be left of two that were asked for: whoever asks for one goes on.
        if not answer.is_granted and items[0].units == 1:
            break
"""
GATHERING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.domain.requests import Item, Request
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store.database import engine

url, worker, rounds, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 8

def ask(gatherer, thread):
    for round_number in range(rounds):
        for number in range(1_000):
            items = (Item(entitlement="api", units=1 + (thread + number) % 3),)
            asked = Request(
                caller=f"worker-{worker}-{thread}",
                key=f"{round_number}-{number}",
                customer_id=f"customer-{round_number}",
                items=items,
            )
            if not gatherer.ask(asked, 60).is_granted and items[0].units == 1:
                break

with Gatherer(engine(url), Metrics(CollectorRegistry())) as gatherer, ThreadPoolExecutor(threads) as pool:
    list(pool.map(lambda thread: ask(gatherer, thread), range(threads)))
"""
"""The same by eight threads of each process, who ask one at a time and are answered together."""


def prepare(ledger: Ledger, rounds: int) -> list[int]:
    """So many customers, each with a limit between 1 and 12; returns the limits."""
    ledger.publish(catalogue(quota(), offer("pack", gives(1, lasts="forever"))))
    limits = [1 + number * 7 % LIMIT_MAX for number in range(rounds)]
    facts = [bought(line(quantity=limit), order=f"o{number}") for number, limit in enumerate(limits)]
    events = [told(f"b{number}", day(1), fact, customer=f"customer-{number}") for number, fact in enumerate(facts)]
    for first in range(0, rounds, 500):
        ledger.tell(*((event, day(1)) for event in events[first : first + 500]))
    return limits


def start(url: str, worker: int, rounds: int, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, url, str(worker), str(rounds)])


def prove(ledger: Ledger, limits: Sequence[int]) -> None:
    """Every limit was used to the last unit and no further, and the answers say so."""
    used = dict(ledger.rows("SELECT customer_id, used_total FROM account WHERE overage = 0 AND usage = used_total"))
    assert used == {f"customer-{number}": limit for number, limit in enumerate(limits)}
    (recorded,) = ledger.rows("SELECT sum(units) FROM event WHERE event_source LIKE 'request/%'")[0]
    assert recorded == sum(limits)
    assert unproven(ledger) == []


def test_processes_use_a_hundred_limits_to_the_last_unit(ledger: Ledger, database_url: str) -> None:
    limits = prepare(ledger, ROUNDS)

    running = [start(database_url, worker, ROUNDS) for worker in range(PROCESSES)]

    assert [process.wait(timeout=110) for process in running] == [0] * PROCESSES
    prove(ledger, limits)


def test_two_processes_that_gather_use_a_hundred_limits_to_the_last_unit(ledger: Ledger, database_url: str) -> None:
    limits = prepare(ledger, ROUNDS)

    running = [start(database_url, worker, ROUNDS, GATHERING) for worker in range(2)]

    assert [process.wait(timeout=110) for process in running] == [0] * 2
    prove(ledger, limits)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_limits_are_used_to_the_last_unit_though_processes_are_killed(
    ledger: Ledger, database_url: str
) -> None:
    seed = int(os.environ.get("LEDGER_TEST_SEED", "1"))
    print(f"seed {seed}")  # noqa: T201 -- so that one can be run again
    chance = random.Random(seed)
    limits = prepare(ledger, ROUNDS_LONG)
    running = [start(database_url, worker, ROUNDS_LONG) for worker in range(PROCESSES)]
    kills = 0
    while any(process.poll() is None for process in running):
        time.sleep(chance.uniform(5, 30))
        worker = chance.randrange(PROCESSES)
        if running[worker].poll() is None and kills < KILLS_MAX:
            running[worker].send_signal(signal.SIGKILL)
            running[worker].wait()
            running[worker] = start(database_url, worker, ROUNDS_LONG)
            kills += 1

    assert [process.returncode for process in running] == [0] * PROCESSES
    assert kills
    prove(ledger, limits)
