"""Networks of many kinds, each small enough to be differentiated in every way that is exact.

Written with `torch.nn` in the form of the torchvision model or the paper whose name they bear, or
built by Hugging Face from a configuration; all weights are random.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layers = list[nn.Module]


class Problem(NamedTuple):
    """A model in the mode it is differentiated in, its loss and one batch."""

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    data: tuple[Any, Any]


class Sum(nn.Module):
    """x + f(x), with a shortcut where the shapes differ."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.shortcut = inner, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.inner(x)


class Join(nn.Module):
    """The branches side by side along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Act(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Excited(nn.Module):
    """Squeeze and excitation: channels times a gate that reads their means."""

    def __init__(self, width: int, narrow: int, act: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1), act,
            nn.Conv2d(narrow, width, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Gated(nn.Module):
    """SwiGLU: down(silu(gate x) · up x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Self-attention by the scaled products of heads."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class Recurrent(nn.Module):
    """A recurrent layer, of which the last state is classified."""

    def __init__(self, layer: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class UNet(nn.Module):
    """Two levels with a bridge across, up by interpolation or by transposed convolution."""

    def __init__(self, act: Callable[[], nn.Module], turned: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), act())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), act())
        self.up = (
            nn.ConvTranspose2d(16, 8, 2, stride=2) if turned
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(16, 8, 1))
        )  # fmt: skip
        self.leave = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), act(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        high = self.enter(x)
        return self.leave(torch.cat([high, self.up(self.down(high))], 1))


class Graph(nn.Module):
    """Two graph convolutions over one graph, whose nodes are classified together."""

    def __init__(self, nodes: int, width: int, classes: int) -> None:
        super().__init__()
        edges = (torch.rand(nodes, nodes) < 0.2).float() + torch.eye(nodes)
        self.register_buffer("spread", edges / edges.sum(1, keepdim=True))
        self.first, self.second = nn.Linear(16, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.spread @ self.second(F.relu(self.spread @ self.first(x)))


class Experts(nn.Module):
    """A soft mixture of experts."""

    def __init__(self, width: int, experts: int, classes: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(mlp(nn.GELU, width, 32, classes) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return (shares.unsqueeze(2) * outputs).sum(1)


class Shared(nn.Module):
    """One layer used again and again."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.head(x)


class Output(nn.Module):
    """A Hugging Face model by one field of its output."""

    def __init__(self, model: nn.Module, field: str = "logits") -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.model(x), self.field)


def mlp(act: Callable[[], nn.Module], *sizes: int, norm: Any = None) -> nn.Sequential:
    layers: Layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), *([] if norm is None else [norm(b)]), act()]
    return nn.Sequential(*layers[: -1 if norm is None else -2])


def conv(a: int, b: int, size: int = 3, stride: int = 1, act: Any = None, **options: Any) -> Layers:
    """A convolution with batch norm and an activation, sizes kept but for the stride."""
    layers: Layers = [
        nn.Conv2d(a, b, size, stride, size // 2, bias=False, **options), nn.BatchNorm2d(b)
    ]  # fmt: skip
    return layers if act is None else [*layers, act()]


def head(width: int, classes: int = 10) -> Layers:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def basic(a: int, b: int, stride: int = 1) -> Layers:
    inner = nn.Sequential(*conv(a, b, 3, stride, nn.ReLU), *conv(b, b))
    short = None if a == b and stride == 1 else nn.Sequential(*conv(a, b, 1, stride))
    return [Sum(inner, short), nn.ReLU()]


def bottleneck(a: int, narrow: int, b: int, stride: int = 1, groups: int = 1) -> Layers:
    inner = nn.Sequential(
        *conv(a, narrow, 1, 1, nn.ReLU), *conv(narrow, narrow, 3, stride, nn.ReLU, groups=groups),
        *conv(narrow, b, 1),
    )  # fmt: skip
    short = None if a == b and stride == 1 else nn.Sequential(*conv(a, b, 1, stride))
    return [Sum(inner, short), nn.ReLU()]


def inverted(a: int, wide: int, act: Any, excited: bool = False) -> Sum:
    layers = [*conv(a, wide, 1, 1, act), *conv(wide, wide, 3, 1, act, groups=wide)]
    if excited:
        layers.append(Excited(wide, wide // 4, act()))
    return Sum(nn.Sequential(*layers, *conv(wide, a, 1)))


def dense_block(width: int, growth: int, count: int) -> Layers:
    layers: Layers = []
    for i in range(count):
        a = width + i * growth
        new = nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, growth, 3, padding=1))
        layers.append(Join(nn.Identity(), new))
    return layers


def convnext(width: int) -> Sum:
    def last(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)

    return Sum(
        nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width), Act(last), nn.LayerNorm(width),
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width),
            Act(lambda x: x.permute(0, 3, 1, 2)),
        )
    )  # fmt: skip


def block(width: int, norm: Any, mixer: nn.Module, feed: nn.Module) -> Layers:
    """A pre-norm block of a transformer."""
    return [Sum(nn.Sequential(norm(width), mixer)), Sum(nn.Sequential(norm(width), feed))]


def feed_forward(width: int, act: Any = nn.GELU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), act(), nn.Linear(2 * width, width))


def images(*layers: nn.Module, n: int = 16, size: int = 16, classes: int = 10) -> Problem:
    model = nn.Sequential(*layers).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x, y = torch.randn(n, 3, size, size), torch.randint(classes, (n,))
    return Problem(model, F.cross_entropy, (x, y))


def vectors(
    model: nn.Module, width: int, classes: int, n: int = 64, loss: Any = F.cross_entropy
) -> Problem:
    return Problem(model, loss, (torch.randn(n, width), torch.randint(classes, (n,))))


def valued(model: nn.Module, x: Tensor, loss: Any, sign: bool = False) -> Problem:
    """With targets of the outputs' own shape."""
    with torch.no_grad():
        y = torch.rand_like(model(x))
    return Problem(model, loss, (x, y))


def each_token(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def tokens(
    model: nn.Module, vocabulary: int = 64, length: int = 8, n: int = 2, whole: bool = False
) -> Problem:
    """Sequences whose tokens predict their next, or which have one label as a whole."""
    x = torch.randint(vocabulary, (n, length))
    if whole:
        return Problem(model.eval(), F.cross_entropy, (x, torch.randint(4, (n,))))
    return Problem(model.eval(), each_token, (x, torch.randint(vocabulary, (n, length))))
