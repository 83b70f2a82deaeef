# %% [markdown]
# # LARS and CBLR in an existing loop
#
# The rules are ordinary optimizers of torch. This page trains one network from the same start with
# SGD, with LARS and with CBLR, whose learning rate for every weight is γ times its exact radius of
# curvature.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import hessian
import sim

data = sim.data.load("digits")
loss = nn.functional.cross_entropy
BATCH, EPOCHS = 256, 12


def network():
    return sim.models.build("mlp", in_shape=data.shape, hidden=[32], activation="tanh", seed=0)


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    for index in torch.randperm(len(data), generator=generator).split(BATCH):
        yield data.inputs[index], data.targets[index]


def train(model, optimizer, prepare=lambda batch: None):
    """The loop as it stood before; `prepare` is all that CBLR adds."""
    losses = []
    for epoch in range(EPOCHS):
        for inputs, targets in batches(epoch):
            optimizer.zero_grad()
            value = loss(model(inputs), targets)
            value.backward()
            prepare((inputs, targets))
            optimizer.step()
            losses.append(value.item())
    return losses


# %% [markdown]
# SGD and LARS differ in one line. LARS moves every tensor by the same share of its own norm, so its
# rate is another kind of number.

# %%
curves = {}
model = network()
curves["SGD"] = train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

model = network()
lars = sim.optimizers.LARS(model.named_parameters(), lr=0.01, momentum=0.9)
curves["LARS"] = train(model, lars)

# %% [markdown]
# CBLR needs the exact curvature, and a γ that is not too large for the weights' interplay.
# `sim.stable_gamma` finds both along trial runs. Where the curvature comes from is given at
# construction; here it is that of the batch at hand, which the loop hands over.

# %%
from sim.integrations import BatchCurvature

model = network()
stable = sim.stable_gamma(model, loss, list(batches(0)), momentum=0.9)
print(
    f"γ = {stable.gamma:.1e}, R_max = {stable.max_radius:.0f}, "
    f"a curvature serves {stable.refresh_interval} steps"
)
source = BatchCurvature(model, loss)
cblr = sim.optimizers.CBLR(model.named_parameters(), curvature=source, **stable.options)
curves["CBLR"] = train(model, cblr, lambda batch: setattr(source, "batch", batch))

# %% alt="Training loss against steps, on a logarithmic scale, for SGD, LARS and CBLR"
fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for name, values in curves.items():
    axes.plot(values, label=name)
axes.set(xlabel="step", ylabel="training loss of the batch", yscale="log")
_ = axes.legend()

# %% [markdown]
# One network and one seed prove nothing about which rule is better; the audit compares them with
# rates tuned alike and with intervals ([what it found](../verdicts.md)). What a step costs, and
# what each reference implementation does differently, is in [Optimizers](../optimizers.md).
#
# ## The exact step, looked at
#
# `radius()` is what the next step would use, by name:

# %%
h = hessian.diagonal(model, loss, next(batches(0)))
for name, radius in cblr.radius(h).items():
    print(
        f"{name:12} median radius {radius.median():9.1f}, at the cap {(radius >= stable.max_radius).float().mean():.0%}"
    )
