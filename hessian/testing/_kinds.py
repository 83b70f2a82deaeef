"""Parts of random networks that stand between autograd and the user."""

from __future__ import annotations

import dataclasses
import warnings
from collections import UserDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations as P

from hessian import trees
from hessian.testing._losses import Loss
from hessian.testing._parts import WIDTH, Part


class Penalised(nn.Module):
    """Leaves a penalty in an attribute that the loss reads: on its weights or on what it sees."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = Part(WIDTH, WIDTH), how
        self.penalty: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.inner(x))
        read = self.inner.w if self.how == "weights" else y
        self.penalty = 0.1 * read.square().sum()
        return y


class Hooked(nn.Module):
    """A hook that doubles the gradient on its way; neither the loss nor its derivatives change."""

    active = True

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner = Part(WIDTH, WIDTH)
        if how == "parameter":
            self.inner.w.register_hook(lambda g: 2 * g if self.active else g)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.how == "activation" and self.active and y.requires_grad:
            y.register_hook(lambda g: 2 * g)
        return torch.tanh(y)


class Relu(torch.autograd.Function):
    """A softplus under the name of torch's own operation, with its right derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.softplus(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * torch.sigmoid(ctx.saved_tensors[0])


class Mul(torch.autograd.Function):
    """A product with its own sine, likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sin()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return grads[0] * (x.sin() + x * x.cos())


class Sign(torch.autograd.Function):
    """A sign with the gradient of a hyperbolic tangent: a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


class Function(nn.Module):
    """A custom autograd function that bears the name of one of torch's operations."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        apply: Callable[[Tensor], Tensor] = {"Relu": Relu, "Mul": Mul, "Sign": Sign}[self.how].apply
        return apply(x)


class WeightNorm(nn.Module):
    """Weight norm, old and new, of a linear layer and of a convolution."""

    def __init__(self, how: str) -> None:
        super().__init__()
        form, kind = how.split("-")
        inner: nn.Module = nn.Linear(4, 4) if kind == "linear" else nn.Conv1d(2, 2, 3, padding=1)
        if form == "new":
            self.inner = P.weight_norm(inner)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch prefers the new one
                self.inner = nn.utils.weight_norm(inner)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "linear":
            return torch.tanh(self.inner(x))
        return torch.tanh(self.inner(x.view(-1, 2, 2)).flatten(1))


class Masked(nn.Module):
    """Attention over two positions with scores of -inf where it must not look."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(2, 2) for _ in range(3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        s = x.view(-1, 2, 2)
        mask = torch.zeros(2, 2, dtype=x.dtype, device=x.device).masked_fill(
            torch.ones(2, 2, device=x.device).triu(1).bool(), -torch.inf
        )
        if self.how == "fused":
            z = F.scaled_dot_product_attention(self.q(s), self.k(s), self.v(s), mask)
        else:
            scores = self.q(s) @ self.k(s).transpose(1, 2) / 2**0.5
            z = (scores + mask).softmax(-1) @ self.v(s)
        return x + z.flatten(1)


class SequenceFirst(nn.Module):
    """Positions before samples: a running sum, a running product, or a recurrence over them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = nn.Linear(2, 2), how

    def forward(self, x: Tensor) -> Tensor:
        s = torch.tanh(self.inner(x.view(-1, 2, 2).transpose(0, 1)))
        if self.how == "sum":
            s = s.cumsum(0)
        elif self.how == "product":
            s = (s + 1.5).cumprod(0)
        else:
            s = torch.stack([s[0], torch.tanh(s[1] + s[0])])
        return s.transpose(0, 1).flatten(1)


class Narrow(nn.Module):
    """A layer whose parameters are in another dtype than what flows through the network."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner = Part(WIDTH, WIDTH).to(getattr(torch, how))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x.to(self.inner.w.dtype)).to(x.dtype))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self  # stays as it is where the network is turned to float64


KINDS: dict[str, Callable[[], nn.Module]] = {
    **{f"penalty:{how}": partial(Penalised, how) for how in ("weights", "activation")},
    **{f"hook:{how}": partial(Hooked, how) for how in ("activation", "parameter")},
    **{f"function:{how}": partial(Function, how) for how in ("Relu", "Mul", "Sign")},
    **{
        f"weight-norm:{how}": partial(WeightNorm, how)
        for how in ("old-linear", "new-linear", "old-conv", "new-conv")
    },
    **{f"mask:{how}": partial(Masked, how) for how in ("fused", "written")},
    **{
        f"sequence-first:{how}": partial(SequenceFirst, how)
        for how in ("sum", "product", "recurrence")
    },
    **{f"narrow:{how}": partial(Narrow, how) for how in ("bfloat16", "float32")},
}


# ------------------------------------------------------------------ outputs


@dataclasses.dataclass
class Output:
    """A container that pytree knows."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


@dataclasses.dataclass
class Opaque:
    """One that pytree does not open."""

    logits: Tensor
    rows: int


_registered = False


def _register() -> None:
    global _registered
    if not _registered:
        trees.register(
            Output, lambda out: ([out.logits, out.hidden], None), lambda values, _: Output(*values)
        )
        _registered = True


FORMS = ("tensor", "tuple", "mapping", "dataclass", "two inputs", "two outputs",
         "one tensor twice", "opaque", "user dict", "distribution")  # fmt: skip


class Packed(nn.Module):
    """A network with its inputs and outputs packed in another form."""

    def __init__(self, inner: nn.Module, form: str) -> None:
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        if other is not None:
            x = x + 0.5 * other
        y = self.inner(x)
        if self.form == "tuple":
            return y, {"rows": len(y)}
        if self.form == "mapping":
            return {"unused": y.sum(), "logits": y}
        if self.form == "dataclass":
            _register()
            return Output(y, (y.detach(),))
        if self.form == "two outputs":
            return y, y[:, :2].tanh()
        if self.form == "one tensor twice":
            return {"last": y, "all": (y, y)}
        if self.form == "opaque":
            return Opaque(y, len(y))
        if self.form == "user dict":
            return UserDict(logits=y)
        if self.form == "distribution":
            return torch.distributions.Normal(y, 1.0, validate_args=False)
        return y


UNPACK: dict[str, Callable[[Any], Tensor]] = {
    "tuple": lambda o: o[0],
    "mapping": lambda o: o["logits"],
    "dataclass": lambda o: o.logits,
    "two outputs": lambda o: o[0] + torch.cat([o[1], o[1]], 1),
    "one tensor twice": lambda o: (o["last"] + o["all"][0] + o["all"][1]) / 2,
    "opaque": lambda o: o.logits,
    "user dict": lambda o: o["logits"],
    "distribution": lambda o: o.loc + o.scale.log(),
}


def packed(model: nn.Module, loss: Loss, x: Tensor, form: str) -> tuple[Packed, Loss, Any]:
    """Model, loss and inputs in another form; what is computed stays nearly the same."""
    unpack = UNPACK.get(form, lambda o: o)
    inputs: Any = {"mapping": {"x": x}, "two inputs": (x, x.flip(1))}.get(form, x)
    return Packed(model, form), lambda o, t: loss(unpack(o), t), inputs
