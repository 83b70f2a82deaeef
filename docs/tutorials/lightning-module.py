# %% [markdown]
# # Lightning
#
# CBLR under Lightning's automatic optimization, and a callback that logs curvature by layer beside
# any optimizer. Both need `cblr[integrations]`.

# %% tags=["hidden"]
import logging
import warnings

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

# %%
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sim
from sim.integrations import BatchCurvature
from sim.integrations.lightning import CurvatureMonitor

data = sim.data.load("digits")
loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size=128)


class Digits(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = sim.models.build(
            "mlp", in_shape=data.shape, hidden=[32], activation="tanh", seed=0
        )
        self.curvature = BatchCurvature(self.net, nn.functional.cross_entropy)

    def training_step(self, batch, index):
        self.curvature.batch = batch
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self):
        return sim.optimizers.CBLR(
            self.net.named_parameters(), lr=2e-3, max_radius=100.0, momentum=0.9,
            refresh_interval=4, curvature=self.curvature,
        )  # fmt: skip


# %% [markdown]
# The callback measures on fixed samples every twenty steps; training with it is training without
# it, bit for bit. `network="net"` says which submodule is watched.

# %%
monitor = CurvatureMonitor(
    nn.functional.cross_entropy, data.pair, every=20, network="net", evaluation=True
)
trainer = Trainer(
    max_epochs=8, callbacks=[monitor], logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", devices=1,
)  # fmt: skip
module = Digits()
trainer.fit(module, loader)
right = (module.net(data.inputs).argmax(1) == data.targets).float().mean()
print(f"{trainer.global_step} steps, {right:.0%} of the training images right")

# %% [markdown]
# The same values go to every logger of the trainer, as `curvature/trace/…`. As a table:

# %%
table = monitor.table()
table[table.measure == "trace"].pivot_table(index="step", columns="layer", values="value")

# %% alt="The trace of each layer's block of the Hessian against the training step"
import matplotlib.pyplot as plt

traces = table[(table.measure == "trace") & table.layer.notna()]
fig, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for layer, rows in traces.groupby("layer"):
    axes.plot(rows.step, rows.value, "o-", label=layer)
axes.set(xlabel="step", ylabel="trace of the layer's block", yscale="log")
_ = axes.legend()

# %% [markdown]
# Hugging Face's Trainer has a callback of the same name in `sim.integrations.transformers`, and
# `BatchCurvature(model, hessian.on_logits(), watch=True)` takes its batch from the calls of the
# model, which serves Trainer and accelerate without another line.
