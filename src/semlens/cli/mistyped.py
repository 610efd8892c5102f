"""Options and commands that do not exist: what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand

MEANT = {
    "class": ("target", "classes"),
    "category": ("target", "classes"),
    "n": ("top", "count"),
    "k": ("top", "count"),
    "number": ("top", "count"),
    "limit": ("top",),
    "out": ("save", "keep"),
    "output": ("save", "out"),
    "picture": ("image",),
    "data": ("images",),
    "vocabulary": ("concepts",),
    "words": ("concepts",),
    "exclude": ("without",),
    "not": ("without",),
    "lists": ("concepts",),
}
"""Words for what an option is called differently here; the first that a command has is meant."""
CLOSE = 0.75
"""Least similarity of two names, of 1, at which one is a misspelling of the other."""


def suggestions(option: str, known: Iterable[str]) -> list[str]:
    """Return the options that were probably meant by one that does not exist; maybe none."""
    name, names = option.lstrip("-").lower(), sorted({one.lstrip("-") for one in known})
    misspelled = get_close_matches(name, MEANT, n=1, cutoff=CLOSE)
    meant = [one for word in misspelled for one in MEANT[word] if one in names][:1]
    close = get_close_matches(name, names, n=2, cutoff=CLOSE)
    return [f"--{one}" for one in dict.fromkeys([*meant, *close])]


def meant_commands(typed: str, known: Iterable[str]) -> list[str]:
    """Return the commands that were probably meant: by their words, or the last of them."""
    last: dict[str, list[str]] = {}
    for words in known:
        for name in {words, *words.split()[1:], words.split()[-1].split("-")[-1]}:
            last.setdefault(name, []).append(words)
    close = get_close_matches(typed.lower(), last, n=2, cutoff=CLOSE)
    return list(dict.fromkeys(words for name in close for words in last[name]))[:3]


class Command(TyperCommand):
    """A command that suggests the option that was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command line."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # its class is private to typer
            if getattr(error, "possibilities", None) is not None:
                known = [
                    name
                    for parameter in self.params
                    for name in [*parameter.opts, *parameter.secondary_opts]
                    if name.startswith("--")
                ]
                vars(error)["possibilities"] = suggestions(vars(error)["option_name"], known)
            raise
