"""Every kind of module, small: a constructor, the shape of a sample, and which routes are proved.

`proved` lists which of affine (A), chain (C) and preactivation (P) are proved for the weight named
`name`, a hyphen for none: then an entry takes its own product. Networks end in three classes.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations as P


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def chain(*parts):
    """The parts in a row and a last layer over all that they give."""
    return lambda: nn.Sequential(*(part() for part in parts), nn.Flatten(), nn.LazyLinear(3))


def conv(dims, *sizes, **options):
    return lambda: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](*sizes, **options)


def transposed(dims, *sizes, **options):
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return lambda: kinds[dims - 1](*sizes, **options)


def linear(a=4, b=4):
    return lambda: nn.Linear(a, b)


class Last(nn.Module):
    """A recurrent layer's last state."""

    def __init__(self, layer, first=True):
        super().__init__()
        self.layer, self.first = layer, first

    def forward(self, x):
        if self.first:
            return self.layer(x)[0][:, -1]
        return self.layer(x.transpose(0, 1))[0][-1]


class Unrolled(nn.Module):
    """A recurrent cell in a Python loop that stops by the number of steps."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state


class Attend(nn.Module):
    """nn.MultiheadAttention, with keys and values of other widths or of the same."""

    def __init__(self, weights=False, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.weights = weights

    def forward(self, x):
        k, v = x[..., : self.inner.kdim], x[..., : self.inner.vdim]
        return self.inner(x, k, v, need_weights=self.weights)[0]


class Fused(nn.Module):
    """scaled_dot_product_attention on heads of projections."""

    def __init__(self, **options):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("mask", options.pop("attn_mask", None))
        self.options = options

    def forward(self, x):
        q, k, v = (m(x).unflatten(-1, (2, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, self.mask, **self.options)
        return mixed.transpose(1, 2).flatten(2)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerDecoderLayer(4, 2, 5, batch_first=True)

    def forward(self, x):
        return self.inner(x, 2 * x)


class Bilinear(nn.Module):
    def __init__(self, both):
        super().__init__()
        self.below = nn.Linear(4, 3)
        self.inner = nn.Bilinear(3, 3 if both else 4, 3)

    def forward(self, x):
        z = self.below(x)
        return self.inner(z, z if self.inner.in2_features == 3 else x)


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4, 2))
        self.b = nn.Parameter(torch.randn(2, 3, 3))

    def forward(self, x):
        x = torch.relu(torch.einsum("nk,hkd->nhd", x, self.a))
        return torch.einsum("nhd,dhc->nc", x, self.b)


class Spectrum(nn.Module):
    """Complex numbers on the way: |f · FFT(Wx)|."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.f = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x):
        return (torch.fft.rfft(self.inner(x)) * self.f).abs()


class Modulus(nn.Module):
    """|Wx + i|: an absolute value that is curved, since its input is complex."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return (self.inner(x).to(torch.complex128) + 1j).abs()


class Autoencoder(nn.Module):
    """One weight used in series, once transposed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return F.linear(F.relu(self.inner(x)), self.inner.weight.T)


class Decide(nn.Module):
    """Control flow that reads the data, a parameter used one or more times, one not at all."""

    def __init__(self):
        super().__init__()
        self.inner, self.other, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        for step in range(3):
            with torch.no_grad():
                large = bool(x.abs().mean() > 0.6)
            x = x + torch.tanh(self.inner(x)) if large or step == 0 else F.relu(self.other(x))
            if x.shape[1] > 4:
                x = self.never(x)
        return x


class Sample(nn.Module):
    """Bilinear sampling at places that a layer chooses."""

    def __init__(self):
        super().__init__()
        self.conv, self.place = nn.Conv2d(2, 2, 1), nn.Linear(2, 6)

    def forward(self, x):
        theta = self.place(x.mean((2, 3))).view(-1, 2, 3)
        theta = theta + theta.flip(1)  # each weight moves both coordinates
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(self.conv(x), grid, align_corners=False)


