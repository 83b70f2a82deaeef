"""GPT-2 with its own 124 million parameters: exact second derivatives at random entries.

    python benchmarks/gpt2_sample.py [--entries 20] [--checks 24] [--out benchmarks/results]

From its configuration alone, random weights, one sequence of 64 tokens, all 148 tensors. Stopped,
it goes on at the next call (build/gpt2-sample holds what is finished). The record,
gpt2-sample.json, has the median by tensor with its 95 % interval, seconds of the processor over all
calls, the largest resident memory, and the deviation at some entries from differences of the loss's
value in double precision, which share no derivative with what they check.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hessian

TOKENS = 64
MEMORY = 6 * 2**30
# Of a difference of five values: its error is of order STEP⁴, that of rounding 1e-15/STEP².
STEP = 1e-2


def network() -> tuple[nn.Module, tuple[dict[str, Tensor], Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (1, TOKENS + 1), generator=generator)
    return model, ({"input_ids": ids[:, :-1]}, ids[:, 1:])


def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs, use_cache=False).logits


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def deviations(
    model: nn.Module, data: Any, samples: hessian.Samples, checks: int
) -> list[dict[str, Any]]:
    """One entry each of some tensors, spread over the network, by differences of the value."""
    model, (inputs, targets) = model.double(), data
    names = list(samples)[:: max(1, len(samples) // checks)]
    parameters, rows = dict(model.named_parameters()), []
    for name in names:
        sample = samples[name]
        number = int(sample.value.abs().argmax())
        entry = parameters[name].detach().view(-1)[sample.index[number] :][:1]
        start, values = entry.clone(), []
        with torch.no_grad():
            for steps in (-2, -1, 0, 1, 2):
                entry.copy_(start + steps * STEP)
                values.append(float(loss(forward(model, inputs), targets)))
            entry.copy_(start)
        a, b, c, d, e = values
        difference = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * STEP**2)
        exact = float(sample.value[number])
        rows.append({"name": name, "exact": exact, "difference": difference})
        print(f"{name:40} {exact:12.5e} {difference:12.5e}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=20, help="of each tensor")
    parser.add_argument("--checks", type=int, default=24, help="entries that are checked")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("build/gpt2-sample"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    spent = arguments.work / "seconds.json"
    before = json.loads(spent.read_text()) if spent.exists() else {"seconds": 0.0, "calls": 0}
    model, data = network()
    start = record.clock()
    try:
        samples = hessian.sample(
            model, loss, data, arguments.entries, torch.Generator().manual_seed(0),
            forward=forward, memory=MEMORY, progress=True,
            checkpoint=arguments.work / f"{arguments.entries}.pt",
        )  # fmt: skip
    finally:
        before["seconds"] += record.clock() - start
        before["calls"] += 1
        spent.write_text(json.dumps(before))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = []
    for name, sample in samples.items():
        median = sample.quantile(0.5)
        rows.append(
            {"name": name, "numel": sample.numel, "median": median.value,
             "interval": [median.low, median.high], "values": sample.value.tolist()}
        )  # fmt: skip
    record.write(
        arguments.out / "gpt2-sample.json",
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=TOKENS, entries=arguments.entries, **before, resident=largest,
        date=time.strftime("%Y-%m-%d"), tensors=rows,
        checked=deviations(model, data, samples, arguments.checks),
    )  # fmt: skip


if __name__ == "__main__":
    main()
