"""Route of the report on the class of a saved audit."""

from __future__ import annotations

import datetime

from fastapi import APIRouter, Response

from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.report.report import report
from semlens.lenses.result import plain
from semlens.lenses.swap.kept import edition
from semlens.recipe import fingerprint
from semlens.web.app_state import AppState, Context, ModelContext, State
from semlens.web.responses import download
from semlens.web.routes.audits import file_stem, get_audit, run_audit
from semlens.web.routes.image_experiments import contrast_key
from semlens.web.routes.verdicts import among_all

router = APIRouter(prefix="/models/{m}", tags=["audit"])


@router.get("/audits/{number}/report.html", response_class=Response)
def audit_report(context: Context, state: State, number: int) -> Response:
    """Return the report on the class as one HTML file, with the reviews."""
    record = get_audit(context, number)
    result = among_all(context, state, run_audit(context, state, record))
    today = datetime.date.today()
    test = context.model_tests.get(record.target)
    contrast = _contrast(context, state, record.target)

    def compute() -> str:
        with context.run_model("The report"):
            return report(
                context.db, saved=record, audit=result, model_test=test, date=today,
                results={} if contrast is None else {"contrast": contrast},
            ).html  # fmt: skip

    key = fingerprint(
        record.model_dump(mode="json"),
        list(result.others or ()),
        context.db.fingerprint,
        str(today),
        test and plain(test.to_json()),
        edition(context.db),
        contrast is not None,
    )
    description = f"Writing the report on '{record.target_name}'"
    html = state.jobs.result(f"report/{context.number}/{key}", description, compute, large=True)
    return download(html, "text/html", f"{file_stem(record)}.html")


def _contrast(context: ModelContext, state: AppState, target: int) -> Contrast | None:
    """Return the contrast of the errors on a class that was run on the page, if it was."""
    contrast = state.jobs.finished(contrast_key(context, target))
    return contrast if isinstance(contrast, Contrast) else None
