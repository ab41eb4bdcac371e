"""The error that is meant for a person: one line that names the thing and the remedy."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave (a file, a value, an option).

    Its message is one line that names the file or the value and says what to do. The command line prints
    that line without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a dead process): one line, exit code 1."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """The remedy for a name that is unknown: the known one that is most like it, or else another line."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else otherwise
