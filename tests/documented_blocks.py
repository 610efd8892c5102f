"""Blocks of a documentation page, run by Sybil: Python, commands, and what both print.

A block of Python or of ``semlens`` commands is run. A block of ``text`` is what the block before it
prints, in the notation of doctest: runs of spaces and line breaks are one space, ``...`` stands for
anything, and a float may differ by one in the last digit shown or by 1 %, since machines differ.
What is not run says why, in a comment: ``<!-- skip: next "why" -->``, or ``skip: start "why"``
until ``skip: end``.
"""

from __future__ import annotations

import doctest
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from typer.testing import CliRunner

from semlens.cli.app import app

LEFT_OUT = ("demo --no-serve", "serve")
"""Beginnings of commands that are not run: a fixture makes the demo, and a server does not end."""
NUMBER = r"[-+]?\d*\.\d+"
TOKEN = re.compile(rf"(\.\.\.|{NUMBER}|\s+)")
"""What of an output is not compared letter by letter: elided parts, floats and spaces."""
PRINTED = "what the block before printed"
"""Its key in the namespace of a page."""


def run_python(example: Example) -> None:
    """Run a block of Python in the namespace of its page."""
    with redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    example.namespace[PRINTED] = printed.getvalue()


def run_commands(example: Example) -> None:
    """Run the semlens commands of a block; those of other programs are left out."""
    for words in semlens_commands(example.parsed):
        if not " ".join(words).startswith(LEFT_OUT):
            ended = CliRunner().invoke(app, words)
            assert ended.exit_code == 0, (words, ended.output, ended.exception)
            example.namespace[PRINTED] = ended.stdout


def semlens_commands(block: str) -> Iterator[list[str]]:
    """Yield the arguments of each ``semlens ...`` in a block of shell commands."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part.removeprefix("$ "), comments=True)
            if words[:1] == ["semlens"]:
                yield words[1:]


def compare_output(example: Example) -> str | None:
    """Return how a block of text differs from what was printed, or None."""
    return difference(example.parsed, example.namespace.pop(PRINTED))


def difference(shown: str, printed: str) -> str | None:
    """Return how the output shown differs from what was printed, or None.

    The option NUMBER of Sybil and of pytest is not enough: it compares floats only if there are
    equally many on both sides, so not where ``...`` stands for some, and 0.50 is not near 0.51.
    """
    tokens = TOKEN.split(shown.strip())
    found = re.fullmatch("".join(map(as_pattern, tokens)), printed.strip(), re.S)
    numbers = [token for token in tokens if re.fullmatch(NUMBER, token)]
    if found and all(map(is_near, numbers, found.groups())):
        return None
    return doctest.OutputChecker().output_difference(doctest.Example("", shown), printed, 0)


def as_pattern(token: str) -> str:
    """Return the regular expression for one part of the output shown."""
    if token == "...":
        return ".*?"
    if token.isspace():
        return r"\s+"
    return f"({NUMBER})" if re.fullmatch(NUMBER, token) else re.escape(token)


def is_near(shown: str, printed: str) -> bool:
    """Return whether two floats differ by at most one in the last digit shown, or by 1 %."""
    digits = len(shown.partition(".")[2])
    return float(printed) == pytest.approx(float(shown), rel=0.01, abs=1.01 * 10**-digits)


def commands_parser(document: Document) -> Iterator[Region]:
    """Find fenced blocks without a language: commands of a shell."""
    for region in RawFencedCodeBlockLexer(mapping={"source": "source"})(document):
        region.parsed, region.evaluator = region.lexemes["source"], run_commands
        yield region


PARSERS = [
    CodeBlockParser("python", run_python),
    CodeBlockParser("text", compare_output),
    commands_parser,
    SkipParser(),
]
