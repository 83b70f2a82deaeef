"""On a GPU every rule makes the step it makes on a CPU."""

import pytest
import torch
from torch import nn

from .test_suite import RULES, make, tensors


@pytest.mark.gpu
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_the_step_of_the_cpu(rule, dtype, foreach):
    here = tensors(dtype=dtype)
    there = [(name, nn.Parameter(p.detach().cuda())) for name, p in here]
    generator = torch.Generator().manual_seed(1)
    optimizers = [
        make(rule, pairs, momentum=0.9, weight_decay=0.1, foreach=foreach)
        for pairs in (here, there)
    ]
    for _ in range(3):
        for (_, p), (_, q) in zip(here, there, strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            q.grad = p.grad.cuda()
        for optimizer, pairs in zip(optimizers, (here, there), strict=True):
            curvature = {name: torch.full_like(p, 0.5) for name, p in pairs}
            optimizer.step(*([curvature] if rule == "CBLR" else []))
    # Sums differ in their order: three steps of a few roundings each.
    tolerance = 32 * torch.finfo(dtype).eps
    for (_, p), (_, q) in zip(here, there, strict=True):
        assert q.device.type == "cuda"
        torch.testing.assert_close(q.detach().cpu(), p.detach(), rtol=tolerance, atol=tolerance)