class Unpool(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return F.max_unpool2d(*F.max_pool2d(self.conv(x), 2, return_indices=True), 2)


class Broadcast(nn.Module):
    """Scales and shifts of every broadcast form, before and after an axis of positions."""

    def __init__(self):
        super().__init__()
        for i, dims in enumerate([(), (1,), (4,), (3, 1), (1, 3, 1), (1, 1, 4), (3, 4)]):
            self.register_parameter(f"p{i}", nn.Parameter(torch.rand(dims) + 0.5))

    def forward(self, x):
        for i, p in enumerate(self.parameters()):
            x = x * p if i % 2 else p - x
            x = torch.where(x > 0, x, 0.3 * x)
        return x.div(self.p2) - torch.rsub(self.p3, x, alpha=0.5)


SIZES = {1: (2, 5), 2: (2, 4, 4), 3: (2, 3, 3, 3)}
# name: (constructor, shape of a sample, training mode, parameter, proved routes)
MODULES = {}


def add(name, make, dims, parameter="0.weight", proved="ACP", training=False):
    MODULES[name] = (make, dims, training, parameter, proved)


for d, dims in SIZES.items():
    for mode in ("zeros", "reflect", "replicate", "circular"):
        layer = conv(d, 2, 2, 3, padding=1, padding_mode=mode)
        grouped = conv(d, 2, 2, 3, padding=1, padding_mode=mode, groups=2)
        for act, proved in ((nn.ReLU, "ACP"), (nn.Tanh, "CP")):
            add(f"conv{d}d-{mode}-{act.__name__}", chain(layer, act, grouped, act), dims,
                proved=proved)  # fmt: skip
    add(f"conv{d}d-strided", chain(conv(d, 2, 4, 2, stride=2, groups=2), nn.Tanh,
                                   conv(d, 4, 2, 1, bias=False)), dims, proved="CP")  # fmt: skip
    add(f"conv{d}d-dilated", chain(conv(d, 2, 2, 2, dilation=2), nn.ReLU), dims)
    small = (2, *[2] * d)
    for act in (nn.ReLU, nn.Tanh):
        add(f"transposed{d}d-{act.__name__}",
            chain(transposed(d, 2, 2, 2, stride=2, padding=1, output_padding=1, groups=2), act),
            small, proved="ACP" if act is nn.ReLU else "CP")  # fmt: skip
    add(f"transposed{d}d-dilated", chain(transposed(d, 2, 1, 2, dilation=2, bias=False), nn.ReLU),
        small)  # fmt: skip
    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1]
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 1]
    for training in (False, True):
        mode = "train" if training else "eval"
        add(f"batch{d}d-{mode}", chain(conv(d, 2, 3, 2), lambda b=batch: b(3), nn.Tanh), dims,
            proved="-" if training else "CP", training=training)  # fmt: skip
        add(f"instance{d}d-{mode}",
            chain(conv(d, 2, 2, 2),
                  lambda i=instance: i(2, affine=True, track_running_stats=True), nn.ReLU),
            dims, proved="CP" if training else "ACP", training=training)  # fmt: skip
    add(f"instance{d}d-plain", chain(conv(d, 2, 2, 2), lambda i=instance: i(2), nn.ReLU), dims,
        proved="CP", training=True)  # fmt: skip
add("batch-vectors-train", chain(linear(), lambda: nn.BatchNorm1d(4), nn.ReLU), (4,),
    proved="-", training=True)  # fmt: skip
add("batch-scale-train", chain(linear(), lambda: nn.BatchNorm1d(4), nn.ReLU), (4,), "1.weight",
    training=True)  # fmt: skip
add("group", chain(conv(2, 2, 4, 2), lambda: nn.GroupNorm(2, 4), nn.ReLU), (2, 4, 4), proved="CP")
add("group-scale", chain(conv(2, 2, 4, 2), lambda: nn.GroupNorm(2, 4), nn.ReLU), (2, 4, 4),
    "1.weight")  # fmt: skip
