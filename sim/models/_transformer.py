"""A small vision transformer (Dosovitskiy et al. 2021), with layer norm first and mean pooling."""

import torch
from torch import Tensor, nn

from sim import _arguments
from sim.models._shapes import image, scaled


class Attention(nn.Module):
    """Self-attention of several heads, written out, so that every derivative exists."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, T, size]` to the same."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed = self.dropout(scores.softmax(-1)) @ v
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """Attention and a two-layer perceptron with GELU, each on a normalised copy of the stream."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.attention = Attention(size, heads, dropout)
        self.norm2 = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, 4 * size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, T, size]` to the same."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        output: Tensor = x + self.dropout(self.fc2(self.act(self.fc1(self.norm2(x)))))
        return output


class Transformer(nn.Module):
    """Patches to tokens by one convolution, learned positions, blocks, mean, one linear layer."""

    def __init__(
        self,
        channels: int,
        tokens: int,
        patch: int,
        classes: int,
        size: int,
        depth: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, size, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, size))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(size, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of images `[N, channels, H, W]`."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        x = self.blocks(self.dropout(x))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def transformer(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    width: float = 1.0,
    depth: int = 2,
    heads: int = 4,
    patch: int | None = None,
    dropout: float = 0.0,
) -> Transformer:
    """Build it for images that patches of `patch` (a quarter to an eighth of the side) tile."""
    channels, height, breadth = image("transformer", in_shape)
    depth = _arguments.integer("depth", depth, 1)
    heads = _arguments.integer("heads", heads, 1)
    if patch is None:
        patch = 4 if height >= 32 else 2
    patch = _arguments.integer("patch", patch, 1)
    if height % patch or breadth % patch:
        raise ValueError(
            f"patch: {patch} does not divide the sides of {in_shape}; give a common divisor"
        )
    size = heads * scaled(64 // heads, width)
    tokens = (height // patch) * (breadth // patch)
    return Transformer(channels, tokens, patch, classes, size, depth, heads, dropout)
