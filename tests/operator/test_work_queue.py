"""The work queue: one worker per key, coalescing, backoff, timers."""

import asyncio
import itertools
from time import monotonic

import pytest

from coldstart_operator.work import WorkQueue


class Bench:
    """A queue whose handler records what it is called with and does what it is told."""

    def __init__(self, workers=3, **options):
        self.calls = []
        self.failures = []
        self.running = set()
        self.overlaps = 0
        self.seconds = 0.0
        self.after = {}
        self.raises = {}
        self.retry_after = 0.0
        self.queue = WorkQueue(self.handle, self.failed, **options)
        self.workers = workers

    async def __aenter__(self):
        self.queue.start(self.workers)
        return self

    async def __aexit__(self, *_):
        await self.queue.stop()

    async def handle(self, key):
        self.overlaps += key in self.running
        self.running.add(key)
        self.calls.append((key, monotonic()))
        await asyncio.sleep(self.seconds)
        self.running.discard(key)
        if self.raises.get(key, 0) > 0:
            self.raises[key] -= 1
            error = RuntimeError(key)
            error.retry_after = self.retry_after
            raise error
        return self.after.pop(key, None)

    async def failed(self, key, error, number):
        self.failures.append((key, str(error), number))

    def count(self, key):
        return sum(called == key for called, _ in self.calls)

    async def until(self, test, seconds=5.0):
        end = monotonic() + seconds
        while not test():
            assert monotonic() < end, self.calls
            await asyncio.sleep(0.002)


def run(scenario, **options):
    async def main():
        async with Bench(**options) as bench:
            await scenario(bench)

    asyncio.run(main())


def test_a_key_added_many_times_while_it_waits_is_worked_on_once():
    async def scenario(bench):
        for _ in range(50):
            bench.queue.add("a")
        await bench.until(lambda: bench.calls)
        await asyncio.sleep(0.05)
        assert bench.count("a") == 1

    run(scenario)


def test_a_key_added_while_it_is_worked_on_is_worked_on_again_and_never_twice_at_a_time():
    async def scenario(bench):
        bench.seconds = 0.03
        bench.queue.add("a")
        await bench.until(lambda: "a" in bench.running)
        for _ in range(20):
            bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 2)
        await asyncio.sleep(0.1)
        assert bench.count("a") == 2
        assert bench.overlaps == 0

    run(scenario)


def test_a_slow_key_does_not_hold_up_others():
    async def scenario(bench):
        bench.seconds = 0.3
        begun = monotonic()
        for key in "abc":
            bench.queue.add(key)
        await bench.until(lambda: len(bench.calls) == 3)
        assert monotonic() - begun < 0.25

    run(scenario)


def test_more_keys_than_workers_all_have_their_turn():
    async def scenario(bench):
        for number in range(200):
            bench.queue.add(number)
        assert bench.queue.depth == 200
        await bench.until(lambda: len(bench.calls) == 200)
        assert sorted(key for key, _ in bench.calls) == list(range(200))

    run(scenario)


def test_a_failing_key_comes_back_after_waits_that_double_up_to_a_limit():
    async def scenario(bench):
        bench.raises["a"] = 5
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 6)
        times = [time for _, time in bench.calls]
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        for wait, least in zip(waits, (0.01, 0.02, 0.04, 0.05, 0.05), strict=True):
            assert wait >= least * 0.9
        assert bench.failures == [("a", "a", number) for number in range(1, 6)]

    run(scenario, backoff=0.01, max_backoff=0.05)


@pytest.mark.parametrize(("asked", "least"), [(0.2, 0.2), (9.0, 0.4), (0.0, 0.01)])
def test_a_wait_that_an_error_asks_for_is_kept_up_to_the_limit(asked, least):
    async def scenario(bench):
        bench.raises["a"], bench.retry_after = 1, asked
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 2)
        (_, first), (_, second) = bench.calls
        assert second - first >= least * 0.9

    run(scenario, backoff=0.01, max_backoff=0.4)


def test_success_ends_the_backoff():
    async def scenario(bench):
        bench.raises["a"] = 2
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 3 and not bench.running)
        bench.raises["a"] = 1
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 5)
        assert [number for *_, number in bench.failures] == [1, 2, 1]

    run(scenario, backoff=0.01)


def test_a_failure_handler_that_fails_ends_no_worker():
    async def scenario(bench):
        async def failed(*_):
            raise ValueError

        bench.queue.failed = failed
        bench.raises["a"] = 2
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 3)

    run(scenario, backoff=0.01, workers=1)


def test_a_key_comes_back_when_its_handler_says_so():
    async def scenario(bench):
        bench.after["a"] = 0.05
        bench.queue.add("a")
        await bench.until(lambda: bench.count("a") == 2)
        (_, first), (_, second) = bench.calls
        assert second - first >= 0.045

    run(scenario)


@pytest.mark.parametrize(("first", "second"), [(0.03, 5.0), (5.0, 0.03)])
def test_of_two_timers_the_earlier_one_counts(first, second):
    async def scenario(bench):
        begun = monotonic()
        bench.queue.add_after("a", first)
        bench.queue.add_after("a", second)
        await bench.until(lambda: bench.calls)
        assert 0.02 < monotonic() - begun < 2.0
        await asyncio.sleep(0.05)
        assert bench.count("a") == 1

    run(scenario)


def test_work_replaces_a_timer():
    async def scenario(bench):
        bench.queue.add_after("a", 0.05)
        bench.queue.add("a")
        await bench.until(lambda: bench.calls)
        await asyncio.sleep(0.1)
        assert bench.count("a") == 1

    run(scenario)


def test_a_forgotten_key_does_not_come_back():
    async def scenario(bench):
        bench.queue.add_after("a", 0.03)
        bench.queue.forget("a")
        await asyncio.sleep(0.08)
        assert not bench.calls

    run(scenario)


def test_stopping_ends_work_in_the_middle_and_no_timer_rings_afterwards():
    async def main():
        async with Bench() as bench:
            bench.seconds = 30
            bench.queue.add("a")
            bench.queue.add_after("b", 0.05)
            await bench.until(lambda: bench.calls)
            assert bench.queue.oldest >= 0
            begun = monotonic()
            await bench.queue.stop()
            assert monotonic() - begun < 1
            await asyncio.sleep(0.1)
            assert bench.queue.depth == 0

    asyncio.run(main())


def test_the_age_of_the_slowest_turn_is_known():
    async def scenario(bench):
        assert bench.queue.oldest == 0
        bench.seconds = 0.2
        bench.queue.add("a")
        await bench.until(lambda: bench.queue.oldest > 0.05)

    run(scenario)


def test_idle_is_when_no_key_waits_nor_is_worked_on_and_timers_do_not_count():
    async def scenario(bench):
        assert await bench.queue.idle(5)
        bench.seconds = 0.05
        bench.after["a"] = 60
        for key in "abcdef":
            bench.queue.add(key)
        assert await bench.queue.idle(5)
        assert sorted(key for key, _ in bench.calls) == list("abcdef")
        assert not bench.running

    run(scenario, workers=2)


def test_waiting_for_idle_has_an_end():
    async def scenario(bench):
        bench.seconds = 60
        bench.queue.add("a")
        assert not await bench.queue.idle(0.05)

    run(scenario)
