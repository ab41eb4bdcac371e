"""The parser of the commands that need none of Lightning's: a mistake is one line."""

import argparse
import difflib
import re
from typing import NoReturn

from lifted_lightning.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are the user's: one line, without the usage, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        near = difflib.get_close_matches(unknown[1], sorted(self._known()), n=1) if unknown else []
        raise UserError(f"{message}; " + (f"did you mean {near[0]}?" if near else f"see {self.prog} --help"))

    def _known(self) -> set[str]:
        """The options of this parser and of its subcommands."""
        known = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known = known.union(*(sub._option_string_actions for sub in action.choices.values()))
        return known
