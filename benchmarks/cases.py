"""The networks and data of `diagonal.py`."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sim

GGN, HESSIAN, PRODUCTS = "DiagGGNExact", "DiagHessian", "batched Hessian-vector products"


@dataclass
class Case:
    """A network, its data, the peer that can do all of it, and by what torch.func does it.

    `affine` says that the outputs are affine in every entry of every parameter, so that squared
    Jacobian columns are exact; elsewhere peers take Hessian-vector products.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    peer: str
    classes: int
    affine: bool = False
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def to(self, device: str) -> "Case":
        self.model, self.x, self.y = self.model.to(device), self.x.to(device), self.y.to(device)
        return self


def sequential_alexnet(width: float, classes: int) -> nn.Sequential:
    """AlexNet as a flat Sequential, which is all that BackPACK takes; dropout off."""
    model = sim.models.build("alexnet", width=width, classes=classes, seed=0)
    layers: list[nn.Module] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            layers += [module, nn.ReLU()]
            if name in ("conv1", "conv2", "conv5"):
                layers.append(nn.MaxPool2d(2))
        elif isinstance(module, nn.Linear):
            if not any(isinstance(m, nn.Flatten) for m in layers):
                layers.append(nn.Flatten())
            layers += [module, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp(activation: Callable[[], nn.Module], *sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Blocks x + W₂ gelu(W₁ norm(x)) of equal widths."""

    def __init__(self, width: int, hidden: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, classes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return self.head(x)


def residual_case(width: int, hidden: int, blocks: int) -> Case:
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    return Case(Residual(width, hidden, blocks, 10), x, y, PRODUCTS, 10)


def image_case(width: float, classes: int, n: int) -> Case:
    x, y = torch.randn(n, 3, 32, 32), torch.randint(0, classes, (n,))
    return Case(sequential_alexnet(width, classes), x, y, GGN, classes, affine=True)


def tanh_case(*sizes: int, n: int = 128) -> Case:
    x, y = torch.randn(n, sizes[0]), torch.randint(0, sizes[-1], (n,))
    return Case(mlp(nn.Tanh, *sizes), x, y, HESSIAN, sizes[-1])


def relu_case(depth: int, n: int = 128) -> Case:
    x, y = torch.randn(n, 256), torch.randint(0, 10, (n,))
    return Case(mlp(nn.ReLU, *[256] * depth, 10), x, y, GGN, 10, affine=True)


CASES: dict[str, Callable[[], Case]] = {
    "tanh-256": lambda: tanh_case(784, 256, 256, 10),
    "tanh-512": lambda: tanh_case(784, 512, 512, 512, 10),
    "residual-128": lambda: residual_case(128, 512, 8),
    "residual-256": lambda: residual_case(256, 256, 8),
    "alexnet-quarter": lambda: image_case(0.25, 10, 128),
    "alexnet-100-classes": lambda: image_case(1.0, 100, 24),
    "alexnet": lambda: image_case(1.0, 10, 128),
}


class Logits(nn.Module):
    """A Hugging Face model of tokens, by what it says of the next one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).logits


def each_token(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def token_case(kind: str, sequences: int = 1) -> Case:
    """Four blocks of width 128, vocabulary 256, sequences of 16 tokens, all weights random."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if kind == "llama":
        model: nn.Module = LlamaForCausalLM(LlamaConfig(
            vocab_size=256, hidden_size=128, intermediate_size=341, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
            bos_token_id=0, eos_token_id=0, attn_implementation="eager",
        ))  # fmt: skip
    else:
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=256, n_embd=128, n_layer=4, n_head=4, n_positions=16,
            bos_token_id=0, eos_token_id=0, attn_implementation="eager",
        ))  # fmt: skip
    x, y = (torch.randint(0, 256, (sequences, 16)) for _ in range(2))
    return Case(Logits(model).eval(), x, y, PRODUCTS, 256, loss=each_token)


# Transformers as Hugging Face builds them; minutes each before their positions were blocks.
FORMS: dict[str, Callable[[], Case]] = {
    "llama": lambda: token_case("llama"),
    "llama-4-sequences": lambda: token_case("llama", 4),
    "gpt2": lambda: token_case("gpt2"),
}

# What grows, and over what: AlexNet of an eighth of the width, or a ReLU network for depth.
GROWTH: dict[str, tuple[tuple[float, ...], Callable[[float], Case]]] = {
    "samples": ((32, 64, 128, 256), lambda v: image_case(0.125, 10, int(v))),
    "classes": ((2, 10, 50, 100), lambda v: image_case(0.125, int(v), 32)),
    "width": ((0.125, 0.25, 0.5), lambda v: image_case(v, 10, 32)),
    "depth": ((2, 4, 8, 16), lambda v: relu_case(int(v))),
}


def named(name: str) -> Case:
    """A case by its name, or a point of a growth curve as ``samples=64``."""
    torch.manual_seed(0)
    if "=" in name:
        axis, value = name.split("=")
        return GROWTH[axis][1](float(value))
    return (CASES | FORMS)[name]()


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return os.uname().machine
