"""What is free on a device, of stand-ins for torch's modules of devices."""

from types import SimpleNamespace

import pytest
import torch

from hessian import devices

GPU = {
    "mem_get_info": lambda device: (1000, 5000),
    "memory_reserved": lambda device: 700,
    "memory_allocated": lambda device: 200,
}
APPLE = {
    "recommended_max_memory": lambda: 3000,
    "current_allocated_memory": lambda: 400,
    "driver_allocated_memory": lambda: 900,
}


@pytest.mark.parametrize(("functions", "free"), [
    (GPU, 1500),  # the system's, and what torch keeps without use
    ({"mem_get_info": GPU["mem_get_info"]}, 1000),
    (APPLE, 2600),
    ({}, None),
])  # fmt: skip
def test_what_torch_keeps_for_the_next_tensors_is_free(functions, free, monkeypatch):
    monkeypatch.setattr(devices, "module", lambda device: SimpleNamespace(**functions))
    assert devices.free_memory(torch.device("cuda")) == free
