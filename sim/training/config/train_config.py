"""The configuration of a run: all that its results depend on, validated and hashable.

Not by pydantic: eleven mistakes were tried with both. Its messages have three lines each, and no
remedy or likeliest name ("did you mean 'lars'?"); what fields mean together (the options of a
model, epochs or steps) would be our code all the same. It names all faults at once; this, the
first.
"""

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sim import _arguments, data, models
from sim._own import is_own
from sim.data._load import check as check_dataset
from sim.data._load import shape_of
from sim.models._build import MOST_SEED
from sim.models._build import check as check_model
from sim.training.config import losses, optimizers
from sim.training.config.augment import Augment
from sim.training.config.discard import Discard, DiscardGradients
from sim.training.config.options import Options, canonical, plain, put, read
from sim.training.config.schedules import MOST_STEPS, Decay, Pass, Phase, Warmup, passes, rates

# Part of every hash: raised when the same configuration would give other results than before.
VERSION = 3
# The same with a network or a loss of the reader's own: version 3 moved parameters that had no
# gradient, and took losses for means over samples that were none.
OWN_VERSION = VERSION + 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PRECISIONS = ("bfloat16", "full")
BATCH_NORMS = ("ghost", "synchronised")
HELD_OUT = ("test", "train")
# Of a grid: far more than anybody trains, and few enough to be listed.
MOST_RUNS = 10**5


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured while a network trains, beside loss and accuracy.

    Attributes:
        layers_every: E|g| and E|Δw| of every parameter tensor at each so many-th step, and over
            each epoch the mean and deviation of every entry's gradient, path and net displacement
            (these over the same steps); 0: not at all. It costs a few passes over the parameters.
        decrease_every: at each so many-th step, by how much it lowered the loss of its own batch
            and of held-out samples; costs up to three further forward passes. 0: not at all.
        held_out: how many held-out samples, drawn anew for each such step; 0: none.
        held_out_from: `"train"`, those of the training set that are not in the batch; or `"test"`.
        curvature_every: exact curvature radii at each so many-th step, before it; 0: not at all.
        curvature_samples: on so many training samples, the same ones each time.
        test_every: loss and accuracy on the test split after each so many epochs and after the
            last; 0: not at all.

    >>> Measure(curvature_every=10).curvature_samples
    256
    """

    layers_every: int = 1
    decrease_every: int = 0
    held_out: int = 0
    held_out_from: str = "train"
    curvature_every: int = 0
    curvature_samples: int = 256
    test_every: int = 1

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            if field_.name != "held_out_from":
                least = int(field_.name == "curvature_samples")
                value = _arguments.integer(field_.name, getattr(self, field_.name), least)
                object.__setattr__(self, field_.name, value)
        _arguments.choice("held_out_from", self.held_out_from, HELD_OUT)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: everything that its results depend on, and nothing else.

    Where files lie, how often a checkpoint is written and who watches are arguments of `train`.

    Attributes:
        dataset, dataset_options: as `sim.data.load` takes them.
        samples: train on a random subset of so many samples, the same for every seed; `None`: all.
        model, model_options: as `sim.models.build` takes them; dropout is one of the options.
        seed: of the initialisation, and of all that is drawn in training.
        order_seed: of what is drawn in training, where it shall differ from the initialisation's.
        loss, loss_options: `cross_entropy`, or a sharper one: `temperature`, `focal`, `power`.
        optimizer, lr, optimizer_options: `sgd`, `adam`, `adamw`, `cblr`, `lars`, `mclr`,
            `percent-delta` or `lamb` (see `sim.optimizers`); `lr` is the paper's γ.
        curvature_of: for `cblr`: of how many samples of each batch, the first ones, the exact
            curvature is taken; `None`: of the whole batch.
        batch_size: n, in samples, whatever the number of processes.
        epochs: passes over the data, those of `phases` included; or
        steps: the number of steps.
        drop_last: leave out the last batch of a pass where N is no multiple of n. Kept, it is
            smaller: 50000 leaves 848 for 1024, 2048, 4096, 8192, 16384 and 49152.
        phases: other batch sizes and rates to begin with: a sequence of `Phase`.
        warmup, decay: factors on the rate, see `Warmup` and `Decay`.
        discard: leave out samples by their loss, see `Discard`.
        discard_gradients: set entries of the gradient to zero, see `DiscardGradients`.
        augment: shift and reflect the images of every step, see `Augment`.
        micro_batch: at most so many samples go through the network at a time, and their gradients
            are accumulated; the same gradient to rounding where samples are not coupled. With
            dropout the masks are other draws of the same law.
        batch_norm: needed where a batch goes through batch norm in parts: `"ghost"` normalises
            each part by itself, `"synchronised"` over the whole batch, exactly.
        measure: what to measure, see `Measure`.
        dtype: `"float32"` or `"float64"`.
        precision: `"full"`, or `"bfloat16"` for autocast; curvature is always computed in full.
        device: `"cpu"`, `"cuda"`, …
        channels_last: the memory format of image tensors; `None`: where it is faster, for alexnet
            and resnet18 on a CPU.
        compile: run the network through `torch.compile`.

    Of `dataset`, `model`, `loss` and `optimizer` each may be one's own, `package.module:object`, as
    `sim.data.load` and `sim.models.build` have it; a loss is a function of (output, target), an
    optimizer is called with (params, lr=…), and the options are theirs. Their names are part of the
    hash; the SHA-256 of their modules' files is noted in the run's environment.

    Mappings are taken for the nested parts, so that a configuration can come from a file.

    Raises:
        ValueError, TypeError: an unknown name or option (with the likeliest one), a value out of
            its range, neither or both of `epochs` and `steps`.

    >>> config = TrainConfig(epochs=2, batch_size=64, optimizer="lars", lr=0.01,
    ...                      optimizer_options={"momentum": 0.9}, phases=[{"epochs": 1, "lr": 0.1}])
    >>> config == TrainConfig.read(config.plain()), config.hash == config.replace(lr=0.02).hash
    (True, False)
    >>> TrainConfig(epochs=1, optimizer_options={"momentun": 0.9})
    Traceback (most recent call last):
    ...
    ValueError: optimizer_options.momentun: no such option for the optimizer 'sgd'; its options
    are: dampening, momentum, nesterov, weight_decay; did you mean 'momentum'?
    """

    dataset: str = "digits"
    dataset_options: Options = field(default_factory=Options)
    samples: int | None = None
    model: str = "mlp"
    model_options: Options = field(default_factory=Options)
    seed: int = 0
    order_seed: int | None = None
    loss: str = "cross_entropy"
    loss_options: Options = field(default_factory=Options)
    optimizer: str = "sgd"
    lr: float = 0.1
    optimizer_options: Options = field(default_factory=Options)
    curvature_of: int | None = None
    batch_size: int = 128
    epochs: int | None = None
    steps: int | None = None
    drop_last: bool = False
    phases: tuple[Phase, ...] = ()
    warmup: Warmup | None = None
    decay: Decay | None = None
    discard: Discard | None = None
    discard_gradients: DiscardGradients | None = None
    augment: Augment | None = None
    micro_batch: int | None = None
    batch_norm: str | None = None
    measure: Measure = field(default_factory=Measure)
    dtype: str = "float32"
    precision: str = "full"
    device: str = "cpu"
    channels_last: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Take plain values for the nested parts, and refuse all that no run could be made of."""
        self._convert()
        for name, possible in (
            ("dataset", data.DATASETS),
            ("model", models.MODELS),
            ("loss", losses.LOSSES),
            ("optimizer", optimizers.OPTIMIZERS),
        ):
            value: object = getattr(self, name)
            if not is_own(value):
                _arguments.choice(name, value, possible)
        with _arguments.under("dataset_options"):
            check_dataset(self.dataset, self.dataset_options)
        with _arguments.under("model_options"):
            shape = shape_of(self.dataset, self.dataset_options)
            _check_model(self.model, self.model_options, repr(self.model_options), shape)
        with _arguments.under("loss_options"):
            losses.per_sample(self.loss, self.loss_options)
        object.__setattr__(self, "lr", _arguments.number("lr", self.lr, 0.0))
        with _arguments.under("optimizer_options"):
            optimizers.check(self.optimizer, self.lr, self.optimizer_options)
        self._check_numbers()
        for name, known in (("dtype", DTYPES), ("precision", PRECISIONS)):
            _arguments.choice(name, getattr(self, name), known)
        if self.precision != "full" and self.dtype != "float32":
            raise ValueError(
                f"precision: {self.precision!r} mixes with float32, but dtype is {self.dtype!r}; "
                "give precision='full' or dtype='float32'"
            )
        if self.batch_norm is not None:
            _arguments.choice("batch_norm", self.batch_norm, BATCH_NORMS)
        self._check_device()
        if self.compile and self.batch_norm == "synchronised":
            raise ValueError("compile: not with batch_norm='synchronised'; give one of the two")
        if self.curvature_of is not None and self.optimizer != "cblr":
            raise ValueError(
                f"curvature_of: the optimizer {self.optimizer!r} takes no curvature; "
                "leave it out or use cblr"
            )

    def _convert(self) -> None:
        """Mappings become options and dataclasses, lists become tuples."""
        for name in ("dataset_options", "model_options", "loss_options", "optimizer_options"):
            options = getattr(self, name)
            if not isinstance(options, Mapping):
                raise TypeError(f"{name}: got {options!r}; give a mapping of options")
            with _arguments.under(name):
                object.__setattr__(self, name, Options(options))
        for name, kind in (
            ("warmup", Warmup),
            ("decay", Decay),
            ("discard", Discard),
            ("discard_gradients", DiscardGradients),
            ("augment", Augment),
            ("measure", Measure),
        ):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, read(kind, name, getattr(self, name)))
        if self.measure is None:
            raise TypeError("measure: got None; give Measure or a mapping, or leave it out")
        if isinstance(self.phases, Mapping | str) or not isinstance(self.phases, Iterable):
            raise TypeError(f"phases: got {self.phases!r}; give a list of phases")
        phases = tuple(read(Phase, "phases", phase) for phase in self.phases)
        object.__setattr__(self, "phases", phases)

    def _check_numbers(self) -> None:
        needed, optional = ("seed", "batch_size"), ("samples", "curvature_of", "micro_batch")
        for name in (*needed, *optional, "order_seed", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None or name in needed:
                value = _arguments.integer(name, value, 0 if name.endswith("seed") else 1)
                object.__setattr__(self, name, value)
        _arguments.at_most("seed", self.seed, MOST_SEED)
        for name in ("epochs", "steps"):
            _arguments.at_most(name, getattr(self, name) or 0, MOST_STEPS)
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("epochs: give either epochs or steps, the length of the run")
        for name in ("drop_last", "channels_last", "compile"):
            if name == "channels_last" and self.channels_last is None:
                continue
            object.__setattr__(self, name, _arguments.flag(name, getattr(self, name)))

    def _check_device(self) -> None:
        if isinstance(self.device, torch.device):
            object.__setattr__(self, "device", str(self.device))
        try:
            if not isinstance(self.device, str):  # a number is a GPU's, but nobody wrote which kind
                raise RuntimeError
            torch.device(self.device)
        except RuntimeError:
            raise ValueError(
                f"device: got {self.device!r}; give a torch device: cpu, cuda, cuda:1"
            ) from None

    @classmethod
    def read(cls, given: "TrainConfig | Mapping[str, Any]") -> "TrainConfig":
        """A configuration from a mapping, as a TOML or JSON file holds it.

        Raises:
            ValueError, TypeError: as the constructor; an unknown field.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(f"config: got {given!r}; give a TrainConfig or a mapping")
        known = list(inspect.signature(cls).parameters)
        for name in given:
            if name not in known:
                raise ValueError(
                    f"{name}: no such field of a configuration; the fields are: "
                    f"{', '.join(known)}{_arguments.did_you_mean(name, known)}"
                )
        return cls(**given)

    def replace(self, **changes: Any) -> "TrainConfig":
        """The same configuration but for some fields; a dotted name reaches an option.

        >>> TrainConfig(epochs=1).replace(**{"optimizer_options.momentum": 0.5}).optimizer_options
        Options(momentum=0.5)
        """
        values = self.plain()
        for name, value in changes.items():
            put(values, name, plain(value))
        return self.read(values)

    def plain(self) -> dict[str, Any]:
        """The fields as plain values, as JSON has them."""
        fields: dict[str, Any] = plain(self)
        return fields

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of all fields: the run's name on disk."""
        return _arguments.digest([self.version, canonical(self.plain())])

    @property
    def version(self) -> int:
        """Of the numbers that such a run gives: another one's checkpoint cannot be gone on from."""
        return OWN_VERSION if is_own(self.model) or is_own(self.loss) else VERSION

    def plan(self, total: int) -> tuple[list[Pass], list[float]]:
        """All passes over `total` samples, and the rate of every step.

        >>> plan, rates = TrainConfig(epochs=2, batch_size=5, lr=0.5).plan(8)
        >>> [each.steps for each in plan], rates
        ([2, 2], [0.5, 0.5, 0.5, 0.5])
        """
        plan = passes(
            total,
            self.batch_size,
            self.lr,
            self.phases,
            self.epochs,
            self.steps,
            self.drop_last,
        )
        return plan, rates(plan, self.warmup, self.decay)


