"""Per-sample gradients of one parameter: their moments, and the size of their batch means.

Everything here rests on L = (1/n) Σ_i ℓ_i: the loss is the mean of the losses of the samples, each
as if it were a batch of its own. Whether that is so is tried on the first samples.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sim import _arguments
from sim._isolation import isolated, seeded
from sim.data import Dataset

Loss = Callable[..., Any]
WORKING_SET = 256 * 2**20
CHUNK = 256
# Cached samples that enter one matrix product.
ROWS = 2048
# Samples on which it is tried whether loss and model treat every sample by itself.
LOSS_TRIED, MODEL_TRIED = 64, 4


@dataclass(frozen=True, eq=False)
class GradientMoments:
    """The first two moments of a parameter's per-sample gradient: what `gradient_moments` returns.

    Attributes:
        parameter: its name.
        mean: μ, in the parameter's shape.
        std: σ with divisor N, in the parameter's shape.
        samples: N.
        passes: how often the data was gone through, each time with fresh dropout masks.
        mask_std: the part of σ that is due to the masks: the root of the mean over the samples of
            a sample's own variance over masks; σ² - mask_std² is the variance between samples.
            `None` after a single pass, which cannot tell.

    >>> GradientMoments("weight", torch.zeros(2), torch.ones(2), samples=8).passes
    1
    """

    parameter: str
    mean: Tensor
    std: Tensor
    samples: int
    passes: int = 1
    mask_std: Tensor | None = None


def gradient_moments(
    model: nn.Module,
    loss: Loss,
    data: Any,
    parameter: str,
    *,
    dropout: bool | None = None,
    passes: int = 1,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> GradientMoments:
    """Mean μ and standard deviation σ of every entry's gradient over the samples (equation 1).

    With g_i the gradient of ℓ_i, the loss of sample i alone, μ = Σ_i g_i / N and
    σ² = Σ_i (g_i - μ)² / N, entry by entry. For the weight of a linear layer that is called once,
    on `[N, d]`, g_i is an outer product δ_i a_iᵀ, and both come from two matrix products; every
    other parameter takes its per-sample gradients from `torch.func.vmap`, some samples at a time.

    Args:
        model: any module whose samples do not see each other.
        loss: `loss(output, target)`, a mean over the samples.
        data: a pair `(inputs, targets)`, an iterable of pairs, or a `sim.data.Dataset`.
        parameter: a name from `model.named_parameters()`; see `sim.models.first_linear`.
        dropout: `True` or `False` switches the model's dropout modules on or off for the
            measurement, `None` leaves them as they stand. Where it is on, every sample of every
            pass has a mask of its own, and the moments are over samples and masks together.
        passes: how often to go through the data; of use with dropout only, where two passes or
            more tell the variance over masks from that over samples.
        seed: of the dropout masks.
        memory: bytes of working set beyond the model and the data (256 MiB).
        progress: show progress on standard error.

    Returns:
        A `GradientMoments`, on the parameter's device, in its dtype. Sums run in float64.

    Raises:
        ValueError: an unknown parameter, empty data, a loss that is not the mean of the samples'
            losses (class weights, sum reduction), a model that couples samples (training-mode
            batch norm), a loss that is not finite.

    With ℓ = (w x - y)² at w = 1 the gradient is 2x(x - y): here 2 and -4.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 1.0)
    >>> batch = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    >>> moments = gradient_moments(line, nn.MSELoss(), batch, "weight")
    >>> moments.mean.item(), moments.std.item(), moments.samples
    (-1.0, 3.0, 2)
    """
    passes = _arguments.integer("passes", passes, 1)
    seed = _arguments.integer("seed", seed, 0)
    memory = WORKING_SET if memory is None else _arguments.integer("memory", memory, 1)
    weight = _parameter(model, parameter)
    inputs, targets = _pair(data)
    total = len(targets)
    device = weight.device
    with (
        _dropout(model, dropout),
        _seeded(seed, device),
        _progress(progress, f"moments of {parameter}") as bar,
    ):
        advance = bar(passes * total)
        _check_separable(model, loss, inputs, targets, device)
        factors = _outer_product(model, loss, inputs, targets, parameter)
        first = torch.zeros_like(weight, dtype=torch.float64, requires_grad=False)
        second = torch.zeros_like(first)
        cross = torch.zeros_like(first) if passes > 1 else first
        chunk = CHUNK
        if factors is None:  # as many as their gradients fit, each once more in float64
            chunk = max(1, min(CHUNK, memory // (16 * max(1, weight.numel()))))
        for x, y in _chunks(inputs, targets, chunk, device):
            last: tuple[Tensor, ...] | None = None
            for _ in range(passes):
                if factors is not None:
                    draw = tuple(f.double() for f in factors(x, y))
                else:
                    draw = (_per_sample(model, loss, x, y, parameter).double(),)
                _accumulate(first, draw)
                _accumulate(second, draw, draw)
                if last is not None:
                    _accumulate(cross, draw, last)
                last = draw
                advance(len(y))
    mean, square = first.div_(passes * total), second.div_(passes * total)
    mask_std = None
    if passes > 1:
        # Two draws of one sample share nothing but its own mean: E g g' is that mean's square.
        cross.div_((passes - 1) * total).neg_().add_(square)
        mask_std = cross.clamp_(min=0).sqrt_().to(weight)
    std = square.addcmul_(mean, mean, value=-1).clamp_(min=0).sqrt_()
    return GradientMoments(parameter, mean.to(weight), std.to(weight), total, passes, mask_std)


def mean_abs_gradient(
    model: nn.Module,
    loss: Loss,
    data: Any,
    parameter: str,
    batch_sizes: Sequence[int],
    *,
    replacement: bool = False,
    repeats: int = 8,
    dropout: bool | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The average size of a batch's gradient, E|g|, for every batch size (figure 3, equation 4).

    g is the gradient of the mean loss of n samples drawn at random, |g| is averaged over the
    entries of the parameter, and that over `repeats` independent draws. Within one repeat the
    batches are nested, each the beginning of one random sequence of samples, so all batch sizes
    together cost one pass over the largest; across repeats they are independent.

    Without dropout the outer-product factors of a linear layer's weight are computed once for all
    repeats (they take N (d_in + d_out) numbers). With dropout, and for any other parameter, each
    repeat runs forward and backward over its samples; every sample then has its own fresh mask.

    Args:
        model: as for `gradient_moments`.
        loss: as for `gradient_moments`.
        data: as for `gradient_moments`.
        parameter: as for `gradient_moments`.
        batch_sizes: the n; at most N without replacement.
        replacement: draw samples with replacement, else without.
        repeats: independent draws of each batch.
        dropout: as for `gradient_moments`.
        seed: of the draws and the masks; repeat r depends on `seed` and r only.
        memory: as for `gradient_moments`; the factors come on top.
        progress: show progress on standard error.

    Returns:
        A frame, one row per batch size in increasing order: `batch_size`, `mean_abs_gradient` (the
        mean over the repeats), `standard_error` (of that mean, from the repeats' spread with
        divisor repeats - 1; nan for one repeat), `repeats`, `replacement`, `dropout` (whether any
        was in effect), `population` (N), `parameter`, `size` (entries), `seed`.
        `frame.attrs["repeats"]` holds the single values: a list per repeat, in the order of the
        rows.

    Raises:
        ValueError: no batch size, or one below 1 or above N without replacement; and what
            `gradient_moments` refuses.

    Per-sample gradients 2 and -4: single samples average 3 over many draws, both together give 1.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 1.0)
    >>> batch = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    >>> frame = mean_abs_gradient(line, nn.MSELoss(), batch, "weight", [1, 2], repeats=3)
    >>> frame.loc[1, ["mean_abs_gradient", "standard_error"]].tolist()
    [1.0, 0.0]
    >>> {abs(repeat[0]) for repeat in frame.attrs["repeats"]} <= {2.0, 4.0}
    True
    """
    repeats = _arguments.integer("repeats", repeats, 1)
    seed = _arguments.integer("seed", seed, 0)
    memory = WORKING_SET if memory is None else _arguments.integer("memory", memory, 1)
    weight = _parameter(model, parameter)
    inputs, targets = _pair(data)
    total = len(targets)
    most = None if replacement else total
    sizes = sorted({_arguments.integer("batch_sizes", n, 1, most) for n in batch_sizes})
    if not sizes:
        raise ValueError("batch_sizes: got none; give at least one batch size")

    device = weight.device
    values = np.empty((repeats, len(sizes)))
    with _dropout(model, dropout), _progress(progress, f"|g| of {parameter}") as bar:
        with _seeded(seed, device):
            _check_separable(model, loss, inputs, targets, device)
            random = _is_random(model, _spread(inputs, targets, MODEL_TRIED, device)[0])
            factors = None if random else _outer_product(model, loss, inputs, targets, parameter)
            advance = bar(repeats * sizes[-1] + (0 if factors is None else total))
            cached = None
            if factors is not None:
                cached = _cached(factors, inputs, targets, device, advance)
        for repeat in range(repeats):
            order = _draw(total, sizes[-1], replacement, [seed, repeat])
            with _seeded([seed, repeat, 1], device):
                batch_sum = torch.zeros_like(weight, requires_grad=False)
                before = 0
                for column, size in enumerate(sizes):
                    for part in order[before:size].split(CHUNK if cached is None else ROWS):
                        if cached is None:
                            index = part.to(targets.device)
                            x, y = inputs[index].to(device), targets[index].to(device)
                            batch_sum += _gradient_sum(model, loss, x, y, weight)
                        else:
                            index = part.to(device)
                            batch_sum.addmm_(cached[0][index].T, cached[1][index])
                        advance(len(part))
                    before = size
                    values[repeat, column] = _mean_abs(batch_sum) / size
    spread = values.std(axis=0, ddof=1) if repeats > 1 else np.full(len(sizes), math.nan)
    frame = pd.DataFrame(
        {
            "batch_size": sizes,
            "mean_abs_gradient": values.mean(axis=0),
            "standard_error": spread / math.sqrt(repeats),
            "repeats": repeats,
            "replacement": replacement,
            "dropout": random,
            "population": total,
            "parameter": parameter,
            "size": weight.numel(),
            "seed": seed,
        }
    )
    frame.attrs = {"repeats": values.tolist()}
    return frame