add("layer", chain(linear(), lambda: nn.LayerNorm([3, 4]), nn.GELU), (3, 4), proved="CP")
add("layer-without-bias", chain(linear(), lambda: nn.LayerNorm(4, bias=False), nn.ReLU), (3, 4),
    "1.weight")  # fmt: skip
add("rms", chain(linear(), lambda: nn.RMSNorm(4), nn.ReLU), (3, 4), proved="CP")
add("local-response", chain(conv(2, 2, 4, 2), lambda: nn.LocalResponseNorm(2), nn.Tanh),
    (2, 4, 4), proved="P")  # fmt: skip
for kind, wrap in {
    "weight-norm": P.weight_norm,
    "spectral": P.spectral_norm,
    "orthogonal": P.orthogonal,
    "householder": lambda m: P.orthogonal(m, orthogonal_map="householder"),
    "cayley": lambda m: P.orthogonal(m, orthogonal_map="cayley"),
}.items():
    inner = "original0" if kind == "weight-norm" else "original"
    add(kind, chain(lambda w=wrap: w(nn.Linear(4, 4)), nn.ReLU), (4,),
        f"0.parametrizations.weight.{inner}", "A" if kind == "weight-norm" else "-")  # fmt: skip
add("spectral-train", chain(lambda: P.spectral_norm(nn.Linear(4, 4)), nn.Tanh), (4,),
    "0.parametrizations.weight.original", "-", training=True)  # fmt: skip
add("rnn", chain(lambda: Last(nn.RNN(2, 3, batch_first=True))), (3, 2), "0.layer.weight_ih_l0",
    "CP")  # fmt: skip
add("rnn-relu", chain(lambda: Last(nn.RNN(2, 3, nonlinearity="relu"), False)), (3, 2),
    "0.layer.weight_ih_l0", "ACP")  # fmt: skip
add("lstm", chain(lambda: Last(nn.LSTM(2, 2, proj_size=1, batch_first=True))), (2, 2),
    "0.layer.weight_ih_l0", "CP")  # fmt: skip
add("lstm-dropout", chain(lambda: Last(nn.LSTM(2, 2, 2, dropout=0.3), False)), (2, 2),
    "0.layer.weight_ih_l0", "CP", training=True)  # fmt: skip
add("gru-both-ways", chain(lambda: Last(nn.GRU(2, 2, bidirectional=True, batch_first=True))),
    (2, 2), "0.layer.weight_ih_l0", "CP")  # fmt: skip
for cell in (nn.RNNCell, nn.LSTMCell, nn.GRUCell):
    add(cell.__name__, chain(lambda c=cell: Unrolled(c(2, 2))), (2, 2), "0.cell.weight_ih", "-")
for training in (False, True):
    mode = "train" if training else "eval"
    add(f"attention-{mode}", chain(lambda: Attend(dropout=0.2)), (3, 4),
        "0.inner.in_proj_weight", "-", training=training)  # fmt: skip
    add(f"attention-weights-{mode}", chain(lambda: Attend(True, dropout=0.2)), (3, 4),
        "0.inner.out_proj.weight", training=training)  # fmt: skip
    add(f"encoder-{mode}",
        chain(lambda: nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)),
        (3, 4), "0.linear1.weight", "CP", training=training)  # fmt: skip
add("attention-widths", chain(lambda: Attend(kdim=3, vdim=2)), (3, 4), "0.inner.k_proj_weight",
    "CP")  # fmt: skip
add("attention-extra-keys", chain(lambda: Attend(add_bias_kv=True, add_zero_attn=True)), (3, 4),
    "0.inner.bias_k", "-")  # fmt: skip
add("encoder-norm-first-gelu",
    chain(lambda: nn.TransformerEncoderLayer(4, 2, 5, norm_first=True, activation="gelu",
                                             batch_first=True)),
    (3, 4), "0.linear1.weight", "CP")  # fmt: skip