def grid(base: TrainConfig | Mapping[str, Any], **values: Iterable[Any]) -> list[TrainConfig]:
    """All combinations of some fields' values, the last one varying fastest.

    A dotted name reaches an option: `grid(base, **{"optimizer_options.momentum": [0, 0.9]})`.

    Raises:
        TypeError, ValueError: no values, not a list of them, or what `TrainConfig` refuses.

    >>> [(c.lr, c.seed) for c in grid({"epochs": 1}, lr=[0.1, 0.2], seed=range(2))]
    [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    """
    lists: dict[str, list[Any]] = {}
    for name, candidates in values.items():
        if isinstance(candidates, str | Mapping) or not isinstance(candidates, Iterable):
            raise TypeError(f"{name}: got {candidates!r}; give a list of values")
        lists[name] = list(itertools.islice(candidates, MOST_RUNS + 1))  # it may have no end
        if not lists[name]:
            raise ValueError(f"{name}: got no values; give at least one")
    _arguments.at_most("combinations", math.prod(map(len, lists.values())), MOST_RUNS)
    if not isinstance(base, TrainConfig):
        if not isinstance(base, Mapping):
            raise TypeError(f"base: got {base!r}; give a TrainConfig or a mapping")
        # What the grid fills in may be missing in the base: the epochs, say.
        first = {name: candidates[0] for name, candidates in lists.items() if "." not in name}
        base = TrainConfig.read({**base, **first})
    return [
        base.replace(**dict(zip(lists, combination, strict=True)))
        for combination in itertools.product(*lists.values())
    ]


@functools.lru_cache(maxsize=256)
def _check_model(name: str, options: Options, written: str, shape: tuple[int, ...] | None) -> None:
    """Refuse what the model cannot be, whatever it will be trained on.

    A grid asks often, so the answer is kept, by how the options are `written`: 8 and 8.0 are equal.
    """
    if shape is None or (name != "mlp" and len(shape) != 3):
        # It will not fit these data, or may not, which `train` says; its options are looked at.
        shape = (3, 32, 32)
    check_model(name, shape, options)
