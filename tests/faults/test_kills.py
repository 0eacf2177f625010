"""Nothing is lost and nothing is done twice, wherever a worker is killed."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger_worker.metrics import Stage
from tests.faults.system import System, make_load


@pytest.mark.parametrize("stage", [stage for stage in Stage if not stage.name.startswith("DUE_")])
@pytest.mark.timeout(180)
def test_a_kill_at_any_named_point_loses_and_doubles_nothing(system: System, stage: Stage) -> None:
    load = make_load(1_200, customers=200, seed=7)
    system.send(load)
    nth = 1 if stage is Stage.OFFSETS_HINTED else 2  # hints are seconds apart
    with system.worker(crash_at=f"{stage.value}:{nth}") as killed:
        assert killed.wait(timeout=60) == -signal.SIGKILL
    claims = system.claims()
    with system.worker() as worker:
        system.wait_until_claimed(claims, worker)
        system.wait_until_finished(load, worker)
        worker.terminate()
        assert worker.wait(timeout=30) == 0
    system.prove(load)


@pytest.mark.timeout(180)
def test_a_worker_that_was_frozen_writes_nothing_when_it_wakes(system: System) -> None:
    load = make_load(4_000, customers=300, seed=8)
    system.send(load)
    with system.worker() as frozen:
        system.wait_until_applied(300, frozen)
        frozen.send_signal(signal.SIGSTOP)
        with system.worker() as successor:
            system.wait_until_finished(load, successor)
            frozen.send_signal(signal.SIGCONT)
            time.sleep(3)
            successor.terminate()
            assert successor.wait(timeout=30) == 0
        assert frozen.poll() is None, "a worker that was fenced goes on"
        frozen.terminate()
        assert frozen.wait(timeout=30) == 0
    system.prove(load)


@pytest.mark.timeout(180)
def test_two_workers_that_meet_at_the_same_customers_lose_no_update(system: System) -> None:
    load = make_load(6_000, customers=20, seed=9)
    system.send(load)
    with system.worker() as first, system.worker() as second:
        system.wait_until_finished(load, first, second)
        for worker in (first, second):
            worker.terminate()
        assert [first.wait(timeout=30), second.wait(timeout=30)] == [0, 0]
    system.prove(load)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_kills_at_random_moments_of_200_000_events_lose_and_double_nothing(system: System) -> None:
    seed = int(os.environ.get("LEDGER_TEST_SEED", "1"))
    chance = random.Random(seed)
    print(f"seed {seed}")
    load = make_load(200_000, customers=40_000, seed=seed)
    system.send(load)
    kills = sorted(chance.uniform(0.02, 0.9) * load.records for _ in range(10))
    for number, records in enumerate(kills):
        with system.worker() as first, system.worker() as second:
            while system.applied() < records:
                assert first.poll() is None
                assert second.poll() is None
                time.sleep(chance.uniform(0.01, 0.1))
            chance.choice((first, second)).kill()
            print(f"kill {number + 1} after {system.applied():,} records")
            time.sleep(chance.uniform(0, 0.5))
    with system.worker() as worker:
        system.wait_until_finished(load, worker)
        worker.terminate()
        assert worker.wait(timeout=60) == 0
    system.prove(load)


@pytest.mark.timeout(180)
def test_what_is_sent_while_workers_come_and_go_is_all_applied(system: System) -> None:
    load = make_load(12_000, customers=600, seed=10)
    with ThreadPoolExecutor(1) as background, system.worker() as first:
        sending = background.submit(system.send, load, records_a_second=1_500)
        system.wait_until_applied(1_000, first)
        with system.worker() as second:
            system.wait_until_applied(5_000, first, second)
            first.kill()
            with system.worker() as third:
                sending.result(60)
                system.wait_until_finished(load, second, third)
    system.prove(load)
