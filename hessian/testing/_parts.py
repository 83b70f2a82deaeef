"""Parts of random networks: each maps [n, 4] to [n, 4] and holds its own parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Features between any two parts.
WIDTH = 4


class Part(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(out, width) / width**0.5)
        self.b = nn.Parameter(torch.randn(out) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w, self.b)


class Fn(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Sum(nn.Module):
    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return {
            "add": x + y,
            "mul": x * y,
            "max": torch.maximum(x, y),
            "cat": torch.cat([x, y], 1),
        }[self.how]


class Twice(nn.Module):
    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        series = self.how == "series"
        y: Tensor = self.inner(F.relu(self.inner(x)) if series else x)
        return y if series else y + F.relu(self.inner(x.flip(1)))


class Broadcast(nn.Module):
    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        dims = {"row": (width,), "one": (1, width), "scalar": ()}[how]
        self.p = nn.Parameter(torch.rand(dims) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.p - 0.5 * self.p


class Sequence(nn.Module):
    """[n, 2d] as two positions of d features."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        d = width // 2
        self.how = how
        self.conv: Any = nn.Conv1d(d, d, 2, padding=1) if how == "conv" else None
        self.lin: Any = nn.Linear(d, d, bias=how != "plain") if how != "conv" else None
        self.norm: Any = nn.LayerNorm(d) if how == "norm" else None

    def forward(self, x: Tensor) -> Tensor:
        s = x.view(len(x), 2, -1)
        if self.conv is not None:
            y: Tensor = self.conv(s.transpose(1, 2))
            return y[:, :, 1:].flatten(1)
        s = self.lin(s)
        if self.how == "time-first":
            s = self.lin(s.transpose(0, 1)).transpose(0, 1)
        if self.how == "attention":
            s = F.scaled_dot_product_attention(s, s, s)
        if self.norm is not None:
            s = self.norm(s)
        return s.reshape(len(x), -1)


class Matrix(nn.Module):
    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "matmul":
            return x @ self.m
        if self.how == "einsum":
            return torch.einsum("ni,oi->no", x, self.m)
        if self.how == "slices":
            return F.linear(x, self.m[:2]).repeat(1, x.shape[1] // 2)
        if self.how == "norm":
            return F.linear(x, self.m / self.m.norm(dim=1, keepdim=True))
        return x @ (self.m + self.m.T)


class Pair(nn.Module):
    """A bilinear layer of two halves, one of which another layer makes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.below = nn.Bilinear(2, 2, WIDTH), nn.Linear(2, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y: Tensor = self.inner(self.below(a), b if self.how == "one" else self.below(b))
        return y


class Complex(nn.Module):
    """Through complex numbers and back."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.p, self.how = nn.Parameter(torch.rand(WIDTH) + 0.5), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "fourier":
            wave: Tensor = torch.fft.irfft(torch.fft.rfft(x) * self.p[:3], n=WIDTH)
            return wave
        y: Tensor = (x * self.p).to(torch.complex128).add(0.5j).abs()
        return y


class Rows(nn.Module):
    """Looks rows up by what it is given, and keeps that too: indices carry no derivative."""

    def __init__(self, how: str) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if how == "bag" else nn.Embedding
        options: dict[str, Any] = {"padding_idx": 0} if how == "padding" else {}
        self.rows, self.how = kind(5, WIDTH, **options), how

    def forward(self, x: Tensor) -> Tensor:
        index = (x.detach() * 1.5 + 2).round().clamp(0, 4).long()
        if self.how == "bag":
            w = self.rows.weight  # what torch has no second derivative for, by hand
            looked_up = self.rows(index) if Rows.bags else w[index].mean(1)
        else:
            looked_up = self.rows(index).sum(1)
        return x + looked_up

    bags = False


class Choice(nn.Module):
    """Control flow that reads the data; one of the layers is used never, once or twice.

    The thresholds lie off the integers: what is centred sums to zero but for rounding, and
    rounding must not choose.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b = Part(WIDTH, WIDTH), Part(WIDTH, WIDTH)
        if how == "frozen":
            self.a.w.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for step in range(2):
            x = (
                torch.tanh(self.a(x))
                if float(x.detach().sum()) > step + 0.3
                else x + self.b(x).relu()
            )
        return x


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky": F.leaky_relu,
    "abs": torch.abs,
    "softmax": lambda x: 2 * x.softmax(1),
    "clamp": lambda x: x.clamp(-0.7, 0.9),
    "square": lambda x: x.square() / 2,
    "center": lambda x: x - x.mean(0, keepdim=True),
    "shuffle": lambda x: x[torch.arange(len(x), device=x.device).flip(0)] + x,
    "turn": lambda x: x.t().flip(0).t(),
    "detach": lambda x: x * x.detach(),
    "where": lambda x: torch.where(x > 0.1, x, 0.3 * x + 0.2),
    "inplace": lambda x: F.relu_(x.clone().mul_(1.5)),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "gate": lambda x: x * torch.sigmoid(x.sum(1, keepdim=True)),
    "pool": lambda x: x + F.max_pool1d(x.unsqueeze(1), 2).repeat(1, 1, 2).squeeze(1),
    "dropout": lambda x: F.dropout(x, 0.3),
}
