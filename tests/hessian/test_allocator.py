"""Freed memory is kept for the next tensors, and given back in the end."""

import platform
import subprocess
import sys

import pytest

from hessian.allocator import HeapRetention

# Pages that the system hands out while 48 MB are filled eight times (what is kept has two places at
# the most, since blocks begin at multiples of 64 bytes), and the megabytes that stay.
CODE = """
import resource, torch
from hessian import allocator
retention = allocator.HeapRetention()
{begin}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, size = faults(), megabytes()
for _ in range(8):
    tensor = None
    tensor = torch.ones(12 * 2**20)
pages = faults() - before
del tensor
{end}
print(pages, megabytes() - size)
"""


def measured(begin="", end=""):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(begin=begin, end=end)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pages, size = done.stdout.split()
    return int(pages), float(size)


def test_large_blocks_are_kept():
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        pytest.skip(f"{library} {version} has a limit of its own")
    usual, _ = measured()
    for_good, size = measured("allocator.keep_freed()", "retention.begin(); retention.end()")
    assert for_good < usual / 2
    assert size > 40  # another one, which has ended, gives nothing back
    for_a_while, size = measured("retention.begin()", "retention.end()")
    assert for_a_while < usual / 2
    assert size < 24


def test_the_last_one_to_end_gives_back(monkeypatch):
    calls = []
    monkeypatch.setattr(HeapRetention, "active", set())
    monkeypatch.setattr("hessian.allocator._function", lambda name: lambda *_: calls.append(name))
    first, second = HeapRetention(), HeapRetention()
    first.end()  # before it has begun, as after an interrupt
    first.begin()
    second.begin()
    first.end()
    first.end()
    assert "malloc_trim" not in calls
    second.end()
    assert calls.count("malloc_trim") == 1
    assert not HeapRetention.active


def test_another_c_library_does_what_it_did(monkeypatch):
    from hessian import allocator

    allocator._function.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    retention = HeapRetention()
    retention.begin()
    retention.end()
    allocator._function.cache_clear()
