"""The error that is meant for a person: one line that names the thing and the remedy."""


class UserError(Exception):
    """A mistake in what the user gave (a file, a value, an option).

    Its message is one line that names the file or the value and says what to do. The command line prints
    that line without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a dead process): one line, exit code 1."""
