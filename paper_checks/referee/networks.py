"""The referee's networks: small ones of every kind in use, each with data that are at hand."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SYMBOLS, LENGTH = 32, 8
# What a masked token is replaced by, and the target of those that are not asked for.
MASK, IGNORED = 1, -100


@dataclass(frozen=True)
class Task:
    """A network, its loss, and the data it is trained and measured on, as one pair."""

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    pair: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Network:
    """How a network is made and trained.

    `needs` is the package it comes from, where that is not ours; `samples` are measured on;
    `steps` of Adam at `lr`, on 32 samples each, train it.
    """

    title: str
    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    needs: str = ""
    samples: int = 64
    steps: int = 300
    lr: float = 3e-3


class UNet(nn.Module):
    """Two levels: down by pooling, up by interpolation, joined along the channels."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, H, W]` to two logits for every pixel."""
        high = F.relu(self.enter(x))
        low = F.relu(self.down(F.max_pool2d(high, 2)))
        low = F.interpolate(F.relu(self.up(low)), scale_factor=2.0)
        result: Tensor = self.leave(F.relu(self.merge(torch.cat([high, low], 1))))
        return result


class Logits(nn.Module):
    """A Hugging Face model by its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """What the inner model says, as one tensor."""
        logits: Tensor = self.model(x).logits
        return logits


def each_token(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all tokens that are asked for."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sim.data import load

    return load("digits").pair


def _flat() -> tuple[Tensor, Tensor]:
    x, y = _digits()
    return x.flatten(1), y


def _ink() -> tuple[Tensor, Tensor]:
    """Noisy digits, and which of their pixels have ink."""
    x, _ = _digits()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x + 0.5 * noise, (x[:, 0] > x.mean()).long()


@cache
def _text() -> Tensor:
    """The descriptions of scikit-learn's data sets as numbers of their commonest letters."""
    from collections import Counter

    from sklearn import datasets

    text = " ".join(
        getattr(datasets, f"load_{name}")().DESCR
        for name in ("iris", "wine", "breast_cancer", "diabetes", "digits", "linnerud")
    ).lower()
    common = [letter for letter, _ in Counter(text).most_common(SYMBOLS - 2)]
    codes = torch.tensor([common.index(c) + 2 if c in common else 0 for c in text])
    return codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)


def _next() -> tuple[Tensor, Tensor]:
    """Letters, and the letter after each."""
    rows = _text()
    return rows[:, :-1], rows[:, 1:]


def _masked() -> tuple[Tensor, Tensor]:
    """Letters of which every fourth is hidden, and those."""
    rows = _text()[:, :-1]
    hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) < 0.25
    return rows.masked_fill(hidden, MASK), rows.masked_fill(~hidden, IGNORED)


def _mlp(activation: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((64, 32, 32)):
            layers += [nn.Linear(a, b), activation()]
        return nn.Sequential(*layers, nn.Linear(32, 10))

    return make


def _ours(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from sim.models import build

        return build(name, in_shape=(1, 8, 8), classes=10, **options)

    return make


_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}


def _hugging_face(kind: str) -> Callable[[], nn.Module]:
    """A form of transformers, two layers of width 16, attention written out, no dropout."""

    def make() -> nn.Module:
        import transformers as t

        eager = {"attn_implementation": "eager"}
        tokens = {"vocab_size": SYMBOLS, "max_position_embeddings": LENGTH, **eager}
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        if kind == "bert":
            config = t.BertConfig(intermediate_size=32, **_SIZES, **tokens, **still)
            return Logits(t.BertForMaskedLM(config))
        if kind == "gpt2":
            config = t.GPT2Config(
                n_layer=2, n_head=2, n_embd=16, n_positions=LENGTH, vocab_size=SYMBOLS,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
                **eager,
            )  # fmt: skip
            return Logits(t.GPT2LMHeadModel(config))
        if kind == "llama":
            config = t.LlamaConfig(
                intermediate_size=40, num_key_value_heads=1, bos_token_id=0, eos_token_id=0,
                **_SIZES, **tokens,
            )  # fmt: skip
            return Logits(t.LlamaForCausalLM(config))
        config = t.ViTConfig(
            image_size=8, patch_size=4, num_channels=1, num_labels=10, intermediate_size=32,
            **_SIZES, **still, **eager,
        )  # fmt: skip
        return Logits(t.ViTForImageClassification(config))

    return make


_TOKENS: dict[str, Any] = {"loss": each_token, "needs": "transformers", "samples": 16}
NETWORKS: dict[str, Network] = {
    "mlp-relu": Network("MLP, ReLU", _mlp(nn.ReLU), _flat),
    "mlp-tanh": Network("MLP, tanh", _mlp(nn.Tanh), _flat),
    "mlp-gelu": Network("MLP, GELU", _mlp(nn.GELU), _flat),
    "lenet-tanh": Network(
        "LeNet, tanh", _ours("lenet", width=0.25, activation="tanh"), _digits, steps=200
    ),
    "alexnet": Network(
        "AlexNet", _ours("alexnet", width=1 / 32, dropout=0.0), _digits, samples=32, steps=150
    ),
    "resnet18": Network(
        "ResNet-18, batch norm in evaluation", _ours("resnet18", width=1 / 16), _digits,
        samples=32, steps=100, lr=1e-2,
    ),
    "unet": Network("U-Net, pixels", UNet, _ink, samples=16, steps=200),
    "transformer": Network(
        "Vision transformer, ours", _ours("transformer", width=0.25, depth=1, heads=2, patch=4),
        _digits, samples=32,
    ),
    "vit": Network("ViT", _hugging_face("vit"), _digits, needs="transformers", samples=32),
    "bert": Network("BERT, masked letters", _hugging_face("bert"), _masked, **_TOKENS),
    "gpt2": Network("GPT-2, next letter", _hugging_face("gpt2"), _next, **_TOKENS),
    "llama": Network("Llama, next letter", _hugging_face("llama"), _next, **_TOKENS),
}  # fmt: skip
STATES = ("initial", "trained")


def task(name: str, state: str, seed: int) -> Task:
    """A network of a seed, at initialisation or trained, in evaluation mode, and its samples."""
    network = NETWORKS[name]
    torch.manual_seed(seed)
    inputs, targets = network.data()
    model = network.make().train()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    measured = order[: network.samples]
    whole = Task(model, network.loss, (inputs[order], targets[order]))
    if state == "trained":
        _train(whole, network, seed)
    model.eval()
    return replace(whole, pair=(inputs[measured], targets[measured]))


def _train(subject: Task, network: Network, seed: int) -> None:
    inputs, targets = subject.pair
    generator = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.Adam(subject.model.parameters(), network.lr)
    for _ in range(network.steps):
        index = torch.randint(0, len(inputs), (32,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        subject.loss(subject.model(inputs[index]), targets[index]).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
