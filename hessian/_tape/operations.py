"""What is known of torch's operations: one row each.

Three things are recorded of an operation on the tape, and whatever needs to know more of it says so
here too.

*Dependence*: in which inputs it is not affine, and which pairs of inputs it multiplies. Piecewise
linear operations count as affine: at a point that is not a kink they are.

*Layout*: given the axis of the output along which samples lie, the axis of each input along which
the same samples must lie for the operation not to mix them.

*Its ways through the routes*: the step of the chain (`hessian._routes._chain.choose`) and the rule
for diagonals of Becker and LeCun, where it has one of its own.

Whatever has no row is taken to be non-affine in, and to mix, everything it touches. A new operation
is a row here, and a network that uses it in ``tests/hessian/test_operations.py``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from hessian._tape.graph import Node, complex_valued, operation, shape
from hessian._tape.layouts import (
    Label,
    Layout,
    Mark,
    Rule,
    along_axis,
    among_axes,
    batch_normalised,
    broadcast,
    channels,
    classes,
    fits,
    indexed,
    last_axis,
    led,
    looked_up,
    matrices,
    matrix_vector,
    normalised,
    on_diagonal,
    outer_product,
    padded,
    permute,
    reduced,
    repeated,
    reshape,
    spatial,
    summed_products,
    trilinear,
    windowed,
    with_axis,
    without_axis,
)


class Dependence(NamedTuple):
    """`nonlinear`: inputs the output is not affine in; `products`: pairs that are multiplied.

    `piecewise` operations are affine but for kinks, of real numbers.
    """

    nonlinear: tuple[int, ...] = ()
    products: tuple[tuple[int, int], ...] = ()
    piecewise: bool = False


Step = Literal[
    "", "sum", "product", "batched product", "rectified", "saturating", "linear", "convolution",
    "max pool", "layer norm", "softmax",
]  # fmt: skip
Diagonal = Literal[
    "", "move", "entry", "sum", "factor", "quotient", "mean", "product", "convolution",
    "batch norm",
]  # fmt: skip
# What each entry of the output depends on: one entry of every input, the same place in row-major
# order, or anything; a loss reduces its entries by a mean or a sum, or not at all.
Kind = Literal["pointwise", "view", "loss", "other"]
POINTWISE: Kind = "pointwise"
VIEW: Kind = "view"
LOSS: Kind = "loss"


class Operation(NamedTuple):
    """A row of `OPERATIONS`.

    `dependence` is ``None`` where the output is not affine in anything, `layout` where samples may
    mix. `unreduced`: autograd's node hands every input a gradient of the output's shape.
    """

    dependence: Dependence | None
    layout: Rule | None
    kind: Kind = "other"
    diagonal: Diagonal = ""
    step: Step = ""
    unreduced: bool = False


CURVED = None
AFFINE = Dependence()
PIECEWISE = Dependence(piecewise=True)
FACTORS_01 = Dependence(products=((0, 1),))
FACTORS_12 = Dependence(products=((1, 2),))
# By the batch's own statistics; by running ones it is a product of input and scale.
BATCH_NORM = Dependence(nonlinear=(0,))

OPERATIONS: dict[str, Operation] = {
    # Entries that move
    "Alias": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "Cat": Operation(AFFINE, along_axis, diagonal="move"),
    "ChannelShuffle": Operation(AFFINE, led),
    "Clone": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "Col2Im": Operation(AFFINE, led, diagonal="move"),
    "ConstantPadNd": Operation(AFFINE, padded, diagonal="move"),
    "Cummax": Operation(PIECEWISE, along_axis),
    "Cummin": Operation(PIECEWISE, along_axis),
    "Cumsum": Operation(AFFINE, along_axis),
    "Diagonal": Operation(AFFINE, on_diagonal, diagonal="move"),
    "Embedding": Operation(AFFINE, looked_up, diagonal="move"),
    "Expand": Operation(
        AFFINE, broadcast, kind=POINTWISE, diagonal="move", step="sum", unreduced=True
    ),
    "Flip": Operation(AFFINE, among_axes, diagonal="move"),
    "Gather": Operation(AFFINE, along_axis, diagonal="move"),
    "Im2Col": Operation(AFFINE, led, diagonal="move"),
    "Index": Operation(AFFINE, indexed, diagonal="move"),
    "IndexAdd": Operation(AFFINE, along_axis, diagonal="move"),
    "IndexFill": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "IndexSelect": Operation(AFFINE, along_axis, diagonal="move"),
    "Permute": Operation(AFFINE, permute, diagonal="move"),
    "PixelShuffle": Operation(AFFINE, spatial(3), diagonal="move"),
    "PixelUnshuffle": Operation(AFFINE, spatial(3), diagonal="move"),
    "Repeat": Operation(AFFINE, repeated, diagonal="move"),
    "ReshapeAlias": Operation(AFFINE, reshape, kind=VIEW, diagonal="move"),
    "Roll": Operation(AFFINE, among_axes, diagonal="move"),
    "Rot90": Operation(AFFINE, among_axes, diagonal="move"),
    "Scatter": Operation(AFFINE, along_axis, diagonal="move"),
    "ScatterAdd": Operation(AFFINE, along_axis, diagonal="move"),
    "Select": Operation(AFFINE, without_axis, diagonal="move"),
    "Slice": Operation(AFFINE, along_axis, diagonal="move"),
    "Sort": Operation(PIECEWISE, along_axis),
    "Split": Operation(AFFINE, along_axis, diagonal="move"),
    "SplitWithSizes": Operation(AFFINE, along_axis, diagonal="move"),
    "Squeeze": Operation(AFFINE, reshape, kind=VIEW, diagonal="move"),
    "Stack": Operation(AFFINE, with_axis, diagonal="move"),
    "T": Operation(AFFINE, permute, diagonal="move"),
    "ToCopy": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "Topk": Operation(PIECEWISE, along_axis),
    "Transpose": Operation(AFFINE, permute, diagonal="move"),
    "Tril": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "Triu": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="move"),
    "Unbind": Operation(AFFINE, without_axis, diagonal="move"),
    "Unfold": Operation(AFFINE, windowed, diagonal="move"),
    "UnsafeSplit": Operation(AFFINE, along_axis),
    "UnsafeSplitWithSizes": Operation(AFFINE, along_axis),
    "UnsafeView": Operation(AFFINE, reshape, kind=VIEW, diagonal="move"),
    "Unsqueeze": Operation(AFFINE, reshape, kind=VIEW, diagonal="move"),
    "View": Operation(AFFINE, reshape, kind=VIEW, diagonal="move"),
    # Entry by entry
    "Abs": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Acos": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Acosh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Add": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="sum", step="sum", unreduced=True),
    "Addcdiv": Operation(CURVED, broadcast, kind=POINTWISE, unreduced=True),
    "Addcmul": Operation(FACTORS_12, broadcast, kind=POINTWISE, unreduced=True),
    "Asin": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Asinh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Atan": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Atan2": Operation(CURVED, broadcast, kind=POINTWISE),
    "Atanh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Ceil": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "Celu": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Clamp": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "ClampMax": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "ClampMin": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Cos": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Cosh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Div": Operation(
        Dependence(nonlinear=(1,)), broadcast, kind=POINTWISE, diagonal="quotient", unreduced=True
    ),
    "Elu": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Erf": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Erfc": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Erfinv": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Exp": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Exp2": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Expm1": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Floor": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "Frac": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Gelu": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Hardshrink": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Hardsigmoid": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Hardswish": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Hardtanh": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Hypot": Operation(CURVED, broadcast, kind=POINTWISE),
    "LeakyRelu": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Lerp": Operation(CURVED, broadcast, kind=POINTWISE),
    "Lgamma": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Log": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Log10": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Log1P": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Log2": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "LogSigmoid": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Logaddexp": Operation(CURVED, broadcast, kind=POINTWISE),
    "Logaddexp2": Operation(CURVED, broadcast, kind=POINTWISE),
    "Logit": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "MaskedFill": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="move"),
    "Maximum": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="move", unreduced=True),
    "Minimum": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="move", unreduced=True),
    "Mish": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Mul": Operation(
        FACTORS_01, broadcast, kind=POINTWISE, diagonal="factor", step="product", unreduced=True
    ),
    "NanToNum": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "NativeDropout": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Neg": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Pow": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "PreluKernel": Operation(FACTORS_01, broadcast, kind=POINTWISE),
    "Reciprocal": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Relu": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry", step="rectified"),
    "Round": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "RreluWithNoise": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "Rsqrt": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Rsub": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="sum", unreduced=True),
    "Sigmoid": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry", step="saturating"),
    "Sign": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "Silu": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Sin": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Sinc": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Sinh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Softplus": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Softshrink": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Sqrt": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Sub": Operation(AFFINE, broadcast, kind=POINTWISE, diagonal="sum", step="sum", unreduced=True),
    "Tan": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry"),
    "Tanh": Operation(CURVED, broadcast, kind=POINTWISE, diagonal="entry", step="saturating"),
    "Threshold": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="entry"),
    "Trunc": Operation(PIECEWISE, broadcast, kind=POINTWISE),
    "Where": Operation(PIECEWISE, broadcast, kind=POINTWISE, diagonal="move", unreduced=True),
    "Xlogy": Operation(CURVED, broadcast, kind=POINTWISE),
    # Along one axis
    "Cumprod": Operation(CURVED, along_axis),
    "Glu": Operation(CURVED, along_axis),
    "LogSoftmax": Operation(CURVED, along_axis),
    "Logcumsumexp": Operation(CURVED, along_axis),
    "SafeSoftmax": Operation(CURVED, along_axis),
    "Softmax": Operation(CURVED, along_axis, step="softmax"),
    # Reductions
    "Amax": Operation(PIECEWISE, reduced, diagonal="move"),
    "Amin": Operation(PIECEWISE, reduced, diagonal="move"),
    "Cdist": Operation(CURVED, None),
    "Kthvalue": Operation(PIECEWISE, reduced, diagonal="move"),
    "LinalgVectorNorm": Operation(CURVED, reduced),
    "Logsumexp": Operation(CURVED, reduced),
    "Max": Operation(PIECEWISE, reduced),
    "Mean": Operation(AFFINE, reduced, diagonal="mean"),
    "Median": Operation(PIECEWISE, reduced, diagonal="move"),
    "Min": Operation(PIECEWISE, reduced),
    "Mode": Operation(PIECEWISE, reduced, diagonal="move"),
    "Nanmedian": Operation(PIECEWISE, reduced, diagonal="move"),
    "Norm": Operation(CURVED, reduced),
    "Prod": Operation(CURVED, reduced),
    "Std": Operation(CURVED, reduced),
    "StdMean": Operation(CURVED, None),
    "Sum": Operation(AFFINE, reduced, diagonal="move"),
    "Trace": Operation(AFFINE, None),
    "Var": Operation(CURVED, reduced),
    "VarMean": Operation(CURVED, None),
    # Products of matrices, convolutions
    "Addbmm": Operation(FACTORS_12, summed_products),
    "Addmm": Operation(FACTORS_12, matrices, diagonal="product", step="linear"),
    "Addmv": Operation(FACTORS_12, matrix_vector),
    "Addr": Operation(FACTORS_12, outer_product),
    "Baddbmm": Operation(FACTORS_12, matrices),
    "Bmm": Operation(FACTORS_01, matrices, diagonal="product", step="batched product"),
    "Convolution": Operation(FACTORS_01, channels, diagonal="convolution", step="convolution"),
    "Dot": Operation(FACTORS_01, None),
    "Linear": Operation(FACTORS_01, last_axis, diagonal="product"),
    "Mm": Operation(FACTORS_01, matrices, diagonal="product", step="linear"),
    "Mv": Operation(FACTORS_01, matrix_vector),
    "Trilinear": Operation(Dependence(products=((0, 1), (0, 2), (1, 2))), trilinear),
    "WeightNormInterface": Operation(Dependence(nonlinear=(0,), products=((0, 1),)), None),
    # Normalisations
    "CudnnBatchNorm": Operation(BATCH_NORM, batch_normalised, diagonal="batch norm"),
    "MiopenBatchNorm": Operation(BATCH_NORM, batch_normalised, diagonal="batch norm"),
    "NativeBatchNorm": Operation(BATCH_NORM, batch_normalised, diagonal="batch norm"),
    "NativeBatchNormLegit": Operation(BATCH_NORM, batch_normalised, diagonal="batch norm"),
    "BatchNormWithUpdate": Operation(BATCH_NORM, batch_normalised, diagonal="batch norm"),
    "NativeGroupNorm": Operation(Dependence(nonlinear=(0,)), normalised),
    "NativeLayerNorm": Operation(Dependence(nonlinear=(0,)), normalised, step="layer norm"),
    # Pooling, padding, resampling of images
    "AdaptiveAvgPool2D": Operation(AFFINE, spatial(2), diagonal="mean"),
    "AdaptiveAvgPool3D": Operation(AFFINE, spatial(3), diagonal="mean"),
    "AdaptiveMaxPool2D": Operation(PIECEWISE, spatial(2), diagonal="move"),
    "AdaptiveMaxPool3D": Operation(PIECEWISE, spatial(3), diagonal="move"),
    "AffineGridGenerator": Operation(AFFINE, led),
    "AvgPool2D": Operation(AFFINE, spatial(2), diagonal="mean"),
    "AvgPool3D": Operation(AFFINE, spatial(3), diagonal="mean"),
    "FractionalMaxPool2D": Operation(PIECEWISE, spatial(2)),
    "FractionalMaxPool3D": Operation(PIECEWISE, spatial(3)),
    "GridSampler2D": Operation(Dependence(nonlinear=(1,), products=((0, 1),)), led),
    "GridSampler3D": Operation(Dependence(nonlinear=(1,), products=((0, 1),)), led),
    "MaxPool2DWithIndices": Operation(PIECEWISE, spatial(2), diagonal="move", step="max pool"),
    "MaxPool3DWithIndices": Operation(PIECEWISE, spatial(3), diagonal="move", step="max pool"),
    "MaxUnpool2D": Operation(AFFINE, spatial(2)),
    "MaxUnpool3D": Operation(AFFINE, spatial(3)),
    "MkldnnAdaptiveAvgPool2D": Operation(AFFINE, spatial(2)),
    "ReflectionPad1D": Operation(AFFINE, spatial(1), diagonal="move"),
    "ReflectionPad2D": Operation(AFFINE, spatial(2), diagonal="move"),
    "ReflectionPad3D": Operation(AFFINE, spatial(3), diagonal="move"),
    "ReplicationPad1D": Operation(AFFINE, spatial(1), diagonal="move"),
    "ReplicationPad2D": Operation(AFFINE, spatial(2), diagonal="move"),
    "ReplicationPad3D": Operation(AFFINE, spatial(3), diagonal="move"),
    "UpsampleBicubic2D": Operation(AFFINE, spatial(2)),
    "UpsampleBicubic2DAa": Operation(AFFINE, spatial(2)),
    "UpsampleBilinear2D": Operation(AFFINE, spatial(2)),
    "UpsampleBilinear2DAa": Operation(AFFINE, spatial(2)),
    "UpsampleLinear1D": Operation(AFFINE, spatial(1)),
    "UpsampleNearest1D": Operation(AFFINE, spatial(1), diagonal="move"),
    "UpsampleNearest2D": Operation(AFFINE, spatial(2), diagonal="move"),
    "UpsampleNearest3D": Operation(AFFINE, spatial(3), diagonal="move"),
    "UpsampleTrilinear3D": Operation(AFFINE, spatial(3)),
    # Losses, reduced inside or not
    "BinaryCrossEntropy": Operation(CURVED, broadcast, kind=LOSS),
    "BinaryCrossEntropyWithLogits": Operation(CURVED, broadcast, kind=LOSS),
    "HuberLoss": Operation(CURVED, broadcast, kind=LOSS),
    "MseLoss": Operation(CURVED, broadcast, kind=LOSS),
    "NllLoss": Operation(AFFINE, classes),
    "NllLoss2D": Operation(AFFINE, classes),
    "SmoothL1Loss": Operation(CURVED, broadcast, kind=LOSS),
    "SoftMarginLoss": Operation(CURVED, broadcast, kind=LOSS),
}
BATCH_NORMS = frozenset(name for name, row in OPERATIONS.items() if row.dependence is BATCH_NORM)


def known(node: Node) -> Operation | None:
    """The row of a node's operation, ``None`` where there is none."""
    return OPERATIONS.get(operation(node))


