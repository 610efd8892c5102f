"""The documentation says what the program does: commands, options, columns, errors, sets."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from conftest import ColourEmbedder

import semlens
from semlens import errors
from semlens.cli.app import EVERYDAY, FIRST, app
from semlens.data.image_folder import ImageFolder
from semlens.lenses.concepts import ConceptSet, bundled_names
from semlens.models.subject import SubjectModel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
PAGES = [*(ROOT / name for name in TOP), *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
ROOT_COMMAND: Any = typer.main.get_command(app)
_CONTEXT = typer.Context(ROOT_COMMAND)


def commands_below(group: Any, words: str = "") -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {}
    for name in group.list_commands(_CONTEXT):
        command = group.get_command(_CONTEXT, name)
        if hasattr(command, "list_commands"):
            found |= commands_below(command, f"{name} ")
        else:
            found[words + name] = command
    return found


COMMANDS = commands_below(ROOT_COMMAND)
NOUNS = {words.split()[0] for words in COMMANDS if " " in words}


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def sections(text: str) -> dict[str, str]:
    """Text below each second-level heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip((p.strip() for p in parts[1::2]), parts[2::2], strict=True))


def options(command: Any) -> set[str]:
    """Option names of a command without --help."""
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help"}


def mentioned(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def command_lines(text: str) -> list[list[str]]:
    """Every 'semlens ...' of the fenced blocks without a language, as words."""
    found: list[list[str]] = []
    for language, body in FENCE.findall(text):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in body.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.removeprefix("$ "), comments=True)
                if words[:1] == ["semlens"]:
                    found.append(words)
    return found


def test_the_top_level_is_small_and_starts_with_the_everyday_commands() -> None:
    names = ROOT_COMMAND.list_commands(_CONTEXT)
    assert names[: len(EVERYDAY)] == list(EVERYDAY)
    assert len(names) <= 30
    listed = [ROOT_COMMAND.get_command(_CONTEXT, name) for name in names]
    assert {command.rich_help_panel for command in listed[: len(EVERYDAY)]} == {FIRST}
    assert not any(command.hidden for command in listed)


def test_every_command_has_a_heading_and_no_other() -> None:
    titles = {title for title in sections(page("cli.md")) if title.startswith("semlens")}
    assert titles == {"semlens", *(f"semlens {name}" for name in COMMANDS)}


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_options_of_a_command_are_documented_and_exist(name: str) -> None:
    text = sections(page("cli.md"))[f"semlens {name}".strip()]
    assert mentioned(text) == options(COMMANDS[name] if name else ROOT_COMMAND)


def test_what_is_generated_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import generate

    for path, text in generate.files().items():
        assert path.read_text("utf-8") == text, "run docs/generate.py"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_command_lines_parse(path: Path) -> None:
    for words in command_lines(path.read_text("utf-8")):
        if words[1].startswith("-"):
            assert words[1] in options(ROOT_COMMAND) | {"--help"}, words
            continue
        end = 3 if words[1] in NOUNS else 2
        name = " ".join(words[1:end])
        assert name in {*COMMANDS, *NOUNS}, words
        if "--help" in words:
            continue
        # parses values and types too, and runs nothing
        COMMANDS[name].make_context(name, words[end:])


def test_the_parser_of_this_test_can_fail() -> None:
    words = command_lines("```\nsemlens search db --no-such-option 3\n```\n")[0]
    with pytest.raises(Exception, match="no-such-option"):
        COMMANDS["search"].make_context("search", words[2:])


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_inline_options_exist(path: Path) -> None:
    known = set().union(options(ROOT_COMMAND), *(options(c) for c in COMMANDS.values()), {"--help"})
    for code in re.findall(r"`([^`]+)`", FENCE.sub("", path.read_text("utf-8"))):
        if code.startswith(("semlens", "--")):
            assert mentioned(code) <= known, code


ERRORS = [
    name
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.SemlensError)
]


def test_every_error_has_a_section() -> None:
    assert set(sections(page("errors.md"))) == set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_error_sections_say_symptom_cause_and_fix(name: str) -> None:
    text = sections(page("errors.md"))[name]
    for part in ("Symptom", "Cause", "Fix"):
        assert re.search(rf"^\*\*{part}\.\*\* \S", text, re.M), part


@pytest.mark.parametrize("name", semlens.__all__)
def test_public_names_are_documented(name: str) -> None:
    text = page("python.md")
    assert re.search(rf"^\| `{name}[`(]", text, re.M), "no row in a table"


