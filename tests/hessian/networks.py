"""Networks and losses for the tests of exactness: small, of every structure that matters."""

import torch
import torch.nn.functional as F
from torch import nn

from hessian.testing._losses import LOSSES as LOSSES
from hessian.testing._losses import WEIGHTS as WEIGHTS
from hessian.testing._losses import classes as classes
from hessian.testing._losses import coupling as coupling
from hessian.testing._losses import l2 as l2


class ReluCNN(nn.Module):
    """Custom forward, functional, reused and in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)
        self.act = nn.ReLU()
        self.fc1 = nn.Linear(6, 5)
        self.fc2 = nn.Linear(5, 4)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.conv1(x)), 2)
        x = F.relu(self.conv2(x), inplace=True)
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc2(self.act(self.fc1(x)))


class Residual(nn.Module):
    """Residual sums and batch norm; evaluation or training mode as the test sets it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)
        for bn in (self.bn1, self.bn2):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias)
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = F.relu(self.bn1(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv(x)))
        return self.head(x.mean(dim=(2, 3)))


class Series(nn.Module):
    """One weight used twice in series: the output is not affine in its entries."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.relu(self.lin(F.relu(self.lin(x)))))


class Parallel(nn.Module):
    """One weight used twice side by side: affine, and the uses add inside the square."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(F.relu(self.lin(x[:, :3])) + 2 * F.relu(self.lin(x[:, 3:])))


class LayerNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x):
        return self.out(F.relu(self.norm(self.inp(x))))


class EmbeddingNet(nn.Module):
    """Repeated tokens, a padding index, and a linear layer over the sequence."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4, padding_idx=0)
        self.mix = nn.Linear(4, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, tokens):
        return self.out(F.relu(self.mix(self.emb(tokens))).mean(1))


class Attention(nn.Module):
    """An embedding that feeds query, key and value; fused attention."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(4, 4)

    def forward(self, tokens):
        x = self.emb(tokens)
        x = x + F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.out(x.mean(1))


class Scales(nn.Module):
    """Parameters that broadcast: scale, shift, position, a scalar, PReLU, a matmul weight."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 3, 2))
        self.scale = nn.Parameter(torch.rand(2) + 0.5)
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.weight = nn.Parameter(torch.randn(2, 5) / 2)
        self.shift = nn.Parameter(torch.randn(5))
        self.prelu = nn.PReLU()
        self.out = nn.Linear(15, 4)

    def forward(self, x):
        x = (x.view(-1, 3, 2) + self.position) * self.scale
        x = self.prelu(x @ self.weight - self.shift) * self.gain
        return self.out(x.flatten(1))


class Coupled(nn.Module):
    """The mean over the batch is taken away in the middle: samples meet below it."""

    def __init__(self):
        super().__init__()
        self.below = nn.Linear(6, 5)
        self.above = nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.below(x))
        return self.above(x - x.mean(0, keepdim=True))


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(F.dropout(F.relu(self.a(x)), 0.4, self.training))


class StraightThrough(torch.autograd.Function):
    """Forward of one function, backward of another: the tape, not the forward, is the truth."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - torch.tanh(x) ** 2)


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(StraightThrough.apply(self.a(x)))


def mlp(activation):
    return nn.Sequential(
        nn.Linear(6, 5), activation(), nn.Linear(5, 5), activation(), nn.Linear(5, 4)
    )


def image(n, generator):
    return torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.float64)


def vector(n, generator):
    return torch.randn(n, 6, generator=generator, dtype=torch.float64)


def tokens(n, generator):
    return torch.randint(0, 7, (n, 3), generator=generator)


# name: (constructor, input maker, training mode)
NETWORKS = {
    "relu-cnn": (ReluCNN, image, False),
    "residual-bn-eval": (Residual, image, False),
    "residual-bn-train": (Residual, image, True),
    "relu-mlp": (lambda: mlp(nn.ReLU), vector, False),
    "tanh-mlp": (lambda: mlp(nn.Tanh), vector, False),
    "gelu-mlp": (lambda: mlp(nn.GELU), vector, False),
    "tied-in-series": (Series, vector, False),
    "tied-in-parallel": (Parallel, vector, False),
    "layer-norm": (LayerNormNet, vector, False),
    "embedding": (EmbeddingNet, tokens, False),
    "attention": (Attention, tokens, False),
    "scales": (Scales, vector, False),
    "coupled": (Coupled, vector, False),
    "dropout-train": (Dropped, vector, True),
    "custom-function": (Custom, vector, False),
}


def build(name, seed=0):
    """The named network in float64 and its input maker."""
    torch.manual_seed(seed)
    make, inputs, training = NETWORKS[name]
    return make().double().train(training), inputs