def dependence(node: Node) -> Dependence | None:
    """How the node depends on its inputs; ``None`` for an operation that is not affine."""
    row = known(node)
    if row is None or row.dependence is None:
        return None
    if row.dependence is BATCH_NORM:
        return BATCH_NORM if getattr(node, "_saved_training", True) else FACTORS_01
    if operation(node) == "Mul" and len(node.next_functions) == 1:
        return AFFINE
    if row.dependence.piecewise and any(complex_valued(e) for e in node.next_functions if e[0]):
        return None  # the absolute value of a complex number is curved
    return row.dependence


def demand(node: Node, index: int, layout: Layout, n: int) -> list[Label]:
    """Labels the inputs must carry for output `index` laid out as `layout` not to mix samples."""
    inputs = node.next_functions
    shapes = [None if child is None else shape((child, nr)) for child, nr in inputs]
    refuse: list[Label] = [Mark.CONFLICT] * len(inputs)
    out = shape((node, index))
    all_known = all(s is not None for (child, _), s in zip(inputs, shapes, strict=True) if child)
    row = known(node)
    if out is None or not all_known or layout.axis >= len(out) or row is None or row.layout is None:
        return refuse
    # Inputs off the tape carry no derivative: their label is never read.
    dims = [() if s is None else s for s in shapes]
    try:
        labels = row.layout(node, layout, out, dims, n)
    except (AttributeError, IndexError):  # another torch version saves other attributes
        return refuse
    # A rule may know the axis and not that an index or a window took other samples from it.
    fitting = (s is None or fits(label, s, n) for label, s in zip(labels, shapes, strict=True))
    return labels if all(fitting) else refuse


def elementwise(node: Node) -> bool:
    """Whether each output entry depends on one entry of each input (up to broadcasting)."""
    row = known(node)
    return row is not None and row.kind == POINTWISE


def keeps_flat_order(node: Node) -> bool:
    """Whether the operation only renames indices, in the same row-major order."""
    row = known(node)
    return row is not None and row.kind == VIEW


def is_loss(node: Node) -> bool:
    """Whether it is a pointwise loss, whose output may be a scalar or keep the input's shape."""
    row = known(node)
    return row is not None and row.kind == LOSS
