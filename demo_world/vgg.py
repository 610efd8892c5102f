"""A subject in the manner of VGG: plain convolutions and max pooling, without shortcuts."""

from torch import Tensor, nn

DEPTHS = (1, 1, 2, 2)  # convolutions of each stage; VGG-11 has a fifth stage


def stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """Make ``depth`` 3 x 3 convolutions, each with batch norm and ReLU, then halve by maximum."""
    modules: list[nn.Module] = []
    for at in range(depth):
        convolution = nn.Conv2d(outputs if at else inputs, outputs, 3, padding=1, bias=False)
        modules += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*modules, nn.MaxPool2d(2))


class Vgg(nn.Module):
    """Four stages, mean over space, linear classifier; in training whole components are silenced.

    The output of every ``stageN`` is after a ReLU and so never negative.
    """

    def __init__(
        self, classes: int, widths: tuple[int, int, int, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stage1 = stage(3, widths[0], DEPTHS[0])  # 48 x 48
        self.stage2 = stage(widths[0], widths[1], DEPTHS[1])  # 24 x 24
        self.stage3 = stage(widths[1], widths[2], DEPTHS[2])  # 12 x 12
        self.stage4 = stage(widths[2], widths[3], DEPTHS[3])  # 6 x 6
        self.dropout3, self.dropout4 = nn.Dropout2d(dropout), nn.Dropout2d(dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map preprocessed images [B 3 96 96] to logits [B classes]."""
        x = self.dropout3(self.stage3(self.stage2(self.stage1(x))))
        return self.head(self.pool(self.dropout4(self.stage4(x))).flatten(1))
