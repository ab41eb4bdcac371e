"""The error that is meant for a person: one line that names the thing and the remedy."""

import re
from collections.abc import Iterable, Sequence

# Control characters, by which a name could steer a terminal or end a line; and halves of what was no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake in what the user gave (a file, a value, an option).

    Its message is one line that names the file or the value and says what to do. The command line prints
    that line without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a dead process): one line, exit code 1."""


def one_line(error: object, longest: int = 200) -> str:
    """What an error says, or a text, as one line of so many characters at most; its kind where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def counted(number: int, things: str) -> str:
    """``1 class``, ``2 classes``; given as it stands in the singular."""
    return f"{number:,} {things}" + ("" if number == 1 else "es" if things.endswith("s") else "s")


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in one line, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def harmless(text: str) -> str:
    """A text that came with data, with a sign in the place of each character that a terminal might obey."""
    return UNPRINTABLE.sub("\ufffd", text)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """The remedy for a name that is unknown: the known one that is most like it, or else another line.

    Where no name is like the whole of it, dotted ones are compared by their last parts.
    """
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.65)
    if not close:
        parts = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        close = [parts[p] for p in get_close_matches(name.rsplit(".", 1)[-1], parts, n=1, cutoff=0.65)]
    return f"did you mean {prefix}{close[0]}?" if close else otherwise
