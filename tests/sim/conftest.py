import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors here are small: threads that wait for one another cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
