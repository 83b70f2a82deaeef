"""AlexNet (Krizhevsky et al. 2012) in its CIFAR form."""

import torch.nn.functional as F
from torch import Tensor, nn

from sim.models._shapes import image, scaled

SIDE = 32


class AlexNet(nn.Module):
    """Five convolutions, three max-poolings and three linear layers, ReLU between them.

    The paper names AlexNet without saying which; this form has the least that its figures need
    (two hidden fully connected layers) and is in common use for 32x32 images.
    """

    def __init__(self, channels: int, classes: int, width: float, dropout: float) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(size, width) for size in (64, 192, 384, 256, 256))
        hidden = scaled(4096, width)
        self.conv1 = nn.Conv2d(channels, c1, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(c1, c2, 3, padding=1)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1)
        self.dropout1 = nn.Dropout(dropout)
        self.fc1 = nn.Linear(c5 * 2 * 2, hidden)
        self.dropout2 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of images `[N, channels, H, W]`, resized to 32x32 if smaller."""
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(F.relu(self.conv5(x)), 2).flatten(1)
        x = F.relu(self.fc1(self.dropout1(x)))
        x = F.relu(self.fc2(self.dropout2(x)))
        logits: Tensor = self.fc3(x)
        return logits


def alexnet(
    in_shape: tuple[int, ...], classes: int, *, width: float = 1.0, dropout: float = 0.5
) -> AlexNet:
    """Build it for images of at most 32x32."""
    channels, height, breadth = image("alexnet", in_shape)
    if max(height, breadth) > SIDE:
        raise ValueError(
            f"in_shape: {in_shape} is larger than 32x32, for which alexnet is made; "
            "shrink the images first"
        )
    return AlexNet(channels, classes, width, dropout)
