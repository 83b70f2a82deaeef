"""From an optimizer's name to the optimizer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from sim import _arguments, _own, optimizers
from sim._own import is_own

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "cblr": optimizers.CBLR,
    "lamb": optimizers.LAMB,
    "lars": optimizers.LARS,
    "mclr": optimizers.MCLR,
    "percent-delta": optimizers.PercentDelta,
    "sgd": torch.optim.SGD,
}
# Entry by entry, so that the tensors of several networks can be updated as one.
ELEMENTWISE = ("adam", "adamw", "sgd")
_SGD = {"momentum", "dampening", "weight_decay", "nesterov"}
_ADAM = {"betas", "eps", "weight_decay", "amsgrad"}
_TORCH = {"adam": _ADAM, "adamw": _ADAM, "sgd": _SGD}


def make(name: str, params: Any, lr: float, options: Mapping[str, Any]) -> Optimizer:
    """The optimizer over named parameters; torch's own in their fused form.

    | name | class | options |
    |---|---|---|
    | `sgd` | `torch.optim.SGD` | `momentum`, `dampening`, `weight_decay`, `nesterov` |
    | `adam`, `adamw` | `torch.optim.Adam`, `AdamW` | `betas`, `eps`, `weight_decay`, `amsgrad` |
    | `cblr`, `lars`, `mclr`, `percent-delta`, `lamb` | those of `sim.optimizers` | theirs |

    Raises:
        ValueError: an unknown name or option, or a value that the optimizer refuses.

    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> type(make("lars", [("w", w)], 0.1, {"momentum": 0.9})).__name__
    'LARS'
    """
    if is_own(name):
        return own_optimizer(name, params, lr, options)
    kind = OPTIMIZERS[_arguments.choice("optimizer", name, OPTIMIZERS)]
    if name in _TORCH:
        for option in options:
            if option not in _TORCH[name]:
                possible = sorted(_TORCH[name])
                raise ValueError(
                    f"{option}: no such option for the optimizer {name!r}; its options are: "
                    f"{', '.join(possible)}{_arguments.did_you_mean(option, possible)}"
                )
        _check_torch(options)
        return kind(params, lr=lr, fused=True, **options)
    _arguments.options(f"the optimizer {name!r}", kind, options)
    return kind(params, lr=lr, **options)


def own_optimizer(name: str, params: Any, lr: float, options: Mapping[str, Any]) -> Optimizer:
    """An optimizer of the reader's own, `package.module:object`, called with (params, lr=…).

    Raises:
        ValueError: it returns no `torch.optim.Optimizer`, or one that needs a closure (as
            `LBFGS`), or lacks an option.
    """
    with _arguments.told_of("optimizer"):
        factory = _own.named(name)
        if callable(factory):
            _own.check_options(f"the optimizer {name!r}", factory, options)
        optimizer = _own.made(name, factory, params, lr=lr, **options)
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"got {name!r}; it returned {type(optimizer).__name__}, not a torch.optim.Optimizer"
            )
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ValueError(
                f"got {name!r}; its step() needs a closure that computes the loss anew, which "
                "training does not give; name one whose step takes the gradients that are there"
            )
    return optimizer


def _check_torch(options: Mapping[str, Any]) -> None:
    """Refuse what torch's optimizers refuse late, or in words of their own, or not at all."""
    for name in ("momentum", "dampening", "weight_decay", "eps"):
        if name in options:
            _arguments.number(name, options[name], 0.0)
    for name in ("nesterov", "amsgrad"):
        if name in options:
            _arguments.flag(name, options[name])
    if options.get("nesterov") and (not options.get("momentum") or options.get("dampening")):
        raise ValueError("nesterov: it needs momentum above 0 and no dampening; give these")
    if "betas" in options:
        betas = options["betas"]
        if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
            raise ValueError(f"betas: got {betas!r}; give two numbers")
        for beta in betas:
            _arguments.number("betas", beta, 0.0, 1.0)


def check(name: str, lr: float, options: Mapping[str, Any]) -> None:
    """Refuse, without a network, what `make` would refuse."""
    make(name, [("w", torch.nn.Parameter(torch.zeros(1, device="cpu")))], lr, options)


def couples(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a step on some tensors depends on other ones that are not in their group.

    >>> couples("lamb", {"like": "timm"}), couples("lamb", {"like": "you2020"})
    (True, False)
    """
    if is_own(name):
        return True  # as far as is known
    if name != "lamb":
        return False
    made = make(name, [("w", torch.nn.Parameter(torch.zeros(1, device="cpu")))], 0.0, options)
    return made.param_groups[0]["max_grad_norm"] is not None


def stride_of(name: str, options: Mapping[str, Any]) -> str:
    """What a step is the rate times of, in size: `"gradient"`, `"momentum"`, else `"weights"`.

    The last means that it is none of the two, and is found from the weights before and after.

    >>> stride_of("sgd", {}), stride_of("sgd", {"momentum": 0.9}), stride_of("adam", {})
    ('gradient', 'momentum', 'weights')
    """
    if name != "sgd" or options.get("nesterov"):
        return "weights"
    if options.get("momentum"):
        return "momentum"
    return "weights" if options.get("weight_decay") else "gradient"
