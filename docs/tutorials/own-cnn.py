# %% [markdown]
# # Curvature of your own network
#
# A small convolutional network with batch norm, trained on scikit-learn's digits. What is the
# second derivative of its loss with respect to every single weight, how do the layers differ, and
# how sure are the numbers?

# %%
import torch
from torch import nn

import hessian
import sim

data = sim.data.load("digits")
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10),
)  # fmt: skip
loss = nn.functional.cross_entropy
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(5):
    for index in torch.randperm(len(data)).split(64):
        optimizer.zero_grad()
        loss(model(data.inputs[index]), data.targets[index]).backward()
        optimizer.step()

# %% [markdown]
# ## The exact diagonal
#
# One call. `model.eval()` first: in training mode batch norm couples the samples of a batch, and a
# second derivative is then another number (and a dearer one, see below). `data` may be one batch,
# as here, or a DataLoader, whose batches are averaged as the loss itself would be.

# %%
model.eval()
batch = data.inputs[:512], data.targets[:512]
h = hessian.diagonal(model, loss, batch, verify=24)
h

# %% alt="Quantiles of the second derivatives, a bar for every tensor of the network"
h.plot().figure

# %% [markdown]
# `h["0.weight"]` is a tensor of the shape of the weight. A tidy table goes on to pandas:

# %%
h.to_frame().head()

# %% [markdown]
# ## How it was computed, and how sure it is
#
# The plan says for each parameter which method is exact there, why, and what it costs. Everything
# above the `Tanh` is affine in its single weights, so some ten backward passes serve all of it;
# below it the curvature of each sample is carried down the network.

# %%
print(h.plan)

# %% [markdown]
# `verify=24` took 24 random entries and compared them with second differences of the loss's value
# in double precision, which know nothing of autograd.

# %%
print(h.verification)

# %% [markdown]
# ## In training mode
#
# With batch norm in training mode no sample stands alone, and what lies below it is taken entry by
# entry. Ask for the plan before the long way is begun:

# %%
model.train()
print(hessian.plan(model, loss, batch))
_ = model.eval()

# %% [markdown]
# Where that is too much, [what to do when the plan says *parameter*](../parameter-route.md) has
# the ways out; the shortest is a sample of each tensor's entries, exact as well:

# %%
model.train()
some = hessian.sample(model, loss, batch, per_parameter=16, names=["0.weight", "4.weight"])
model.eval()
some

# %% [markdown]
# ## Keeping it
#
# `h.save("curvature.safetensors")` and `hessian.load("curvature.safetensors")` keep a result with
# its plan; no pickle is involved.
