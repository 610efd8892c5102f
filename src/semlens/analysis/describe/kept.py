"""Tables by component that outlive added layers: what was computed once stays as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from semlens.analysis.describe.scope import Scope
from semlens.recipe import fingerprint

_WHO = ["member", "layer", "index", "sign"]


def recall(scope: Scope, kind: str, settings: Mapping[str, Any]) -> pd.DataFrame | None:
    """Return the kept values of a scope's components, a row each; None if there are none.

    Values are missing (NaN) for components of layers that were added since. A table is void
    once the vectors of one of its layers have changed.
    """
    found = scope.members[0].database.load_origin(_name(scope, kind, settings))
    if found is None:
        return None
    table, origin = found
    for member, digests in zip(scope.members, origin["layers"], strict=True):
        if not digests.items() <= member.digests.items():
            return None
    return _who(scope).merge(table, on=_WHO, how="left").drop(columns=_WHO)


def keep(scope: Scope, kind: str, settings: Mapping[str, Any], values: pd.DataFrame) -> None:
    """Keep values of a scope's components in its first database, if that can be written."""
    database = scope.members[0].database
    if database.keeps_analysis:
        origin = {
            "settings": dict(settings),
            "databases": [member.name for member in scope.members],
            "layers": [member.digests for member in scope.members],
        }
        table = pd.concat([_who(scope), values], axis=1)
        database.save_analysis(_name(scope, kind, settings), table, origin)


def _who(scope: Scope) -> pd.DataFrame:
    return scope.frame.assign(member=scope.member_of).loc[:, _WHO]


def _name(scope: Scope, kind: str, settings: Mapping[str, Any]) -> str:
    layers = None if scope.layers is None else sorted(scope.layers)
    members = [member.identity for member in scope.members]
    return f"{kind}-{fingerprint(members, layers, dict(settings))[:16]}"