add("decoder", chain(Decoder), (2, 4), "0.inner.linear1.weight", "CP")
for kind, options in {
    "plain": {}, "causal": {"is_causal": True}, "dropout": {"dropout_p": 0.3},
    "mask": {"attn_mask": torch.tensor([[True, False, True]] * 3)},
}.items():  # fmt: skip
    add(f"fused-{kind}", chain(lambda o=options: Fused(**o)), (3, 4), "0.q.weight", "CP")
add("bilinear", chain(lambda: Bilinear(False)), (4,), "0.below.weight", "ACP")
add("bilinear-twice", chain(lambda: Bilinear(True)), (4,), "0.below.weight", "P")
add("einsum", chain(Einsum), (4,), "0.a", "A")
add("spectrum", chain(Spectrum), (4,), "0.inner.weight", "-")
add("modulus", chain(Modulus), (4,), "0.inner.weight", "P")
add("tied-transposed", chain(Autoencoder), (4,), "0.inner.weight", "-")
add("control-flow", chain(Decide), (4,), "0.inner.weight", "-")
add("broadcast", chain(Broadcast), (3, 4), "0.p1", "ACP")
add("sampling", chain(Sample), (2, 4, 4), "0.conv.weight", "ACP")
add("unpool", chain(Unpool), (2, 4, 4), "0.conv.weight", "ACP")
ACTIVATIONS = {
    "A": (nn.Hardtanh, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Softshrink, nn.Hardshrink,
          lambda: nn.Threshold(0.1, 0.2)),
    "-": (nn.Hardswish, nn.LogSigmoid, nn.SELU, nn.CELU, nn.ELU, nn.GELU, nn.Mish, nn.SiLU,
          nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Tanh,
          lambda: nn.Softmin(1), lambda: nn.Softmax(1), lambda: nn.LogSoftmax(1),
          lambda: nn.GLU(1), lambda: nn.GELU("tanh")),
}  # fmt: skip
for proved, kinds in ACTIVATIONS.items():
    for make in kinds:
        add(f"activation-{make()}", chain(linear(), make), (4,),
            proved="ACP" if proved == "A" else "P" if make is nn.Softsign else "CP")  # fmt: skip
add("activation-RReLU", chain(linear(), nn.RReLU), (4,), proved="ACP", training=True)
for kind, make in {
    "max": lambda: nn.MaxPool2d(2, stride=1, dilation=1, padding=1),
    "average": lambda: nn.AvgPool2d(2, count_include_pad=False, padding=1),
    "power": lambda: nn.LPPool2d(2, 2), "adaptive-max": lambda: nn.AdaptiveMaxPool2d(2),
    "adaptive-average": lambda: nn.AdaptiveAvgPool2d(2),
    "fractional": lambda: nn.FractionalMaxPool2d(2, output_size=2),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "shuffle": lambda: nn.PixelShuffle(2), "unshuffle": lambda: nn.PixelUnshuffle(2),
    "unfold": lambda: nn.Unfold(2), "channels": lambda: nn.ChannelShuffle(2),
    "circular": lambda: nn.CircularPad2d(1), "dropout": lambda: nn.Dropout2d(0.5),
    "alpha-dropout": lambda: nn.AlphaDropout(0.3),
}.items():  # fmt: skip
    add(f"pool-{kind}", chain(conv(2, 2, 4, 1), make, nn.ReLU), (2, 4, 4),
        proved="CP" if kind == "power" else "ACP",
        training=kind in ("fractional", "dropout", "alpha-dropout"))  # fmt: skip
add("fold", chain(linear(), lambda: nn.Fold((3, 3), (2, 2)), nn.ReLU), (4, 4), proved="ACP")


def build(name):
    """The named network in float64 and a batch of four."""
    make, dims, training, parameter, proved = MODULES[name]
    torch.manual_seed(0)
    model = make().double().train(training)
    x = torch.randn(4, *dims, dtype=torch.float64)
    with torch.no_grad():
        model(x)  # a lazy layer takes its shape, batch norm its statistics
        for p in model.parameters():  # away from zeros and ones
            p += 0.1 * torch.randn_like(p)
    return model, x, torch.arange(4) % 3, parameter, proved
