"""Freed memory is kept for the next tensors: no page is asked of the system twice."""

import platform
import subprocess
import sys

import pytest

# Pages that the system hands out while 48 MB are filled eight times. What is kept has two places at
# the most, since blocks begin at multiples of 64 bytes.
FAULTS = """
import resource, torch
from sim.training.engine.fast.allocator import keep_freed
if {kept}:
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(8):
    tensor = None
    tensor = torch.ones(12 * 2**20)
print(faults() - before)
"""


def pages(kept):
    code = FAULTS.format(kept=kept)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_blocks_are_kept():
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        pytest.skip(f"{library} {version} has a limit of its own")
    assert pages(True) < pages(False) / 2
