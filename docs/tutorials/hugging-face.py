# %% [markdown]
# # A Hugging Face model
#
# A vision transformer of `transformers`, a DataLoader that yields dictionaries, and a picture of
# its curvature. The network is small and freshly made, so that nothing is downloaded; with a
# trained one `from_pretrained` stands where the configuration does.

# %% alt="Second derivatives of a vision transformer, a bar for every tensor"
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification

import hessian
import sim

config = ViTConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    image_size=8, patch_size=4, num_channels=1, num_labels=10,
)  # fmt: skip
model = ViTForImageClassification(config).eval()

digits = sim.data.load("digits")
rows = [
    {"pixel_values": image, "labels": label}
    for image, label in zip(digits.inputs[:128], digits.targets[:128], strict=True)
]
loader = DataLoader(rows, batch_size=64)

h = hessian.diagonal(model, hessian.on_logits(), loader)
h.plot().figure

# %% [markdown]
# Two things did the work. A batch may be one dictionary with its labels inside, as collators yield
# it. And `hessian.on_logits()` takes the cross-entropy of the output's logits: such a model can
# also compute its loss itself, but then `plan` cannot see where the samples lie in it, and many
# times as many passes are taken.

# %%
print(h.plan.backward, "backward passes for", f"{sum(v.numel() for v in h.values()):,}", "entries")

# %% [markdown]
# ## Which layers are sharp?
#
# The trace of a part's block of the Hessian is the sum of its diagonal.

# %%
for block in range(2):
    for part in ("attention", "mlp", "layernorm"):
        chosen = [name for name in h if f".{block}." in name and part in name]
        trace = sum(h[name].sum().item() for name in chosen)
        print(f"block {block}, {part:11} {len(chosen):2} tensors, trace {trace:8.3f}")

# %% [markdown]
# The key biases of attention have no effect on the loss, and so no curvature but for rounding:

# %%
for name in h:
    if "key.bias" in name or "k_proj.bias" in name:
        print(name, float(h[name].abs().max()))

# %% [markdown]
# ## A language model
#
# Logits of tokens go through `on_logits(shift=True)`, with which each token predicts the next:
#
#     hessian.diagonal(model, hessian.on_logits(shift=True), {"input_ids": ids, "labels": ids})
#
# For networks whose full diagonal is out of reach, `hessian.sample(...)` takes the same arguments
# and returns exact values at random entries of every tensor.
