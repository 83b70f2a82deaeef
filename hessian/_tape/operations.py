"""The small list of known operations: how each depends on its inputs, and where samples sit.

Two facts are recorded for an operation of the tape.

*Dependence*: in which inputs it is not affine, and which pairs of inputs it multiplies. Piecewise
linear operations count as affine: at a point that is not a kink they are.

*Layout*: given the axis of the output along which samples lie, the axis of each input along which
the same samples must lie for the operation not to mix them.

Whatever is not listed is taken to be non-affine in, and to mix, everything it touches.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from hessian._tape.graph import Node, complex_valued, operation, shape


class Dependence(NamedTuple):
    """`nonlinear`: inputs the output is not affine in; `products`: pairs that are multiplied."""

    nonlinear: tuple[int, ...] = ()
    products: tuple[tuple[int, int], ...] = ()


class Layout(NamedTuple):
    """Where `n` samples lie: index along `axis` = (a·n + sample)·inner + b, with a < outer."""

    axis: int
    outer: int = 1
    inner: int = 1


class Mark(enum.Enum):
    """What a tensor can be instead of laid out by samples."""

    SHARED = "shared by all samples"
    CONFLICT = "mixes samples, or not known not to"


Label = Layout | Mark
Shape = tuple[int, ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------- dependence

_LINEAR = _names(
    """Add Sub Rsub Neg View UnsafeView ReshapeAlias Reshape T Transpose Permute Expand Squeeze
    Unsqueeze Select Slice Narrow Split SplitWithSizes UnsafeSplit UnsafeSplitWithSizes Unbind
    Cat Stack Sum Mean Clone Alias ToCopy Index IndexSelect Gather ConstantPadNd
    ReflectionPad1D ReflectionPad2D
    ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D AvgPool2D AvgPool3D
    AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D UpsampleNearest1D
    UpsampleNearest2D UpsampleNearest3D UpsampleLinear1D UpsampleBilinear2D
    UpsampleBicubic2D UpsampleTrilinear3D UpsampleBilinear2DAa UpsampleBicubic2DAa Embedding
    Repeat Flip Roll Diagonal Tril Triu Cumsum Unfold Im2Col Col2Im PixelShuffle
    PixelUnshuffle NativeDropout Fold Trace NllLoss NllLoss2D ChannelShuffle AffineGridGenerator
    MaxUnpool2D MaxUnpool3D"""
)

_PIECEWISE = _names(
    """Relu LeakyRelu Threshold Hardtanh Clamp ClampMin ClampMax Abs MaxPool2DWithIndices
    MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D Amax Amin Max Min Maximum
    Minimum Where MaskedFill Hardshrink Softshrink Sort Topk Kthvalue Sign Floor Ceil Round
    Trunc RreluWithNoise FractionalMaxPool2D FractionalMaxPool3D"""
)

_PRODUCTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Mul": ((0, 1),),
    "Mm": ((0, 1),),
    "Bmm": ((0, 1),),
    "Mv": ((0, 1),),
    "Dot": ((0, 1),),
    "Addmm": ((1, 2),),
    "Addmv": ((1, 2),),
    "Addr": ((1, 2),),
    "Baddbmm": ((1, 2),),
    "Addbmm": ((1, 2),),
    "Addcmul": ((1, 2),),
    "Linear": ((0, 1),),
    "Convolution": ((0, 1),),
    "PreluKernel": ((0, 1),),
    "Prelu": ((0, 1),),
    "Trilinear": ((0, 1), (0, 2), (1, 2)),
}
_NONLINEAR: dict[str, tuple[int, ...]] = {
    "Div": (1,),
    "NativeLayerNorm": (0,),
    "NativeGroupNorm": (0,),
}
# w = g v/‖v‖; sampling an image (0) at points (1)
_SCALED = Dependence(nonlinear=(0,), products=((0, 1),))
_SAMPLED = Dependence(nonlinear=(1,), products=((0, 1),))
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})

# Only for the wording of a refusal: these are known and curved, anything else is unknown.
CURVED = _names(
    """Tanh Sigmoid Gelu Silu Softplus Elu Celu Mish Exp Exp2 Expm1 Log Log2 Log10 Log1P Softmax
    LogSoftmax SafeSoftmax Logsumexp Pow Sqrt Rsqrt Reciprocal Sin Cos Tan Asin Acos Atan
    Sinh Cosh Erf LogSigmoid Hardswish Var Std VarMean StdMean LinalgVectorNorm Norm Cdist
    MseLoss HuberLoss SmoothL1Loss BinaryCrossEntropyWithLogits BinaryCrossEntropy KlDiv
    CosineSimilarity Glu"""
) | frozenset(_NONLINEAR)

_AFFINE = {name: Dependence() for name in (*_LINEAR, *_PIECEWISE)}
_AFFINE |= {name: Dependence(products=pairs) for name, pairs in _PRODUCTS.items()}
_AFFINE |= {name: Dependence(nonlinear=args) for name, args in _NONLINEAR.items()}
_AFFINE["WeightNormInterface"] = _SCALED
_AFFINE |= dict.fromkeys(("GridSampler2D", "GridSampler3D"), _SAMPLED)


def dependence(node: Node) -> Dependence | None:
    """How the node depends on its inputs; ``None`` for an operation that is not in the list."""
    name = operation(node)
    if name in BATCH_NORMS:
        training = getattr(node, "_saved_training", True)
        return Dependence(nonlinear=(0,)) if training else Dependence(products=((0, 1),))
    if name == "Mul" and len(node.next_functions) == 1:
        return Dependence()
    if name in _PIECEWISE and any(complex_valued(e) for e in node.next_functions if e[0]):
        return None  # the absolute value of a complex number is curved
    return _AFFINE.get(name)


# -------------------------------------------------------------------- layout

_ELEMENTWISE = _names(
    """Add Sub Rsub Mul Div Neg Abs Relu LeakyRelu Threshold Hardtanh Clamp ClampMin ClampMax Where
    MaskedFill Maximum Minimum Hardshrink Softshrink Clone Alias ToCopy NativeDropout Expand
    Addcmul Addcdiv Lerp PreluKernel Prelu Tanh Sigmoid Gelu Silu Softplus Elu Celu Mish Exp
    Exp2 Expm1 Log Log2 Log10 Log1P Pow Sqrt Rsqrt Reciprocal Sin Cos Tan Asin Acos Atan
    Sinh Cosh Erf LogSigmoid Hardswish Hardsigmoid Sign Floor Ceil Round Trunc
    RreluWithNoise"""
)
_VIEWS = _names("View UnsafeView ReshapeAlias Reshape Squeeze Unsqueeze")
_ALONG = _names(
    """Softmax LogSoftmax SafeSoftmax Cumsum Sort Slice Narrow Split SplitWithSizes UnsafeSplit
    UnsafeSplitWithSizes Cat IndexSelect
    Gather Topk Glu"""
)
_REDUCE = _names("Sum Mean Amax Amin Max Min Logsumexp Var Std LinalgVectorNorm Norm")
# Reductions of a pointwise loss: the output may be a scalar or keep the input's shape.
LOSSES = _names(
    """MseLoss SmoothL1Loss HuberLoss BinaryCrossEntropyWithLogits BinaryCrossEntropy KlDiv
    SoftMarginLoss L1Loss"""
)


def _axes(value: Any, ndim: int) -> set[int]:
    """Saved dimensions as non-negative integers; autograd keeps negative ones as unsigned."""
    items = value if isinstance(value, list | tuple) else [value]
    axes = set()
    for item in items:
        axis = int(item)
        axis = axis - 2**64 if axis >= 2**63 else axis
        axes.add(axis % ndim if ndim else 0)
    return axes


def _broadcast(layout: Layout, out: Shape, given: Shape) -> Label:
    axis = layout.axis - (len(out) - len(given))
    if axis < 0:
        return Mark.SHARED
    if given[axis] == out[layout.axis]:
        return layout._replace(axis=axis)
    return Mark.SHARED if given[axis] == 1 else Mark.CONFLICT


def _reshape(layout: Layout, out: Shape, given: Shape, n: int) -> Label:
    if not math.prod(given):  # nothing lies anywhere
        return next(iter(candidates(given, n)), Mark.CONFLICT)
    # In both shapes sample = (flat index // stride) % n; a view keeps the flat index.
    stride = layout.inner * math.prod(out[layout.axis + 1 :])
    for axis, size in enumerate(given):
        later = math.prod(given[axis + 1 :])
        if later and stride % later == 0 and size % (n * (stride // later)) == 0 and size >= n:
            inner = stride // later
            return Layout(axis, size // (n * inner), inner)
    return Mark.CONFLICT


def demand(node: Node, index: int, layout: Layout, n: int) -> list[Label]:
    """Labels the inputs must carry for output `index` laid out as `layout` not to mix samples."""
    inputs = node.next_functions
    shapes = [None if child is None else shape((child, nr)) for child, nr in inputs]
    refuse: list[Label] = [Mark.CONFLICT] * len(inputs)
    out = shape((node, index))
    known = all(s is not None for (child, _), s in zip(inputs, shapes, strict=True) if child)
    if out is None or not known or layout.axis >= len(out):
        return refuse
    # Inputs off the tape carry no derivative: their label is never read.
    dims = [() if s is None else s for s in shapes]
    name = operation(node)
    if name in BATCH_NORMS:
        if layout.axis == 1:  # channels of their own for every sample: instance norm
            own: Label = layout._replace(axis=0)
            return [layout, own, own][: len(inputs)]
        mixed = getattr(node, "_saved_training", True)
        return [Mark.CONFLICT if mixed else layout, Mark.SHARED, Mark.SHARED][: len(inputs)]
    rule = _RULES.get(name)
    if rule is None:
        return refuse
    try:
        return rule(node, layout, out, dims, n)
    except (AttributeError, IndexError):  # another torch version saves other attributes
        return refuse


Rule = Callable[[Node, Layout, Shape, list[Shape], int], list[Label]]


def _elementwise(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [_broadcast(lay, out, d) for d in dims]


def _view(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [_reshape(lay, out, d, n) for d in dims]


def _transpose(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    if operation(node) == "Permute":
        order = [int(d) for d in node._saved_dims]
        source = _axes(order[lay.axis], len(out)).pop()
        return [lay._replace(axis=source)]
    if operation(node) == "T":
        a, b = 0, len(out) - 1
    else:
        a = _axes(node._saved_dim0, len(out)).pop()
        b = _axes(node._saved_dim1, len(out)).pop()
    axis = {a: b, b: a}.get(lay.axis, lay.axis)
    return [lay._replace(axis=axis)]


def _along(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(out)).pop()
    whole = operation(node) in ("Slice", "Narrow") and dims[0] == out
    return [Mark.CONFLICT if axis == lay.axis and not whole else lay] * len(dims)


def _drop(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(dims[0])).pop()
    return [lay._replace(axis=lay.axis + (lay.axis >= axis))]


def _stack(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(out)).pop()
    if axis == lay.axis:
        return [Mark.CONFLICT] * len(dims)
    return [lay._replace(axis=lay.axis - (lay.axis > axis))] * len(dims)


def _reduce(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    gone = getattr(node, "_saved_dim", None)
    given = dims[0]
    if gone is None or gone == []:
        return [Mark.CONFLICT]
    axes = _axes(gone, len(given))
    if getattr(node, "_saved_keepdim", False):
        axis = lay.axis
    else:
        axis = [a for a in range(len(given)) if a not in axes][lay.axis]
    return [Mark.CONFLICT if axis in axes else lay._replace(axis=axis)]


def _pad(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [lay if dims[0][lay.axis] == out[lay.axis] else Mark.CONFLICT]


def _spatial(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    kept = lay.axis < len(out) - _SPATIAL_DIMS[operation(node)]
    return [lay if kept else Mark.CONFLICT] * len(dims)


def _rows(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [lay if lay.axis == 0 else Mark.CONFLICT] * len(dims)


def _repeat(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = lay.axis - (len(out) - len(dims[0]))
    if axis < 0:
        return [Mark.SHARED]
    if dims[0][axis] == out[lay.axis]:
        return [lay._replace(axis=axis)]
    # Copies follow each other: where a sample's entries are whole copies, all share the one.
    return [Mark.SHARED if lay.inner % dims[0][axis] == 0 else Mark.CONFLICT]


def _convolution(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [lay if lay.axis == 0 else Mark.CONFLICT, Mark.SHARED, Mark.SHARED][: len(dims)]


def _norm(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    if operation(node) == "NativeGroupNorm":
        kept = lay.axis == 0
    else:
        kept = lay.axis < len(out) - len(node._saved_normalized_shape)
    label: Label = lay if kept else Mark.CONFLICT
    return [label, Mark.SHARED, Mark.SHARED][: len(dims)]


def _embedding(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [Mark.SHARED if lay.axis < len(out) - 1 else Mark.CONFLICT]


def _product(lay: Layout, rank: int) -> list[Label]:
    """Labels of A and B in A @ B with matrices in the last two of `rank` axes."""
    if lay.axis < rank - 2:
        return [lay, lay]
    return [lay, Mark.SHARED] if lay.axis == rank - 2 else [Mark.SHARED, lay]


def _matmul(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    pair = _product(lay, len(out))
    return pair if len(dims) == 2 else [_broadcast(lay, out, dims[0]), *pair]


def _nll(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    # Without a reduction the class axis 1 is gone and the others keep their order.
    kept = len(out) == len(dims[0]) - 1
    return [lay._replace(axis=lay.axis + (lay.axis >= 1)) if kept else Mark.CONFLICT]


def _linear(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    kept = lay.axis < len(out) - 1
    label: Label = lay if kept else Mark.CONFLICT
    return [label, Mark.SHARED, Mark.SHARED][: len(dims)]


_SPATIAL_DIMS = {
    **{f"{kind}{d}D": d for kind in ("ReflectionPad", "ReplicationPad") for d in (1, 2, 3)},
    **{f"UpsampleNearest{d}D": d for d in (1, 2, 3)},
    **{f"{kind}Pool{d}D": d for kind in ("Avg", "AdaptiveAvg", "AdaptiveMax") for d in (2, 3)},
    **{f"MaxPool{d}DWithIndices": d for d in (2, 3)},
    **{f"{kind}{d}D": d for kind in ("MaxUnpool", "FractionalMaxPool") for d in (2, 3)},
    "PixelShuffle": 3,
    "PixelUnshuffle": 3,
    "MkldnnAdaptiveAvgPool2D": 2,
    "UpsampleLinear1D": 1,
    "UpsampleBilinear2D": 2,
    "UpsampleBilinear2DAa": 2,
    "UpsampleBicubic2D": 2,
    "UpsampleBicubic2DAa": 2,
    "UpsampleTrilinear3D": 3,
}

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(("T", "Transpose", "Permute"), _transpose),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(("Select", "Unbind"), _drop),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_SPATIAL_DIMS, _spatial),
    **dict.fromkeys(("NativeLayerNorm", "NativeGroupNorm"), _norm),
    **dict.fromkeys(("Mm", "Bmm", "Addmm", "Baddbmm"), _matmul),
    **dict.fromkeys(LOSSES, _elementwise),
    **dict.fromkeys(("NllLoss", "NllLoss2D"), _nll),
    **dict.fromkeys(
        (
            "Im2Col",
            "Col2Im",
            "ChannelShuffle",
            "AffineGridGenerator",
            "GridSampler2D",
            "GridSampler3D",
        ),
        _rows,
    ),
    "Repeat": _repeat,
    "Stack": _stack,
    "ConstantPadNd": _pad,
    "Convolution": _convolution,
    "Embedding": _embedding,
    "Linear": _linear,
}


def elementwise(node: Node) -> bool:
    """Whether each output entry depends on one entry of each input (up to broadcasting)."""
    return operation(node) in _ELEMENTWISE


def keeps_flat_order(node: Node) -> bool:
    """Whether the operation only renames indices, in the same row-major order."""
    return operation(node) in _VIEWS


def candidates(dims: Shape, n: int) -> list[Layout]:
    """Layouts a tensor of this shape can have, axis 0 and exact sizes first."""
    found = [Layout(a, 1, s // n) for a, s in enumerate(dims) if s and s % n == 0]
    return sorted(found, key=lambda lay: (lay.axis != 0, lay.inner != 1))
