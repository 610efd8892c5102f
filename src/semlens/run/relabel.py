"""Other classes for the images of a finished database; its vectors stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from semlens.data.targets import TargetMap
from semlens.run.plan import Plan
from semlens.store import layout
from semlens.store.reader import Database
from semlens.store.schema import SAMPLES
from semlens.store.writer import BuildWriter


def relabel(database: Database, plan: Plan) -> tuple[Database, Plan]:
    """Give the images the plan's classes if it says so, or the plan those of the database.

    Class relevance of before is void then: the manifest no longer names its files, and
    :func:`semlens.run.relevance.add_relevance` computes them again.
    """
    table = database.files.table(layout.SAMPLES)
    kept = TargetMap(tuple(table["logit"].to_pylist()), tuple(table["target"].to_pylist()))
    names = plan.targets.names or (None,) * len(plan.images)
    if not plan.relabel or (plan.targets.logits, names) == (kept.logits, kept.names):
        return database, replace(plan, targets=kept)
    for name, values in (("target", names), ("logit", plan.targets.logits)):
        place = SAMPLES.get_field_index(name)
        table = table.set_column(
            place, SAMPLES.field(name), pa.array(values, SAMPLES.field(name).type)
        )
    writer = BuildWriter(database.path, database.manifest)
    writer.table(layout.SAMPLES, table, group=layout.SAMPLE_GROUP)
    if plan.targets.logits != kept.logits:
        writer.forget(layout.RELEVANCE)
    writer.commit(database.manifest)
    return Database(database.path), plan
