"""CBLR, the other rules and the monitor in Hugging Face's Trainer."""

import pytest
import torch
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import hessian
from sim import optimizers
from sim.integrations import BatchCurvature
from sim.integrations.transformers import CurvatureMonitor

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about this machine
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(2))
Y = torch.arange(8) % 3
ROWS = [{"pixel_values": x, "labels": int(y)} for x, y in zip(X, Y, strict=True)]


def vit():
    config = ViTConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6,
        image_size=8, patch_size=4, num_channels=1, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return ViTForImageClassification(config)


def trainer(model, optimizer, folder, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=2, report_to=[],
        use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True,
        lr_scheduler_type="constant", max_grad_norm=0.0, seed=1,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=ROWS, optimizers=(optimizer, None), **options)


def test_cblr_steps_as_by_hand(tmp_path):
    model = vit()
    source = BatchCurvature(model, hessian.on_logits(), watch=True)
    order = []
    compute = source.__call__

    def noted():
        order.append(source.batch)
        return compute()

    optimizer = optimizers.CBLR(model.named_parameters(), 0.01, max_radius=100.0, curvature=noted)
    trainer(model, optimizer, tmp_path).train()
    assert len(order) == 2
    twin = vit().train()
    for batch in order:
        twin.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            twin(pixel_values=batch["pixel_values"]).logits, batch["labels"]
        )
        loss.backward()
        h = hessian.diagonal(
            twin,
            lambda o, y: torch.nn.functional.cross_entropy(o.logits, y),
            ({"pixel_values": batch["pixel_values"]}, batch["labels"]),
        )
        with torch.no_grad():
            for name, p in twin.named_parameters():
                radius = ((1 + p.grad**2) ** 1.5 / h[name].abs()).clamp(max=100.0)
                p -= 0.01 * radius * p.grad
    largest = max(float((p - q).abs().max()) for p, q in
                  zip(vit().parameters(), twin.parameters(), strict=True))  # fmt: skip
    assert largest > 0.01  # it has moved
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        # Where h is what terms that cancel leave behind (a key's bias), R is at the cap either way.
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attached", [True, False])
def test_the_monitor_logs_by_layer_and_leaves_no_trace(attached, tmp_path):
    ends = []
    for watched in (True, False):
        model = vit()
        loop = trainer(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path)
        if watched:
            watch = CurvatureMonitor(every=1, measure=["trace", "radius"], memory=2**26)
            if attached:
                assert watch.attach(loop) is watch
            else:
                loop.add_callback(watch)
        torch.manual_seed(5)
        loop.train()
        ends.append((model, loop))
    for p, q in zip(*(model.parameters() for model, _ in ends), strict=True):
        assert torch.equal(p, q)
    table = watch.table()
    assert sorted(set(table.step)) == [1, 2]
    assert table.attrs["samples"] == 4  # the first batch of the loader
    whole = table[(table.measure == "trace") & (table.step == 2)].set_index("layer").value
    layers = whole.drop(index=[k for k in whole.index if not isinstance(k, str)])
    assert layers.sum() == pytest.approx(whole[[None]].iloc[0], rel=1e-5)
    logs = [log for log in ends[0][1].state.log_history if "curvature/trace" in log]
    assert [log["step"] for log in logs] == [1, 2]
    assert logs[1]["curvature/trace"] == pytest.approx(whole[[None]].iloc[0])
    assert logs[1]["curvature/trace/classifier"] == pytest.approx(whole["classifier"])


@pytest.mark.parametrize("rule", ["LAMB", "LARS", "MCLR", "PercentDelta"])
def test_the_other_rules_train(rule, tmp_path):
    model = vit()
    optimizer = getattr(optimizers, rule)(model.parameters(), 0.01)
    before = [p.detach().clone() for p in model.parameters()]
    trainer(model, optimizer, tmp_path).train()
    assert any(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
