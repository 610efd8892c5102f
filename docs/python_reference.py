"""Write docs/reference-questions.md: every question and its result, for mkdocstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "reference-questions.md"

HEAD = """\
# Questions and results

Written from the docstrings: every question, and below it the result that it returns. A question is
a function of a database, and a method of [`ConceptDatabase`](reference-databases.md#the-database)
with the same parameters. All results have the methods of `Result`. [Python](python.md) is an
overview.

::: semlens.lenses.result.Result
    options: {heading_level: 2, show_root_full_path: false}
"""

ENTRY = """
::: {lens}.{name}
    options: {{heading_level: 2, show_root_full_path: false}}

::: {module}.{result}
    options: {{show_root_full_path: false}}
"""


def page(questions: Mapping[str, Callable[..., Any]]) -> str:
    """Return the page."""
    return HEAD + "".join(
        ENTRY.format(
            name=name,
            lens=questions[name].__module__,
            module=result.__module__,
            result=result.__qualname__,
        )
        for name, result in ((name, _result(questions[name])) for name in sorted(questions))
    )


def _result(question: Callable[..., Any]) -> type:
    return inspect.signature(question, eval_str=True).return_annotation
