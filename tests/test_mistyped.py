"""Options that do not exist: what is suggested, and that nothing far-fetched is."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from semlens.cli.app import app
from semlens.cli.mistyped import suggestions

KNOWN = ["--target", "--layers", "--labels", "--top", "--concepts", "--save", "--without"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--class", ["--target"]),
        ("--clas", ["--target"]),
        ("--layer", ["--layers"]),
        ("--layres", ["--layers"]),
        ("--concept", ["--concepts"]),
        ("--vocabulary", ["--concepts"]),
        ("--output", ["--save"]),
        ("--k", ["--top"]),
        ("--exclude", ["--without"]),
        ("--xyz", []),
    ],
)
def test_what_was_probably_meant(typed, meant):
    assert suggestions(typed, KNOWN) == meant


def test_the_name_of_another_command_is_not_suggested():
    assert suggestions("--class", ["--classes", "--layers"]) == ["--classes"]
    assert suggestions("--class", ["--layers", "--labels"]) == []


def test_the_command_line_says_it():
    found = CliRunner().invoke(app, ["audit", "db", "--class", "ox"])
    assert found.exit_code == 2
    assert "--target" in found.output and "--layers" not in found.output
