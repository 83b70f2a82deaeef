"""ResNet-18 (He et al. 2016) in its CIFAR form: a 3x3 stem of stride one, no first pooling."""

import torch.nn.functional as F
from torch import Tensor, nn

from sim.models._shapes import image, scaled


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the branch plus the (projected) input."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """A stem, four stages of two blocks, global average pooling and one linear layer."""

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(size, width) for size in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(channels, c1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c1)
        self.layer1 = nn.Sequential(Block(c1, c1, 1), Block(c1, c1, 1))
        self.layer2 = nn.Sequential(Block(c1, c2, 2), Block(c2, c2, 1))
        self.layer3 = nn.Sequential(Block(c2, c3, 2), Block(c3, c3, 1))
        self.layer4 = nn.Sequential(Block(c3, c4, 2), Block(c4, c4, 1))
        self.fc = nn.Linear(c4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of images `[N, channels, H, W]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet18(in_shape: tuple[int, ...], classes: int, *, width: float = 1.0) -> ResNet18:
    """Build it for images of any size."""
    channels, _, _ = image("resnet18", in_shape)
    return ResNet18(channels, classes, width)
