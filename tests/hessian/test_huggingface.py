"""GPT-2, BERT, ViT and ResNet as Hugging Face builds them, small and at random: no downloads."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import hessian
from hessian.testing import assert_exact

from . import oracle


def gpt2(vocabulary=11, positions=6, width=4, blocks=1, heads=2):
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=blocks, n_head=heads,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def bert(blocks=1):
    config = BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=blocks, num_attention_heads=2,
        intermediate_size=6, max_position_embeddings=6, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def vit(blocks=1):
    config = ViTConfig(
        hidden_size=4, num_hidden_layers=blocks, num_attention_heads=2, intermediate_size=6,
        image_size=8, patch_size=4, num_channels=1, num_labels=3, hidden_dropout_prob=0.1,
    )  # fmt: skip
    return ViTForImageClassification(config)


def resnet(kind="basic"):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type=kind,
        num_labels=3,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def tokens(n, length, vocabulary, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (n, length), generator=generator)


def next_token(output, ids):
    """Each token predicts the one after it."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def label(output, target):
    return F.cross_entropy(output.logits, target)


def text():
    ids = tokens(3, 5, 11)
    return {"input_ids": ids}, ids


def masked_text():
    ids, mask = tokens(3, 5, 11), torch.ones(3, 5, dtype=torch.long)
    mask[0, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([0, 1, 2])


def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return {"pixel_values": x}, torch.tensor([0, 1, 2])


CASES = {
    "gpt2": (gpt2, text, next_token),
    "bert": (bert, masked_text, label),
    "vit": (vit, images, label),
    "resnet": (resnet, images, label),
    "resnet-bottleneck": (lambda: resnet("bottleneck"), images, label),
}
DEEPER = {
    "gpt2": (lambda: gpt2(blocks=2), text, next_token),
    "bert": (lambda: bert(blocks=2), masked_text, label),
    "vit": (lambda: vit(blocks=2), images, label),
}


def check(make, inputs, loss, training):
    torch.manual_seed(0)
    model, data = make().double().train(training), inputs()
    with torch.no_grad():  # away from biases of zero and scales of one
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    buffers = {k: b.clone() for k, b in model.named_buffers()}
    torch.manual_seed(3)
    with sdpa_kernel(SDPBackend.MATH):  # the fused form has no second derivative
        want = oracle.diagonal(model, loss, [data])
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    torch.manual_seed(3)
    draw = torch.Generator().manual_seed(2)
    some = hessian.sample(model, loss, data, per_parameter=5, generator=draw)
    assert list(some) == list(want)
    at = {k: want[k].reshape(-1)[s.index] for k, s in some.items()}
    top = max(float(h.abs().max()) for h in want.values())
    for name, s in some.items():
        size = max(float(want[name].abs().max()), 1e-6 * top)  # as in `oracle.gap`
        assert float((s.value - at[name]).abs().max()) <= 1e-9 * size, name
    torch.manual_seed(3)
    oracle.assert_exact(hessian.diagonal(model, loss, data), want)
    return model, data


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("network", CASES)
def test_exact(network, training):
    check(*CASES[network], training)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("network", DEEPER)
def test_exact_through_two_blocks(network, training):
    check(*DEEPER[network], training)


def test_the_loss_that_the_model_computes_itself():
    """With labels among the inputs the output carries the loss."""
    torch.manual_seed(0)
    model = gpt2().double().eval()
    (inputs, ids) = text()
    own = ({**inputs, "labels": ids}, ids)
    got = hessian.diagonal(model, lambda output, _: output.loss, own)
    want = hessian.diagonal(model, next_token, (inputs, ids))
    # Their loss turns the logits to float32, which rounds at 6e-8.
    oracle.assert_exact(got, dict(want), 1e-5)


def test_dropout_is_drawn_in_training_mode():
    torch.manual_seed(0)
    model, (inputs, ids) = gpt2().double(), text()
    found = []
    for training in (True, False):
        model.train(training)
        torch.manual_seed(3)
        found.append(hessian.diagonal(model, next_token, (inputs, ids)))
    assert max(oracle.gap(found[0], dict(found[1])).values()) > 0.01


def test_embeddings_tied_to_the_head_are_one_parameter():
    """Its entry counts the use below and the use above: more than either of an untied copy."""
    torch.manual_seed(0)
    model, (inputs, ids) = gpt2().double().eval(), text()
    got = hessian.diagonal(model, next_token, (inputs, ids))
    assert "lm_head.weight" not in got
    assert model.lm_head.weight is model.transformer.wte.weight
    model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.detach().clone())
    apart = hessian.diagonal(model, next_token, (inputs, ids))
    summed = apart["lm_head.weight"] + apart["transformer.wte.weight"]
    together = got["transformer.wte.weight"]
    assert float((summed - together).abs().max() / together.abs().max()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
def test_verify_reads_right(network, dtype):
    """A key's bias has no influence, a padding token's row no gradient: neither deviates."""
    make, inputs, loss = CASES[network]
    torch.manual_seed(0)
    model = make().to(dtype)
    torch.manual_seed(1)
    h = hessian.diagonal(model, loss, inputs(), verify=len(list(model.parameters())))
    words = {v.word for v in h.verification}
    assert "agrees" in words
    assert words <= {"agrees", "zero to rounding", "own derivative", "unclear"}
    assert max(h.deviation.values()) < (1e-4 if dtype == torch.float32 else 1e-9)
    if network == "bert":
        assert [v.word for v in h.verification if v.name.endswith("key.bias")] == [
            "zero to rounding"
        ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_second_derivative_of_a_gpt2_of_four_blocks():
    """828,160 entries: float32, one sequence of 16 tokens, at most five minutes on two cores."""
    torch.manual_seed(0)
    model = gpt2(vocabulary=256, positions=16, width=128, blocks=4, heads=4).eval()
    ids = tokens(1, 16, 256)
    start = time.perf_counter()
    got = hessian.diagonal(model, next_token, ({"input_ids": ids}, ids), verify=3)
    seconds = time.perf_counter() - start
    assert sum(h.numel() for h in got.values()) == 828_160
    # float32: 1e-7 per operation through four blocks and a tied softmax
    assert max(got.deviation.values()) < 1e-3
    assert seconds < 300


def test_a_tied_embedding_takes_products_for_the_rows_that_are_read_alone():
    """The head's weight is looked up, too: its other rows are those of a weight with one site."""
    torch.manual_seed(0)
    model, ids = gpt2(blocks=2).double().eval(), torch.tensor([[1, 4, 4, 7, 2]])
    data = ({"input_ids": ids}, ids)
    with sdpa_kernel(SDPBackend.MATH):
        want = oracle.diagonal(model, next_token, [data])
    plan = hessian.plan(model, next_token, data)
    assert plan.methods()["transformer.wte.weight"] == "chain"
    width = model.config.n_embd
    assert plan["transformer.wte.weight"].products == 4 * width  # of tokens 1, 2, 4 and 7
    ticks = 2 * sum(entry.products for entry in plan)
    assert plan.backward == 1 + 1 + ticks + max(e.backward for e in plan if e.method == "chain")
    oracle.assert_exact(hessian.diagonal(model, next_token, data), want)
    two = [({"input_ids": part}, part) for part in (ids, torch.tensor([[3, 3, 0, 9, 10]]))]
    with sdpa_kernel(SDPBackend.MATH):
        want = oracle.diagonal(model, next_token, two)
    oracle.assert_exact(hessian.diagonal(model, next_token, two), want)
    assert_exact(model, next_token, data, names=["transformer.wte.weight"], entries=8)
