"""Settings for the whole suite."""

import torch

# The tests' tensors are tiny: several threads cost more than they bring, far more where two
# test processes share two cores.
torch.set_num_threads(1)
