"""A VGG-like subject: convolutions and max pooling, without shortcuts."""

from torch import Tensor, nn

DEPTHS = (1, 1, 2, 2)  # convolutions of each stage; VGG-11 has a fifth stage


def stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """Return ``depth`` 3 x 3 convolutions with batch norm and ReLU, then 2 x 2 max pooling."""
    modules: list[nn.Module] = []
    for index in range(depth):
        convolution = nn.Conv2d(outputs if index else inputs, outputs, 3, padding=1, bias=False)
        modules += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*modules, nn.MaxPool2d(2))


class Vgg(nn.Module):
    """Four stages, global average pooling and a linear classifier, with dropout of channels.

    The output of every ``stageN`` follows a ReLU and is never negative.
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
