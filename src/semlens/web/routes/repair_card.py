"""Route of the picture of a repair, to be saved and shown elsewhere."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Query, Response

from semlens.draw.encode_images import decode_image, encode_webp
from semlens.draw.repair_card import MarkedImage, repair_card
from semlens.types import Component
from semlens.web.app_state import MAX_INT, Context, State
from semlens.web.errors import HttpError
from semlens.web.routes.before_after import MOST, RepairRequest, repair
from semlens.web.routes.pictures import WEBP

router = APIRouter(prefix="/models/{m}", tags=["audit"])


@router.get("/repair.webp", response_class=Response, responses=WEBP)
def picture_of_repair(
    context: Context,
    state: State,
    target: Annotated[int, Query(alias="class", ge=0, le=MAX_INT)],
    component: Annotated[list[str], Query(min_length=1, max_length=MOST)],
) -> Response:
    """Return a repair as one picture: marked images before and after, and the share they turn."""
    components = [Component.parse(name) for name in component]
    result = repair(context, state, RepairRequest(target=target, components=components))
    taken = None if result.marked is None else result.marked.taken
    if result.marked is None or taken is None:
        raise HttpError(
            404,
            result.finding,
            "Expected a mark that can be cut out and put on images of other classes.",
            "Choose components that react to a mark.",
        )
    shown = [
        MarkedImage(
            decode_image(base64.b64decode(one.image.partition(",")[2])),
            one.true_class,
            one.before,
            one.after,
        )
        for one in result.marked.shown
    ]
    picture = repair_card(
        result.name, result.finding, result.cost, shown, (taken.before, taken.after)
    )
    return Response(encode_webp(picture, 90), media_type="image/webp")