def test_public_names_are_in_the_reference_once() -> None:
    text = "".join(path.read_text("utf-8") for path in DOCS.glob("reference-*.md"))
    assert sorted(re.findall(r"^::: semlens\.(\w+)$", text, re.M)) == sorted(semlens.__all__)


def test_columns_of_a_database_are_documented(
    tmp_path: Path, subject: SubjectModel, images: ImageFolder, embedder: ColourEmbedder
) -> None:
    path = tmp_path / "tiny.semlens"
    semlens.build(path, subject, images, embedder, ["first"], examples=3, relevance=True)
    described = sections(page("database.md"))
    for file, title in {
        "components.parquet": "components.parquet",
        "samples.parquet": "samples.parquet",
        "examples/first.parquet": "examples/LAYER.parquet",
        "thumbnails/0000.parquet": "thumbnails/NNNN.parquet",
        "relevance/first.parquet": "relevance/LAYER.parquet",
        "relevance.parquet": "relevance.parquet",
    }.items():
        rows = re.findall(r"^\| `(\w+)` \| ([\w\[\]]+)", described[title], re.M)
        written = {"double": "float64", "float": "float32"}
        real = [
            (field.name, "int32[4]")
            if field.name == "box"
            else (field.name, written.get(str(field.type), str(field.type)))
            for field in pq.read_schema(path / file)
        ]
        assert rows == real, file
    manifest = semlens.open(path, embedder=embedder).manifest
    keys = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\|([^|]+)\|", described["manifest.json"], re.M))
    )
    assert keys == list(type(manifest).model_fields)


def test_bundled_sets_are_listed_with_their_counts() -> None:
    rows = re.findall(r"^\| `([\w/-]+)` \| (\d+) \|", page("concept-sets.md"), re.M)
    assert {name: int(count) for name, count in rows} == {
        name: len(ConceptSet.load(name)) for name in bundled_names()
    }
    assert len(rows) == len(bundled_names())


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_resolve_and_images_are_ours(path: Path) -> None:
    text = FENCE.sub("", path.read_text("utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    for mark, target in re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)[^)]*\)", text):
        if re.match(r"\w+:", target):
            assert not mark, f"an image on another host: {target}"
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        if path.parent == DOCS:
            assert there.resolve().is_relative_to(DOCS), f"{target} leaves the site"
        if anchor:
            assert anchor in anchors(there.read_text("utf-8")), target
    assert "<img" not in text


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_lines_are_short(path: Path) -> None:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        generated = path.name == "cli.md" and line.startswith("| `--")
        assert len(line) <= 110 or generated, f"{path.name}:{number}"


def test_the_readme_is_short_and_has_both_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    blocks = [body.strip() for _, body in FENCE.findall(text)]
    assert "pip install . && semlens demo" in blocks
    assert "pip install '.[test]' && pytest" in blocks


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_python_blocks_compile(path: Path) -> None:
    for language, body in FENCE.findall(path.read_text("utf-8")):
        if language == "python":
            compile(body, path.name, "exec")


def test_python_blocks_use_public_names_only() -> None:
    for path in PAGES:
        for language, body in FENCE.findall(path.read_text("utf-8")):
            if language == "python":
                assert set(re.findall(r"\bsl\.(\w+)", body)) <= set(semlens.__all__), path.name


def test_packages_stand_in_the_order_that_import_linter_checks() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = [name.removesuffix("/") for name in table_names("package")]
    assert packages == [str(layer) for layer in reversed(layers)]


def table_names(title: str) -> list[str]:
    """Return the names in the first column of the table of packages with this title."""
    section = sections(page("architecture.md"))["Packages"]
    table = section.partition(f"| {title} | holds |\n")[2].partition("\n\n")[0]
    return [
        name for row in table.splitlines() for name in re.findall(r"`(\w+/?)`", row.split("|")[1])
    ]


def test_the_tables_of_the_architecture_are_the_folders() -> None:
    for title, folder in (("package", "semlens"), ("in `lenses/`", "semlens/lenses")):
        found = {
            f"{path.name}/" if path.is_dir() else path.stem
            for path in (ROOT / "src" / folder).iterdir()
            if (path.suffix == ".py" or (path / "__init__.py").is_file()) and path.stem[0] != "_"
        }
        assert sorted(table_names(title)) == sorted(found - {"version"}), title


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(file.name for file in DOCS.glob("*.md"))


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    assert (tmp_path / "site" / "index.html").is_file()
