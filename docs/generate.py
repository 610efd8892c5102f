"""Write what follows from the questions and the commands themselves.

    python docs/generate.py

For every public ``@lens`` of ``semlens.lenses``: its entry point in ``pyproject.toml``, its
method in ``semlens/lenses/questions.py`` and its types in ``questions.pyi``,
its entry in ``docs/reference-questions.md`` and, if it has none yet, its row in ``docs/python.md``.
For every command: its outline for the shell's completion in ``semlens/cli/outline.json``, its
table of options in ``docs/cli.md`` and, if it has none yet, its section there.  For every tool of
agents: its section in ``docs/agents.md``; for every page: its line in ``docs/llms.txt``.  And the
JSON schema of evidence files, ``docs/evidence.schema.json``.  A test compares.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import agent_pages
import cli_reference
import method_stubs
import python_reference

import semlens.lens
import semlens.lenses
import semlens.mcp.tools
from semlens.cli import app, outline
from semlens.cli.command import question_command
from semlens.lens import lens_of
from semlens.lenses.report.evidence_file import EvidenceFile
from semlens.plug_ins import LENSES
from semlens.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/semlens"
PROJECT = ROOT / "pyproject.toml"
METHODS = PACKAGE / "lenses/questions.py"
STUBS = METHODS.with_suffix(".pyi")
OUTLINES = PACKAGE / "cli/outline.json"
PYTHON = ROOT / "docs/python.md"
COMMANDS = ROOT / "docs/cli.md"
EVIDENCE = ROOT / "docs/evidence.schema.json"

METHODS_TEXT = '''\
"""Every question as a method; written by ``docs/generate.py``, not by hand."""

from __future__ import annotations

from semlens.lenses.lazy_method import LazyMethod
from semlens.store.reader import Database


class Questions(Database):
    """The methods of a database: its questions; ``questions.pyi`` has their types."""

{methods}
'''


def questions() -> dict[str, Callable[..., Any]]:
    """Return the public questions by name."""
    return {name: question for name, question in _questions() if lens_of(question).group}


def _questions() -> Iterator[tuple[str, Any]]:
    for module in pkgutil.walk_packages(semlens.lenses.__path__, "semlens.lenses."):
        if module.name != "semlens.lenses.questions":
            for name, value in vars(import_module(module.name)).items():
                if lens_of(value) is not None and value.__module__ == module.name:
                    yield name, value


def entry_points(text: str) -> str:
    """Return pyproject.toml with the entry point of each lens."""
    title = '[project.entry-points."semlens.lenses"]\n'
    lines = "".join(f'{k} = "{v.__module__}:{k}"\n' for k, v in sorted(questions().items()))
    head, _, rest = text.partition(title)
    return head + title + lines + rest[rest.index("\n[") :]


def methods() -> str:
    """Return the module of methods."""
    lines = [f'    {k} = LazyMethod("{q.__module__}")' for k, q in sorted(questions().items())]
    return METHODS_TEXT.format(methods="\n".join(lines))


def python_page(text: str) -> str:
    """Return docs/python.md with a row for each question in the table of questions."""
    head, title, rest = text.partition("\n## Questions\n")
    section, after, rest = rest.partition("\n## ")
    for name, question in questions().items():
        if not re.search(rf"^\| `{name}\(", section, re.M):
            required = [
                p.name
                for p in list(inspect.signature(question).parameters.values())[1:]
                if p.default is p.empty and p.kind is not p.VAR_POSITIONAL
            ]
            row = f"| `{name}({', '.join(['db', *required])})` | {summary(question)} |"
            section = f"{section.rstrip()}\n{row}\n"
    return head + title + section + after + rest


def summary(documented: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def outlines() -> str:
    """Return the outline of each command."""
    asked = {lens_of(q).command: (name, q) for name, q in questions().items()}
    asked.pop("", None)  # no command, or one that is written by hand
    for name, question in asked.values():
        _check_command(name, question)
    commands = {words: app.function_of(words) for names in app.COMMANDS.values() for words in names}
    commands |= {words: question_command(question) for words, (_, question) in asked.items()}
    written: dict[str, Any] = {}
    for words, function in commands.items():
        written[words] = {"summary": summary(function), "options": list(_options(function))}
    for words, (name, question) in asked.items():
        written[words] |= {"lens": name, "panel": lens_of(question).group}
    return "{\n" + ",\n".join(_outline_text(*item) for item in written.items()) + "\n}\n"


def _check_command(name: str, question: Callable[..., Any]) -> None:
    """Refuse a question that cannot be a command as it is."""
    panel, settings = lens_of(question).group, settings_of(question)
    if panel not in app.COMMANDS:
        raise SystemExit(f"Unknown panel '{panel}' of '{name}': choose {', '.join(app.COMMANDS)}.")
    for parameter in list(inspect.signature(question).parameters.values())[1:]:
        required = (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        )
        if required and parameter.name not in settings:
            raise SystemExit(
                f"The parameter '{parameter.name}' of '{name}' is not a setting: annotate it with "
                "setting(...), or leave out the panel and write the command in semlens/cli/."
            )


def _outline_text(name: str, outline: dict[str, Any]) -> str:
    """Return the JSON of a command, a line for each option."""
    head = {key: value for key, value in outline.items() if key != "options"}
    options = ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in outline["options"])
    start = json.dumps(head, ensure_ascii=False)[:-1]
    return f' "{name}": {start}, "options": [\n  {options}\n ]}}'


def _options(function: Callable[..., None]) -> Iterator[dict[str, Any]]:
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        option = cli_reference.read_option(parameter)
        if option is not None:
            info, kind, names = option
            yield {
                "names": names,
                "help": " ".join((info.help or "").split()).partition(". ")[0].rstrip("."),
                "flag": kind is bool,
                "choices": cli_reference.choices(kind, info),
            }


def command_page(text: str) -> str:
    """Return docs/cli.md with a section and a table for each command."""
    before = "semlens"
    for name, function in cli_reference.commands().items():
        if f"\n## semlens {name}\n" not in text:
            lines = summary(function)
            says = textwrap.fill(f"`semlens {name} DATABASE [OPTIONS]`: {lines}", 110)
            section = f"\n## semlens {name}\n\n{says}\n\n{cli_reference.HEAD}"
            place = text.find("\n## ", text.index(f"\n## {before}\n") + 1)
            place = len(text) if place < 0 else place
            text = text[:place] + section + text[place:]
        before = f"semlens {name}"
    return cli_reference.page(text)


def files() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        METHODS: methods(),
        STUBS: method_stubs.page(questions()),
        PROJECT: entry_points(PROJECT.read_text("utf-8")),
        OUTLINES: outlines(),
        PYTHON: python_page(PYTHON.read_text("utf-8")),
        python_reference.PAGE: python_reference.page(questions()),
        COMMANDS: command_page(COMMANDS.read_text("utf-8")),
        EVIDENCE: json.dumps(EvidenceFile.model_json_schema(), indent=1) + "\n",
        **agent_pages.files(),
    }


def main() -> None:
    """Write all files."""
    # a new lens is not installed yet
    points = {k: EntryPoint(k, f"{v.__module__}:{k}", LENSES) for k, v in questions().items()}
    for module in (semlens.lens, semlens.mcp.tools):
        module.registered = lambda: points
    OUTLINES.write_text(outlines(), "utf-8")
    # the commands of new questions are read from there
    outline.outlines.cache_clear()
    app.panels.cache_clear()
    for path, text in files().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
