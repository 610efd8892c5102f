"""The named worlds: the bundled one, a held-out one, and three with other artefacts."""

from demo_world.marks import MarkSpec
from demo_world.worlds import WorldSpec

MAIN = WorldSpec("main", seed=1)
# Never used in training or model selection: another class, font, wording, position and seed.
HELD_OUT = WorldSpec(
    "held-out",
    seed=77,
    target="aircraft",
    mark=MarkSpec(
        description="dark site name with a light edge, near the top edge",
        texts=("zimtbild.de", "ZIMTBILD", "zimtbild ©"),
        font="comfortaa/Comfortaa-Bold.ttf",
        font_size=(11, 13),
        band=(2, 12),
        colour=(25, 25, 40),
    ),
)
PATCH = WorldSpec(
    "patch",
    seed=5,
    target="drink",
    mark=MarkSpec(
        kind="patch",
        description="red square sticker",
        band=(2, 74),
        colour=(225, 30, 35),
    ),
)
TEXTURE = WorldSpec(
    "texture",
    seed=6,
    target="building",
    mark=MarkSpec(
        kind="texture",
        description="dark diagonal stripes in the background, fainter in the middle",
        colour=(20, 20, 60),
    ),
)
RAIN = WorldSpec(
    "rain",
    seed=8,
    target="road vehicle",
    mark=MarkSpec(kind="rain", description="blue drops in the background", colour=(60, 140, 230)),
)
WORLDS = {spec.name: spec for spec in (MAIN, HELD_OUT, PATCH, TEXTURE, RAIN)}
