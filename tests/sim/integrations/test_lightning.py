"""CBLR and the monitor in real Lightning trainers."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

import hessian
from sim import optimizers
from sim.integrations import BatchCurvature
from sim.integrations.lightning import CurvatureMonitor

from .test_batch_curvature import BATCHES, X, Y, by_hand, net, same

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about this machine


class Module(LightningModule):
    """As people write them; `how` is who steps, with what."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = net(), how
        self.automatic_optimization = how in ("automatic", "scheduled")
        self.source = BatchCurvature(self, F.cross_entropy)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        self.source.batch = (x, y)
        loss = F.cross_entropy(self(x), y)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.how == "manual, given":
            optimizer.step(curvature=hessian.diagonal(self, F.cross_entropy, (x, y)))
        else:
            optimizer.step()
        return loss

    def configure_optimizers(self):
        own = None if self.how == "manual, given" else self.source
        optimizer = optimizers.CBLR(self.named_parameters(), 0.01, curvature=own)
        if self.how == "scheduled":
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # by epoch
            return [optimizer], [scheduler]
        return optimizer


def trained(module, tmp_path, callbacks=(), logger=False, epochs=1):
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
        default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(BATCHES, batch_size=None))
    return module


@pytest.mark.parametrize("how", ["automatic", "scheduled", "manual", "manual, given"])
def test_cblr_steps_as_by_hand(how, tmp_path):
    same(trained(Module(how), tmp_path).net, by_hand())


@pytest.mark.parametrize("how", ["automatic", "manual"])
def test_the_monitor_logs_by_layer_and_leaves_no_trace(how, tmp_path):
    logger = CSVLogger(tmp_path)
    watch = CurvatureMonitor(
        F.cross_entropy, (X, Y), every=2, measure=["noise_scale", "trace", "radius"]
    )
    watched = trained(Module(how), tmp_path, [watch], logger, epochs=2)
    plain = trained(Module(how), tmp_path, epochs=2)
    for a, b in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    table = watch.table()
    assert sorted(set(table.step)) == [2, 4, 6]
    # The last one, from the weights as they are: what a call of `hessian` gives.
    h = hessian.diagonal(watched.net, F.cross_entropy, (X, Y))
    last = table[(table.step == 6) & (table.measure == "trace")].set_index("layer").value
    for layer in ("0", "2"):
        trace = float(h[f"{layer}.weight"].sum() + h[f"{layer}.bias"].sum())
        assert last[f"net.{layer}"] == pytest.approx(trace, rel=1e-4)
    text = (next(tmp_path.rglob("metrics.csv"))).read_text()
    head = text.splitlines()[0]
    for column in ("curvature/trace", "curvature/radius/net.0", "curvature/noise_scale/net.2"):
        assert column in head
    assert "gradient_covariance" not in head


def test_one_submodule_and_the_first_batch(tmp_path):
    watch = CurvatureMonitor(F.cross_entropy, every=3, measure=["trace"], network="net")
    assert watch.table().empty
    trained(Module("automatic"), tmp_path, [watch])
    table = watch.table()
    assert set(table.layer.dropna()) == {"0", "2"}
    assert table.attrs["samples"] == 4