def _parameter(model: nn.Module, name: str) -> Tensor:
    parameters = dict(model.named_parameters())
    if name not in parameters:
        raise ValueError(
            f"parameter: the model has no {name!r}; choose one of {', '.join(parameters) or 'none'}"
        )
    if not parameters[name].requires_grad:
        raise ValueError(f"parameter: {name!r} is frozen; set its requires_grad")
    return parameters[name]


def _pair(data: Any) -> tuple[Tensor, Tensor]:
    """All samples as one pair of tensors."""
    if isinstance(data, Dataset):
        return data.pair
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        inputs, targets = data
    else:
        pairs = list(data)
        if not pairs:
            raise ValueError("data: it holds no batch; give a pair or an iterable of pairs")
        with isolated():
            inputs = torch.cat([x for x, _ in pairs])
            targets = torch.cat([y for _, y in pairs])
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"data: {len(inputs)} inputs and {len(targets)} targets; "
            "give as many targets as inputs, and at least one"
        )
    return inputs, targets


def _chunks(
    inputs: Tensor, targets: Tensor, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        yield x.to(device), y.to(device)


def _draw(total: int, most: int, replacement: bool, seed: list[int]) -> Tensor:
    generator = np.random.default_rng(seed)
    if replacement:
        return torch.from_numpy(generator.integers(total, size=most))
    return torch.from_numpy(generator.permutation(total)[:most])


def _accumulate(total: Tensor, *draws: tuple[Tensor, ...]) -> None:
    """Add Σ_i Π_k g_i^(k), where each draw is the gradients or their two factors."""
    parts = [math.prod(part[1:], start=part[0]) for part in zip(*draws, strict=True)]
    if len(parts) == 2:
        # In place: no further array of the parameter's size.
        total.addmm_(parts[0].T, parts[1])
    else:
        total += parts[0].sum(0)


def _mean_abs(tensor: Tensor) -> float:
    # A sum in float64 without a float64 copy of the whole tensor.
    parts = tensor.reshape(-1).split(2**20)
    return math.fsum(float(p.abs().sum(dtype=torch.float64)) for p in parts) / tensor.numel()


def _scalar(loss: Loss, output: Any, targets: Tensor) -> Tensor:
    value = loss(output, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: it returned {shape}; it must return one number, the batch's mean")
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(
            f"loss: its value is {value.item()}; check the data and the weights "
            "for nan and overflow"
        )
    return value.reshape(())


def _gradient_sum(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, weight: Tensor
) -> Tensor:
    """Σ_i g_i over some samples, by one backward pass."""
    value = _scalar(loss, model(inputs), targets)
    (gradient,) = torch.autograd.grad(value, weight, allow_unused=True)
    return torch.zeros_like(weight) if gradient is None else gradient * len(targets)


class _Objective(nn.Module):
    """Model and loss as one module, so that a loss that reads the parameters sees them swapped."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model(x), y).reshape(())


def _per_sample(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, parameter: str
) -> Tensor:
    """The gradients g_i, stacked."""
    objective = _Objective(model, loss)
    swapped = f"model.{parameter}"
    # The others are detached too, or the result would carry a graph back to them.
    fixed = {name: p.detach() for name, p in objective.named_parameters()}
    weight = fixed.pop(swapped)

    def single(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return functional_call(objective, {**fixed, swapped: w}, (x.unsqueeze(0), y.unsqueeze(0)))

    try:
        with warnings.catch_warnings():
            # An operation without a batching rule is looped over, with a warning about speed.
            warnings.filterwarnings("ignore", "There is a performance drop")
            return vmap(grad(single), in_dims=(None, 0, 0), randomness="different")(
                weight, inputs, targets
            )
    except RuntimeError:
        # What vmap cannot follow (a custom autograd function, a branch on a value) goes one by one.
        alone = zip(inputs.split(1), targets.split(1), strict=True)
        live = dict(model.named_parameters())[parameter]
        return torch.stack([_gradient_sum(model, loss, x, y, live) for x, y in alone])


def _factors(
    model: nn.Module, loss: Loss, layer: nn.Linear, x: Tensor, y: Tensor, *also: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]] | None:
    """δ and a with g_i = δ_i a_iᵀ, and the gradient with respect to others from the same pass."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((arguments[0].detach(), output))
        # A copy goes on, so that an in-place activation leaves the kept output alone.
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        value = _scalar(loss, model(x), y)
    finally:
        handle.remove()
    if len(calls) != 1 or calls[0][0].dim() != 2 or len(calls[0][0]) != len(y):
        return None
    activation, output = calls[0]
    delta, *rest = torch.autograd.grad(
        value, (output, *also), allow_unused=True, materialize_grads=True
    )
    return delta * len(y), activation, tuple(rest)


Factors = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _outer_product(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, parameter: str
) -> Factors | None:
    """A function to the factors δ and a of a chunk, or `None` where g_i is no outer product."""
    layer_name, _, last = parameter.rpartition(".")
    layer = model.get_submodule(layer_name)
    if last != "weight" or not isinstance(layer, nn.Linear):
        return None

    # The layer's weight may be used elsewhere too: tied, or read by the loss. So compare with the
    # gradient itself, from the same forward pass and hence the same dropout masks.
    x, y = _spread(inputs, targets, MODEL_TRIED, layer.weight.device)
    tried = _factors(model, loss, layer, x, y, layer.weight)
    if tried is None:
        return None
    delta, activation, (whole,) = tried
    scale = float(delta.abs().max() * activation.abs().max()) + float(whole.abs().max())
    off = float((delta.T @ activation / len(y) - whole).abs().max())
    if off > 100 * torch.finfo(delta.dtype).eps * scale:
        return None

    def factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = _factors(model, loss, layer, x, y)
        if found is None:
            raise ValueError(
                f"model: it called the layer of {parameter!r} otherwise for another batch; "
                "measure a parameter of a layer that every batch passes once"
            )
        return found[:2]

    return factors


def _cached(
    factors: Factors,
    inputs: Tensor,
    targets: Tensor,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    parts = []
    for x, y in _chunks(inputs, targets, CHUNK, device):
        parts.append(factors(x, y))
        advance(len(y))
    return torch.cat([delta for delta, _ in parts]), torch.cat([a for _, a in parts])


def _spread(
    inputs: Tensor, targets: Tensor, most: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A few samples from all over the data, which may be sorted by class."""
    index = torch.linspace(0, len(targets) - 1, min(most, len(targets))).long()
    index = index.to(targets.device)
    return inputs[index].to(device), targets[index].to(device)


def _batch_normalised(model: nn.Module) -> str | None:
    """The name of a layer that normalises by the batch's own statistics."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            return name
    return None


def _check_separable(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, device: torch.device
) -> None:
    """Refuse what makes the gradient of a batch another thing than the mean over its samples."""
    coupled = _batch_normalised(model)
    if coupled is not None:
        raise ValueError(
            f"model: {coupled!r} normalises over the batch, so no sample has a gradient of its "
            "own; call model.eval() first"
        )
    x, y = _spread(inputs, targets, LOSS_TRIED, device)
    with torch.no_grad():
        output = model(x)
        if not isinstance(output, Tensor) or len(output) != len(y):
            raise ValueError("model: it did not return a tensor with one row for each sample")
        whole = float(_scalar(loss, output, y))
        single = [float(loss(o, t)) for o, t in zip(output.split(1), y.split(1), strict=True)]
        slack = math.sqrt(torch.finfo(output.dtype).eps)
        mean = math.fsum(single) / len(single)
        if abs(whole - mean) > slack * (abs(whole) + math.fsum(map(abs, single)) / len(single)):
            raise ValueError(
                f"loss: {whole:.6g} on {len(single)} samples, but {mean:.6g} as the mean of their "
                "own losses; give a plain mean over the samples (no sum, no class weights)"
            )
        if not _is_random(model, x):
            x = x[:MODEL_TRIED]
            together, alone = model(x), torch.cat([model(one) for one in x.split(1)])
            if float((together - alone).abs().max()) > slack * float(together.abs().max()):
                raise ValueError(
                    "model: a sample's output depends on the others in its batch, so no sample "
                    "has a gradient of its own; use a model that does not couple samples"
                )


def _is_random(model: nn.Module, inputs: Tensor) -> bool:
    """Whether two passes over the same inputs differ, or could."""
    if any(module.training and module.p > 0 for module in _dropouts(model)):
        return True
    with torch.no_grad():
        return not torch.equal(model(inputs), model(inputs))


def _dropouts(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]


@contextmanager
def _dropout(model: nn.Module, on: bool | None) -> Iterator[None]:
    """Dropout modules switched on or off, and back."""
    before = [(module, module.training) for module in _dropouts(model)]
    try:
        for module, training in before:
            module.training = training if on is None else on
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _seeded(seed: int | list[int], device: torch.device) -> Iterator[None]:
    """The global random state set from a seed, and left as it was."""
    word = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    with isolated(), seeded(word, device):
        yield


@contextmanager
def _progress(shown: bool, title: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar that starts once the number of samples is known."""
    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task(title, total=total)
            return lambda samples: bar.advance(task, samples)

        yield start
