# %% [markdown]
# # Spectrum and traces
#
# The Hessian as a whole: its largest and smallest eigenvalues, its trace, where the rest of the
# eigenvalues lie, and what each layer adds.

# %%
import torch
from torch import nn

import hessian
import sim

data = sim.data.load("digits")
model = sim.models.build("mlp", in_shape=data.shape, hidden=[32, 32], activation="tanh", seed=0)
loss = nn.functional.cross_entropy
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(10):
    for index in torch.randperm(len(data)).split(64):
        optimizer.zero_grad()
        loss(model(data.inputs[index]), data.targets[index]).backward()
        optimizer.step()

batch = data.inputs[:512], data.targets[:512]
H = hessian.operator(model, loss, batch)

# %% [markdown]
# ## Eigenvalues
#
# Each comes with its residual and a bound on its error. The most negative ones say whether training
# has come to a minimum.

# %%
print(H.top(5))
print(H.bottom(2))

# %% [markdown]
# Eigenvectors have the parameters' names. How much of the first lies in which tensor?

# %%
first = H.top(1)[0].vector
for name, part in first.items():
    print(f"{name:12} {float(part.square().sum()):.1%}")

# %% [markdown]
# ## Trace
#
# Exact where the plan says that this is no dearer than products with random vectors would be;
# estimated with a standard error where it is not, or where it is asked for.

# %%
print(H.trace())
print(H.trace(method="hutchinson", products=40))

# %% [markdown]
# ## Density
#
# By stochastic Lanczos quadrature, with a band over its random starts.

# %% alt="Density of the eigenvalues on a logarithmic scale: a peak at zero and a long tail to the right"
density = H.density(starts=6, steps=40)
density.plot().figure

# %%
mean, error = density.mean()
print(f"mean eigenvalue {mean:.2e} ± {error:.0e}; trace over P {H.trace().value / H.shape[0]:.2e}")

# %% [markdown]
# ## By layer

# %%
print(H.layers(probes=64))

# %% [markdown]
# It is a SciPy `LinearOperator`, so SciPy's own solvers take it as well; stay inside `H.kept()`,
# and what is computed once serves every product. [The spectrum](../spectrum.md) has the methods,
# other matrices (Gauss-Newton, Fisher), and the cost beside other libraries.
