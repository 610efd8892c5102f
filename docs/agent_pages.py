"""Write what agents read: the list of tools in docs/agents.md, and docs/llms.txt."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from semlens.mcp.tool import Tool
from semlens.mcp.tools import tools

ROOT = Path(__file__).resolve().parents[1]
AGENTS = ROOT / "docs/agents.md"
LLMS = ROOT / "docs/llms.txt"
START, END = "<!-- tools -->\n", "<!-- end of tools -->\n"
WIDTH = 110


def agents_page(text: str) -> str:
    """Return docs/agents.md with the list of tools."""
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    shared = "\n".join(_item(*one, False) for one in _shared().items())
    sections = "\n".join(_section(tool) for tool in tools().values())
    return f"{head}{start}\nEvery tool takes:\n\n{shared}\n\n{sections}\n{end}{tail}"


def _shared() -> dict[str, Any]:
    """Return the arguments that all tools have."""
    first, *others = (tool.schema["properties"] for tool in tools().values())
    return {name: entry for name, entry in first.items() if all(name in one for one in others)}


def _section(tool: Tool) -> str:
    """Return the heading, the description and the arguments of a tool."""
    schema = tool.schema
    lines = [
        _item(name, entry, name in schema["required"])
        for name, entry in schema["properties"].items()
        if name not in _shared()
    ]
    return "\n".join([f"### {tool.name}\n", _fill(tool.description), "", *lines, ""])


def _item(name: str, entry: dict[str, Any], required: bool) -> str:
    default = entry.get("default")
    note = "required" if required else "" if default in (None, []) else f"`{json.dumps(default)}`"
    head = f"- `{name}`" + (f" ({note})" if note else "")
    return _fill(f"{head}: {entry['description']}", "  ")


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def llms(text: str) -> str:
    """Return docs/llms.txt with a line for each page of the navigation.

    A page that has no description yet gets the first sentence of its first paragraph.
    """
    head, _, _ = text.partition("\n## ")
    known = dict(re.findall(r"^- \[.+?\]\(([\w-]+\.md)\): (.+)$", text, re.M))
    parts = [head.rstrip() + "\n"]
    for line in (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2].splitlines():
        page, group = re.match(r"\s+- (.+): ([\w-]+\.md)$", line), re.match(r"( +)- (.+):$", line)
        if group:
            level = "##" if len(group[1]) == 2 else "###"  # a group in a group
            parts.append(f"\n{level} {group[2]}\n\n")
        elif page:
            title, file = page.groups()
            if len(parts) == 1:  # the home page stands before the groups
                parts.append("\n## Home\n\n")
            parts.append(f"- [{title}]({file}): {known.get(file) or _first_sentence(file)}\n")
        else:
            break
    return "".join(parts)


def _first_sentence(file: str) -> str:
    body = (ROOT / "docs" / file).read_text("utf-8").partition("\n")[2]
    paragraph = next(p for p in re.split(r"\n\s*\n", body) if p.strip()[:1].isalpha())
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(paragraph.split()))
    return re.split(r"(?<=[.?!]) ", text)[0]


def files() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        AGENTS: agents_page(AGENTS.read_text("utf-8")),
        LLMS: llms(LLMS.read_text("utf-8")),
    }
