"""Which layers a graph shows."""

from __future__ import annotations

from semlens.errors import LayerError
from semlens.store.reader import Database
from semlens.types import Layers


def reached_layers(database: Database, target: int, layers: Layers = None) -> list[str]:
    """Return the layers with relevance for a class, according to the database.

    All layers if the database has no relevance for the class.
    """
    names = database.layer_names(layers)
    if database.manifest.relevance is None or (
        target not in set(database.relevance_classes["class"])
    ):
        return names
    return [name for name in names if len(database.relevance(target, [name]))] or names


def single_readings(database: Database, layers: Layers = None) -> list[str]:
    """Return layers without those that read the same layer: its own components are kept.

    Raises
    ------
    LayerError
        If several readings of a layer are asked for: no relevance flows between them.
    """
    names = database.layer_names(layers)
    readings: dict[str, list[str]] = {}
    for name in names:
        dictionary = database.layer(name).dictionary
        readings.setdefault(dictionary.layer if dictionary else name, []).append(name)
    for same in readings.values():
        if len(same) > 1 and layers is not None:
            raise LayerError(
                f"{' and '.join(same)} are readings of the same layer.",
                "Expected one of each layer: a graph leads from one layer to the one below.",
                f"Choose the layers, for example only {same[-1]}.",
            )
    chosen = {layer if layer in same else same[0] for layer, same in readings.items()}
    return [name for name in names if name in chosen]


def graph_layers(database: Database, target: int, layers: Layers = None) -> list[str]:
    """Return the layers of a class's graph: one reading of each layer that has relevance for it."""
    return reached_layers(database, target, single_readings(database, layers))
