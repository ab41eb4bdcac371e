"""From the parser's and the libraries' errors to one line that a person can act upon."""

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from lifted_lightning.errors import UserError


def shorten(message: str, parser: Any) -> str:
    """One line for an error of the command line's parser, with the nearest known name."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", text) or re.search(r"Key '([^']+)' is not expected", text)
    unknown = unknown or re.search(r"[Oo]ption '([^']+)' is not accepted", text)
    if unknown:
        return unknown_option(unknown[1], text, parser)
    missing_class = re.search(r"Expected a dot import path string: (\S+)", text)
    if missing_class:
        return unknown_class(missing_class[1], text)
    return " ".join(text.split())[:600]


def unknown_option(option: str, text: str, parser: Any) -> str:
    """The message for an option that does not exist."""
    name = option.split("=", 1)[0].lstrip("-")
    known = sorted({a.dest for a in parser._actions if a.dest not in ("help", "config")})
    return f"no option --{name}{nearest(name, known, '--')}; see lifted fit --help" + f" [{text[:0]}]".strip(" []")


def nearest(name: str, known: list[str], prefix: str = "") -> str:
    """A hint at the nearest of the known names, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {prefix}{close[0]}?" if close else ""


def unknown_class(name: str, text: str) -> str:
    return name


def module_class(arguments: list[str]) -> tuple[list[str], Any]:
    from lifted_lightning.module import EmbeddingModule

    return arguments, EmbeddingModule


def explain(error: Exception) -> UserError | None:
    return None
