"""Threads, asyncio and many objects in one test."""

from __future__ import annotations

from tests.plugin.inner import KERNEL, Inner

THREADS = """
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def double(number):
    time.sleep(0.1)
    return 2 * number


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)
    return Path(path).read_text()


def write(path, text):
    Path(path + ".new").write_text(text)
    Path(path + ".new").rename(path)


def test_each_call_gets_its_own_value(guest):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: guest.call(double, number), range(8))) == list(range(0, 16, 2))


def test_calls_run_at_once(guest):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(guest.call, wait_for, "/tmp/there")
        guest.call(write, "/tmp/there", "seen")
        assert waiting.result() == "seen"


def test_threads_share_one_guest_process(bpf):
    def fill(number):
        counters = bpf.map("array", max_entries=4)
        for key in range(4):
            counters[key] = 10 * number + key
        return [counters[key] for key in range(4)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fill, range(8))) == [[10 * number + key for key in range(4)] for number in range(8)]


def test_asyncio(guest, bpf):
    async def all_of_them():
        called = asyncio.gather(*(asyncio.to_thread(guest.call, double, number) for number in range(4)))
        made = asyncio.gather(*(asyncio.to_thread(bpf.map, "hash", max_entries=size) for size in range(1, 5)))
        return await called, await made

    called, made = asyncio.run(all_of_them())
    assert called == [0, 2, 4, 6]
    assert [one.info()["max_entries"] for one in made] == [1, 2, 3, 4]


def panic():
    Path("/proc/sysrq-trigger").write_text("c")


def test_a_panic_is_known_to_every_thread(guest):
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(guest.call, wait_for, "/tmp/never") for _ in range(2)]
        waiting.append(pool.submit(guest.call, panic))
        errors = [type(one.exception()).__name__ for one in waiting]
    assert errors == ["KernelCrashed"] * 3
    assert False, "the panic fails the test"
"""


def test_threads_may_use_one_guest(inner: Inner) -> None:
    inner.write(test_threads=THREADS)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "-rA")
    assert result.outcomes("test_a_panic_is_known_to_every_thread") == ["FAILED"]
    assert "AssertionError: the panic fails the test" in result.out
    assert result.last.strip("= ").startswith("1 failed, 4 passed in"), result.out


MANY = """
def test_maps(bpf):
    for number in range(1100):  # a guest process may have 1024 descriptors
        counters = bpf.map("hash", max_entries=number % 64 + 1)
    counters[1] = 2
    assert counters[1] == 2
"""


def test_a_test_may_make_more_objects_than_a_process_can_have_open(inner: Inner) -> None:
    inner.write(test_many=MANY)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg")
    assert result.status == 0, result.out
