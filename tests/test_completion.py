"""The shell's completion: commands, options and choices, without importing a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.argv = ["semlens"]
from semlens.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "pandas"} & set(sys.modules)
    print(*heavy, file=sys.stderr, end="")
"""


def completed(line: str) -> list[str]:
    """Words that bash is offered at the end of a line; heavy imports fail the test."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_SEMLENS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stderr == "", "completion must stay quick"
    return ran.stdout.split()


def test_commands_are_completed():
    offered = completed("semlens ")
    assert {"build", "serve", "search", "scores", "audit", "demo"} <= set(offered)
    assert completed("semlens sc") == ["scores"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("semlens search r18.semlens dog --wi", {"--without", "--without-image"}),
        ("semlens scores r18.semlens --l", {"--layer", "--layers"}),
        ("semlens db verify r18.semlens --j", {"--json"}),
        ("semlens build r18.semlens --crop ", {"auto", "none", "activation", "crp", "boxes"}),
        ("semlens effect r18.semlens --with m", {"mean"}),
        ("semlens db v", {"verify"}),
        ("semlens db ex", {"extend", "export"}),
        ("semlens labels evaluate r18.semlens --me", {"--method", "--methods"}),
        ("semlens audit r18", set()),  # file names: the shell completes them by itself
    ],
)
def test_options_and_choices_are_completed(line, expected):
    assert set(completed(line)) == expected
