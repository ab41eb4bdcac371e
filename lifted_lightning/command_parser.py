"""The parser of the commands that need none of Lightning's: a mistake is one line."""

import argparse
from typing import NoReturn

from lifted_lightning.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are the user's: one line, without the usage, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
