"""``semlens relevance``."""

from __future__ import annotations

from semlens.analysis.class_relevance import RelevantComponents, class_relevance
from semlens.cli.command import Ask, command
from semlens.cli.options import Picture


@command(class_relevance)
def relevance(ask: Ask, image: Picture = None) -> RelevantComponents:
    """List the components that a class relies on most.

    Shares are of their layer's relevance: on average over the class's samples, and on the
    sample where it is largest. A database built with --relevance has them; else, or for other
    pictures, --samples and --image compute them.

    Examples:

    semlens relevance r18.semlens --target ox

    semlens relevance r18.semlens --target 345 --layer layer4 --top 5 --json

    semlens relevance r18.semlens --target ox --image ox.jpg
    """
    return ask(images=image)
