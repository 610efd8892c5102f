"""A MobileNet-like subject: depthwise separable convolutions, without shortcuts."""

from torch import Tensor, nn


class Separable(nn.Sequential):
    """A 3 x 3 convolution of every channel by itself, then a 1 x 1 convolution; ReLU after each."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Mobile(nn.Module):
    """Stem, three stages, global average pooling and a linear classifier.

    As in the first MobileNet (Howard et al. 2017). The output of every stage follows a ReLU and is
    never negative. Channels of the last two are dropped in training.
    """

    def __init__(
        self, classes: int, widths: tuple[int, int, int, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )  # 48 x 48
        self.stage1 = nn.Sequential(Separable(first, second, 2))  # 24 x 24
        self.stage2 = nn.Sequential(Separable(second, third, 2), Separable(third, third, 1))
        self.stage3 = nn.Sequential(Separable(third, fourth, 2), Separable(fourth, fourth, 1))
        self.dropout2, self.dropout3 = nn.Dropout2d(dropout), nn.Dropout2d(dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(fourth, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map preprocessed images [B 3 96 96] to logits [B classes]."""
        x = self.dropout2(self.stage2(self.stage1(self.stem(x))))
        return self.head(self.pool(self.dropout3(self.stage3(x))).flatten(1))
