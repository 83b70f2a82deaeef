"""Modules of torch as parts of random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations as P

from hessian.testing._parts import WIDTH, Part


class Module(nn.Module):
    """A module of torch between [n, 4] and [n, 4], on vectors, two positions, or an image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        make, self.dims, out = MODULES[how]
        self.inner = make()
        self.back = Part(out, WIDTH) if out != WIDTH else nn.Identity()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), *self.dims)
        if self.how.endswith("time-first"):
            x = self.inner(x.transpose(0, 1))
            x = (x[0] if isinstance(x, tuple) else x).transpose(0, 1)
        elif self.how.startswith("attention"):
            x = self.inner(x, x, x, need_weights=self.how == "attention-weights")[0]
        elif self.how.startswith("cell"):
            x = self.inner(x, torch.tanh(x) if self.how == "cell" else (x, x / 2))
            x = x[0] if isinstance(x, tuple) else x
        else:
            x = self.inner(x)
            x = x[0] if isinstance(x, tuple) else x
        y: Tensor = self.back(x.flatten(1))
        return y


def _convolution(d: int, how: str) -> Callable[[], nn.Module]:
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    if how == "strided":
        return lambda: kind(2 if d == 1 else 1, 2, 2, stride=2, padding=1, bias=False)
    if how == "dilated":
        return lambda: kind(2 if d == 1 else 1, 2, 2, dilation=2, padding=1)
    if how == "grouped":
        return lambda: nn.Sequential(
            kind(2 if d == 1 else 1, 2, 1), nn.Tanh(), kind(2, 2, 1, groups=2)
        )
    return lambda: kind(2 if d == 1 else 1, 1, 3, padding=1, padding_mode=how)


def _transposed(d: int) -> Callable[[], nn.Module]:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[d - 1]
    return lambda: kind(2 if d == 1 else 1, 1, 2, stride=2, padding=1, output_padding=1)


# name: (constructor, shape that the four features take, entries that it gives)
IMAGE, ROWS, DEEP = (1, 2, 2), (2, 2), (1, 1, 2, 2)
MODULES = {
    **{f"conv1d-{how}": (_convolution(1, how), ROWS, 2) for how in
       ("zeros", "reflect", "replicate", "circular")},
    **{f"conv2d-{how}": (_convolution(2, how), IMAGE, 4) for how in
       ("zeros", "reflect", "replicate", "circular")},
    **{f"conv3d-{how}": (_convolution(3, how), DEEP, 4) for how in ("zeros", "replicate")},
    "conv1d-strided": (_convolution(1, "strided"), ROWS, 4),
    "conv2d-strided": (_convolution(2, "strided"), IMAGE, 8),
    "conv2d-dilated": (_convolution(2, "dilated"), IMAGE, 8),
    "conv2d-grouped": (_convolution(2, "grouped"), IMAGE, 8),
    "transposed1d": (_transposed(1), ROWS, 3),
    "transposed2d": (_transposed(2), IMAGE, 9),
    "instance": (lambda: nn.InstanceNorm1d(2, affine=True), ROWS, 4),
    "group": (lambda: nn.GroupNorm(2, 4), (4,), 4),
    "rms": (lambda: nn.RMSNorm(2), ROWS, 4),
    "response": (lambda: nn.LocalResponseNorm(2), ROWS, 4),
    "weight-norm": (lambda: P.weight_norm(nn.Linear(4, 4)), (4,), 4),
    "spectral": (lambda: P.spectral_norm(nn.Linear(4, 4)).eval(), (4,), 4),
    "orthogonal": (lambda: P.orthogonal(nn.Linear(4, 4)), (4,), 4),
    "attention": (lambda: nn.MultiheadAttention(2, 1, batch_first=True), ROWS, 4),
    "attention-weights": (lambda: nn.MultiheadAttention(2, 2, batch_first=True), ROWS, 4),
    "encoder": (lambda: nn.TransformerEncoderLayer(2, 1, 3, batch_first=True), ROWS, 4),
    "encoder-norm-first-time-first": (
        lambda: nn.TransformerEncoderLayer(2, 2, 3, norm_first=True, activation="gelu").eval(),
        ROWS, 4,
    ),
    "rnn-time-first": (lambda: nn.RNN(2, 2, nonlinearity="relu"), ROWS, 4),
    "lstm": (lambda: nn.LSTM(2, 2, batch_first=True), ROWS, 4),
    "gru-both-ways": (lambda: nn.GRU(2, 1, bidirectional=True, batch_first=True), ROWS, 4),
    "cell": (lambda: nn.GRUCell(4, 4), (4,), 4),
    "cell-lstm": (lambda: nn.LSTMCell(4, 4), (4,), 4),
    "shuffle": (lambda: nn.PixelShuffle(2), (4, 1, 1), 4),
    "circular": (lambda: nn.CircularPad2d(1), IMAGE, 16),
    "glu": (lambda: nn.GLU(1), (4,), 2),
    "hardsigmoid": (lambda: nn.Hardswish(), (4,), 4),
}  # fmt: skip
