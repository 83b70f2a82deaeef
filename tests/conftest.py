"""Settings for the whole suite."""

import torch
from hypothesis import settings

# The tests' tensors are tiny: several threads cost more than they bring, far more where two
# test processes share two cores.
torch.set_num_threads(1)

# The gate gives the same answer every time; `pytest --hypothesis-profile=default` draws anew.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
