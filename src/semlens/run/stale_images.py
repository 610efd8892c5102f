"""Images of a database that are no longer as they were: why it cannot be extended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from semlens.data.images import Images
from semlens.errors import RecipeError, StaleError
from semlens.lenses.describe.database_warnings import build_command, sibling_path
from semlens.store.reader import Database

_MAX_LISTED = 5


def check_names(database: Database, old: Images, more: Images) -> None:
    """Raise an error if the data of a database has lost or gained images.

    Raises
    ------
    StaleError
        If the ids are not those of the database.
    """
    saved, now = database.samples["path"].tolist(), list(old.ids)
    if saved == now:
        return
    present = set(now)
    missing = [sample for sample, name in enumerate(saved) if name not in present]
    if missing:
        raise _stale(database, old, more, missing, [])
    new = sorted(present.difference(saved))
    if not new:
        raise StaleError(
            f"The images of '{old.spec}' are in another order than in the database.",
            "Expected the order of the build.",
            "Restore it.",
        )
    raise StaleError(
        f"{len(new)} images of '{old.spec}' are not in the database: {_listed(new)}.",
        "New images are added from a source of their own, so that the others keep their numbers.",
        "Move them to a folder of their own, and extend the database by it.",
    )


def check_contents(database: Database, old: Images, more: Images, digests: Sequence[str]) -> None:
    """Raise an error if images of a database have changed, or it has all the new ones.

    Parameters
    ----------
    digests
        Digests of the images of the database and of the new ones, computed now.

    Raises
    ------
    StaleError
        If an image has changed.
    RecipeError
        If the database has the content of all new images.
    """
    saved, now = database.samples["sha256"].tolist(), digests[: len(old)]
    changed = [i for i, (before, after) in enumerate(zip(saved, now, strict=True))
               if before != after]  # fmt: skip
    if changed:
        raise _stale(database, old, more, [], changed)
    readable = {digest for digest in digests[len(old) :] if digest}
    if readable and readable.issubset(saved):
        raise RecipeError(
            f"The database '{database.path}' already has all images of '{more.spec}'.",
            "Expected new images; these have the same content.",
            "Nothing has to be done, or name other data.",
        )


def _stale(
    database: Database,
    old: Images,
    more: Images,
    missing: Sequence[int],
    changed: Sequence[int],
) -> StaleError:
    """Return the error that says what has changed, and what must be built again."""
    counts = [f"{len(missing)} are missing"] * bool(missing)
    counts += [f"{len(changed)} have changed"] * bool(changed)
    samples = [*missing, *changed]
    names = database.samples["path"].iloc[samples].tolist()
    users = components_with_examples(database, samples)
    used = ", ".join(f"{count} of {layer}" for layer, count in users.items() if count)
    kept = database.manifest.extendable
    batch_size = [] if kept is None else ["--batch-size", str(kept.batch_size)]
    command = build_command(
        database, "--data", more.spec, *batch_size, "--extendable",
        path=sibling_path(database, "rebuilt"),
    )  # fmt: skip
    again = "Restore them, or build a new database from the images that there are: "
    return StaleError(
        f"Of the {len(old) if not missing else database.manifest.samples} images of the database, "
        f"{' and '.join(counts)}: {_listed(names)}. "
        f"They are examples of {used or 'no'} components.",
        "They are part of the statistics of all components, and cannot be taken out.",
        again + (command or "semlens.build with extendable=True."),
    )


def components_with_examples(database: Database, samples: Collection[int]) -> dict[str, int]:
    """Return by layer how many components have any of these samples among their examples."""
    users: Counter[str] = Counter()
    for layer in database.layers:
        component, _, _ = database.example_crops(layer)
        shown = np.isin(database.example_samples(layer), list(samples))
        users[layer] = len(np.unique(component[shown]))
    return dict(users)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
