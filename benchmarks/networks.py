"""Seventy networks by name, for `regret.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from zoo import (
    Act,
    Attention,
    Excited,
    Experts,
    Gated,
    Graph,
    Join,
    Output,
    Problem,
    Recurrent,
    Shared,
    Sum,
    UNet,
    basic,
    block,
    bottleneck,
    conv,
    convnext,
    dense_block,
    feed_forward,
    head,
    images,
    inverted,
    mlp,
    tokens,
    valued,
    vectors,
)  # fmt: skip

import sim

RELU, TANH, GELU, SILU = nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU


def lenet(act: Callable[[], nn.Module], bias: bool = True) -> Problem:
    return images(
        nn.Conv2d(3, 6, 5, bias=bias), act(), nn.AvgPool2d(2), nn.Conv2d(6, 12, 3, bias=bias),
        act(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 32), act(), nn.Linear(32, 10),
    )  # fmt: skip


def group_normed() -> Problem:
    return images(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), *head(16), n=4, size=8,
    )  # fmt: skip


def channels_last(act: Any) -> Problem:
    model, loss, (x, y) = images(*conv(3, 16, act=act), *conv(16, 16, 3, 2, act), *head(16))
    model.to(memory_format=torch.channels_last)
    return Problem(model, loss, (x.to(memory_format=torch.channels_last), y))


def vgg(act: Any) -> Problem:
    return images(
        *conv(3, 8, act=act), nn.MaxPool2d(2), *conv(8, 16, act=act), nn.MaxPool2d(2),
        *conv(16, 32, act=act), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), act(),
        nn.Linear(64, 10),
    )  # fmt: skip


def autoencoder(act: Any, size: int = 16) -> Problem:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), act(), nn.Conv2d(8, 16, 3, 2, 1), act(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1), act(), nn.ConvTranspose2d(8, 3, 4, 2, 1),
    )  # fmt: skip
    return valued(model, torch.randn(4, 3, size, size), F.mse_loss)


def inception() -> Problem:
    mixed = Join(
        nn.Sequential(*conv(16, 8, 1, 1, RELU)),
        nn.Sequential(*conv(16, 8, 1, 1, RELU), *conv(8, 8, 3, 1, RELU)),
        nn.Sequential(*conv(16, 4, 1, 1, RELU), *conv(4, 8, 5, 1, RELU)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(16, 8, 1, 1, RELU)),
    )
    return images(*conv(3, 16, act=RELU), nn.MaxPool2d(2), mixed, *head(32))


def fire() -> Problem:
    def squeezed(a: int, narrow: int, wide: int) -> list[nn.Module]:
        both = Join(nn.Conv2d(narrow, wide, 1), nn.Conv2d(narrow, wide, 3, padding=1))
        return [nn.Conv2d(a, narrow, 1), nn.ReLU(), both, nn.ReLU()]

    return images(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *squeezed(16, 8, 16),
        *squeezed(32, 8, 16), *head(32),
    )  # fmt: skip


def shuffled() -> Problem:
    def mixed(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    return images(
        *conv(3, 16, act=RELU), *conv(16, 16, 1, 1, RELU, groups=2), Act(mixed),
        *conv(16, 16, 3, 1, groups=16), *conv(16, 16, 1, 1, RELU, groups=2), *head(16),
    )  # fmt: skip


def sequence(layer: type[nn.Module], **options: Any) -> Problem:
    model = Recurrent(layer(8, 16, batch_first=True, **options), 16, 4)
    return Problem(model, F.cross_entropy, (torch.randn(8, 6, 8), torch.randint(4, (8,))))


def temporal() -> Problem:
    layers = [nn.Conv1d(4, 8, 3, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 3, dilation=4), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))
    return Problem(model, F.cross_entropy, (torch.randn(16, 4, 32), torch.randint(4, (16,))))


def volumes() -> Problem:
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(108, 4)
    )
    return Problem(model, F.cross_entropy, (torch.randn(8, 1, 8, 8, 8), torch.randint(4, (8,))))


def transformer(norm: Any, feed: Callable[[int], nn.Module], causal: bool = True) -> Problem:
    model = nn.Sequential(
        nn.Embedding(64, 32), *block(32, norm, Attention(32, 4, causal), feed(32)), norm(32),
        nn.Linear(32, 64, bias=False),
    )  # fmt: skip
    return tokens(model)


def mixer() -> Problem:
    def turned(inner: nn.Module) -> nn.Sequential:
        return nn.Sequential(Act(lambda x: x.mT), inner, Act(lambda x: x.mT))

    patches = [nn.Conv2d(3, 32, 4, 4), nn.Flatten(2), Act(lambda x: x.mT)]
    mean = Act(lambda x: x.mean(1))
    layers = block(32, nn.LayerNorm, turned(feed_forward(16)), feed_forward(32))
    return images(*patches, *layers, nn.LayerNorm(32), mean, nn.Linear(32, 10), n=4)


def segmented(act: Any, turned: bool) -> Problem:
    x, y = torch.randn(2, 3, 8, 8), torch.randint(2, (2, 8, 8))
    return Problem(UNet(act, turned), F.cross_entropy, (x, y))


def hugging_face(kind: str) -> Problem:
    import transformers as hf

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    picture = {"image_size": 16, "patch_size": 4, "num_labels": 10, "intermediate_size": 64}
    if kind == "resnet":
        config = hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
            num_labels=10,
        )  # fmt: skip
        return images(Output(hf.ResNetForImageClassification(config)), size=32)
    if kind == "convnext":
        convnext_config = hf.ConvNextConfig(
            num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=10
        )
        return images(Output(hf.ConvNextForImageClassification(convnext_config)), n=4, size=32)
    if kind == "vit":
        return images(Output(hf.ViTForImageClassification(hf.ViTConfig(**small, **picture))), n=2)
    if kind == "bert":
        model: Any = hf.BertForSequenceClassification(
            hf.BertConfig(**small, vocab_size=64, intermediate_size=64, num_labels=4)
        )
        return tokens(Output(model), whole=True)
    if kind == "gpt2":
        gpt2 = hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=8, **ends)
        return tokens(Output(hf.GPT2LMHeadModel(gpt2)))
    if kind == "llama":
        llama = hf.LlamaConfig(
            **small, vocab_size=64, intermediate_size=64, num_key_value_heads=2, **ends
        )
        return tokens(Output(hf.LlamaForCausalLM(llama)))
    if kind == "t5":
        t5 = hf.T5Config(
            vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
        )  # fmt: skip
        return tokens(nn.Sequential(
            Output(hf.T5EncoderModel(t5), "last_hidden_state"), nn.Linear(32, 64)
        ))  # fmt: skip
    mamba = hf.MambaConfig(
        vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1, time_step_rank=2, **ends
    )
    return tokens(Output(hf.MambaForCausalLM(mamba)))


def coupled(output: Tensor, target: Tensor) -> Tensor:
    """A contrastive loss: every sample is compared with every other."""
    z = F.normalize(output, dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z), device=z.device))


def counts(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target)


NETWORKS: dict[str, Callable[[], Problem]] = {
    "relu mlp": lambda: vectors(mlp(RELU, 64, 64, 64, 10), 64, 10),
    "relu mlp, 8 layers": lambda: vectors(mlp(RELU, *[64] * 8, 10), 64, 10),
    "relu mlp, 300 classes": lambda: vectors(mlp(RELU, 64, 64, 300), 64, 300),
    "relu mlp, 800 classes": lambda: vectors(mlp(RELU, 64, 64, 800), 64, 800, 16),
    "relu mlp, 3,000 classes": lambda: vectors(mlp(RELU, 64, 64, 3000), 64, 3000, 4),
    "tanh mlp": lambda: vectors(mlp(TANH, 64, 64, 64, 10), 64, 10),
    "tanh mlp, 8 layers": lambda: vectors(mlp(TANH, *[64] * 8, 10), 64, 10),
    "tanh mlp, 300 classes": lambda: vectors(mlp(TANH, 64, 64, 300), 64, 300, 16),
    "tanh mlp, narrow waist": lambda: vectors(mlp(TANH, 64, 128, 4, 128, 10), 64, 10),
    "gelu mlp": lambda: vectors(mlp(GELU, 64, 96, 96, 10), 64, 10),
    "softplus mlp": lambda: vectors(mlp(nn.Softplus, 64, 64, 10), 64, 10),
    "relu mlp, layer norm": lambda: vectors(mlp(RELU, 64, 64, 64, 10, norm=nn.LayerNorm), 64, 10),
    "gelu mlp, rms norm": lambda: vectors(mlp(GELU, 64, 64, 64, 10, norm=nn.RMSNorm), 64, 10),
    "relu mlp, batch norm in training": lambda: vectors(
        mlp(RELU, 16, 16, 16, 4, norm=nn.BatchNorm1d), 16, 4
    ),
    "tanh mlp, dropout": lambda: vectors(
        nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.5), nn.Linear(64, 10)), 64, 10
    ),
    "tanh mlp, squared error": lambda: valued(
        mlp(TANH, 16, 64, 64, 8), torch.randn(64, 16), F.mse_loss
    ),
    "relu mlp, huber": lambda: valued(mlp(RELU, 16, 64, 8), torch.randn(64, 16), F.huber_loss),
    "relu mlp, many labels": lambda: valued(
        mlp(RELU, 64, 64, 64, 40), torch.randn(64, 64), F.binary_cross_entropy_with_logits
    ),
    "tanh mlp, counts": lambda: valued(mlp(TANH, 16, 64, 8), torch.randn(64, 16), counts),
    "autoencoder, 196 pixels": lambda: valued(
        mlp(RELU, 196, 64, 16, 64, 196), torch.randn(32, 196), F.mse_loss
    ),
    "autoencoder, tanh": lambda: valued(
        mlp(TANH, 196, 64, 16, 64, 196), torch.randn(32, 196), F.mse_loss
    ),
    "contrastive mlp": lambda: vectors(mlp(RELU, 16, 16, 8), 16, 8, 16, coupled),
    "residual gelu blocks": lambda: vectors(
        nn.Sequential(
            *[Sum(nn.Sequential(nn.LayerNorm(48), *mlp(GELU, 48, 96, 48))) for _ in range(4)],
            nn.Linear(48, 10),
        ),
        48,
        10,
    ),
    "gated unit": lambda: vectors(nn.Sequential(Gated(32, 64), nn.Linear(32, 10)), 32, 10),
    "soft experts": lambda: vectors(Experts(16, 4, 10), 16, 10, 32),
    "one layer three times": lambda: vectors(Shared(24, 10), 24, 10),
    "graph convolutions": lambda: vectors(Graph(30, 24, 5), 16, 5, 30),
    "lenet, relu": lambda: lenet(RELU),
    "lenet, tanh": lambda: lenet(TANH),
    "lenet, tanh, no biases": lambda: lenet(TANH, bias=False),
    "lenet, silu": lambda: lenet(SILU),
    "alexnet, an eighth": lambda: images(sim.models.build("alexnet", width=0.125, seed=0), size=32),
    "vgg, relu": lambda: vgg(RELU),
    "vgg, gelu": lambda: vgg(GELU),
    "resnet, basic blocks": lambda: images(
        *conv(3, 8, act=RELU), *basic(8, 8), *basic(8, 16, 2), *head(16)
    ),
    "resnet-18, an eighth": lambda: images(
        sim.models.build("resnet18", width=0.125, seed=0), n=4, size=32
    ),
    "resnet, bottlenecks": lambda: images(
        *conv(3, 16, act=RELU), *bottleneck(16, 8, 32), *bottleneck(32, 8, 32, 2), *head(32)
    ),
    "resnext": lambda: images(*conv(3, 16, act=RELU), *bottleneck(16, 16, 32, groups=4), *head(32)),
    "mobilenet, relu6": lambda: images(
        *conv(3, 8, act=nn.ReLU6), inverted(8, 32, nn.ReLU6), *head(8)
    ),
    "mobilenet, hard swish": lambda: images(
        *conv(3, 8, 3, 2, nn.Hardswish), inverted(8, 32, nn.Hardswish), *head(8), n=4
    ),
    "efficientnet, excited": lambda: images(
        *conv(3, 8, 3, 2, SILU), inverted(8, 16, SILU, excited=True), *head(8), n=4, size=8
    ),
    "squeeze and excitation": lambda: images(
        *conv(3, 16, act=RELU),
        Excited(16, 4, nn.ReLU()),
        *conv(16, 16, 3, 2, RELU),
        *head(16),
        n=4,
        size=8,
    ),
    "densenet": lambda: images(*conv(3, 8, act=RELU), *dense_block(8, 4, 3), *head(20)),
    "squeezenet": fire,
    "inception": inception,
    "shufflenet": shuffled,
    "convnext": lambda: images(nn.Conv2d(3, 8, 4, 4), convnext(8), *head(8), n=8),
    "group norm, silu": group_normed,
    "channels last, relu": lambda: channels_last(RELU),
    "channels last, gelu": lambda: channels_last(GELU),
    "u-net, interpolated": lambda: segmented(RELU, False),
    "u-net, transposed": lambda: segmented(RELU, True),
    "u-net, gelu": lambda: segmented(GELU, True),
    "convolutional autoencoder": lambda: autoencoder(RELU),
    "convolutional autoencoder, gelu": lambda: autoencoder(GELU, 8),
    "temporal convolutions": temporal,
    "volumes": volumes,
    "lstm": lambda: sequence(nn.LSTM),
    "gru": lambda: sequence(nn.GRU),
    "elman": lambda: sequence(nn.RNN),
    "embedding bag": lambda: tokens(
        nn.Sequential(nn.Embedding(64, 16), Act(lambda x: x.mean(1)), nn.Linear(16, 4)),
        whole=True,
    ),
    "gpt block": lambda: transformer(nn.LayerNorm, feed_forward),
    "llama block": lambda: transformer(nn.RMSNorm, lambda d: Gated(d, 2 * d)),
    "encoder block, relu": lambda: transformer(
        nn.LayerNorm, lambda d: feed_forward(d, RELU), False
    ),
    "mixer": mixer,
    **{
        f"hugging face {kind}": (lambda kind=kind: hugging_face(kind))  # type: ignore[misc]
        for kind in ("resnet", "convnext", "vit", "bert", "gpt2", "llama", "t5", "mamba")
    },
}


def named(name: str) -> Problem:
    """A network with its loss and data, always the same."""
    torch.manual_seed(0)
    problem: Problem = NETWORKS[name]()
    return problem


__all__ = ["NETWORKS", "named", "zoo"]
