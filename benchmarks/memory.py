"""Peak memory of one contestant, in a process of its own.

    python benchmarks/memory.py CASE CONTESTANT

What is reported is the highest resident set during one run less the resident set before it, when
the network, its data and the libraries are there already. On Linux the kernel keeps the high-water
mark and lets it be reset; elsewhere it is the growth of the mark itself. On a GPU it is what
torch's allocator reports.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _field(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def peak(case: str, contestant: str, device: str = "cpu") -> int:
    """Bytes, measured in a child process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, case, contestant, device],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{contestant} on {case}: {done.stderr.strip()[-500:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["extra"])


def main() -> None:
    import cases
    import contestants

    name, who, device = sys.argv[1:4]
    case = cases.named(name).to(device)
    run = {"ours": contestants.ours, **contestants.MEASURES, **contestants.peers(case)}[who]
    # Libraries set up their threads and buffers on a first product, not on the run.
    with torch.no_grad():
        case.model(case.x[:1])
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(case)
        extra = torch.cuda.max_memory_allocated() - before
    elif REFERENCES.exists():
        REFERENCES.write_text("5")  # resets the high-water mark
        before = _field("VmRSS")
        run(case)
        extra = _field("VmHWM") - before
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(case)
        extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        extra *= 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"extra": extra}))


if __name__ == "__main__":
    main()
