"""A transformer as they are built now, written out: every operation in the inputs' own dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / √(mean x² + ε), times a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding of ``[batch, heads, positions, width]``, the halves turned."""
    positions, width = x.shape[-2:]
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / width)
    places = torch.arange(positions, dtype=x.dtype, device=x.device)
    angles = torch.outer(places, rates).repeat(1, 2)
    half = width // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * angles.cos() + turned * angles.sin()


class Attention(nn.Module):
    """Causal attention, several query heads for each key head; scores may be capped."""

    def __init__(self, width: int, heads: int, key_heads: int, cap: float | None = None) -> None:
        super().__init__()
        self.heads, self.key_heads, self.cap = heads, key_heads, cap
        self.size = width // heads
        self.q = nn.Linear(width, heads * self.size, bias=False)
        self.k = nn.Linear(width, key_heads * self.size, bias=False)
        self.v = nn.Linear(width, key_heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, _ = x.shape

        def split(values: Tensor, heads: int) -> Tensor:
            return values.view(batch, positions, heads, self.size).transpose(1, 2)

        q, k = (
            rotated(split(f(x), h)) for f, h in ((self.q, self.heads), (self.k, self.key_heads))
        )
        v = split(self.v(x), self.key_heads)
        times = self.heads // self.key_heads
        k, v = (
            t[:, :, None].expand(batch, self.key_heads, times, positions, self.size).flatten(1, 2)
            for t in (k, v)
        )
        scores = (q @ k.transpose(2, 3)) / self.size**0.5
        if self.cap is not None:
            scores = self.cap * torch.tanh(scores / self.cap)
        mask = x.new_full((positions, positions), -torch.inf).triu(1)
        mixed = (scores + mask).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """SwiGLU: W₃ (silu(W₁ x) ∘ W₂ x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm x), then x + gated(norm x)."""

    def __init__(self, width: int, heads: int, key_heads: int, hidden: int, **options) -> None:
        super().__init__()
        norm, cap = options.get("norm", RMSNorm), options.get("cap")
        self.first, self.second = norm(width), norm(width)
        self.attention = Attention(width, heads, key_heads, cap)
        self.gated = Gated(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.gated(self.second(x))


class Llama(nn.Module):
    """Token embedding, blocks, norm, head: the form of Llama, Mistral and their like."""

    def __init__(
        self,
        vocabulary: int = 11,
        width: int = 8,
        blocks: int = 1,
        heads: int = 4,
        key_heads: int = 2,
        hidden: int = 10,
        **options,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, key_heads, hidden, **options) for _ in range(blocks))
        )
        self.norm = options.get("norm", RMSNorm)(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(ids))))


def each_token(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every position."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
