"""What arguments of `lifted fit | validate | test | predict` come to, without running anything."""

import os
import sys
from typing import Any

from lifted_lightning.arguments import own_module
from lifted_lightning.lightning_cli import LiftedCLI, quiet
from lifted_lightning.short_names import set_up_parsing


class _Parsing(LiftedCLI):
    """Parses, and stops there."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse(command: str, arguments: list[str]) -> dict[str, Any]:
    """The complete configuration that these arguments give, as plain dictionaries; nothing is run.

    Raises:
        UserError: if the command would not take them.
    """
    argv, path = sys.argv, sys.path[:]
    sys.path.insert(0, os.getcwd())
    quiet()
    set_up_parsing()
    try:
        arguments, module = own_module(arguments)
        sys.argv = [argv[0], command, *arguments]
        config: dict[str, Any] = _Parsing(command, module).config[command].as_dict()
    finally:
        sys.argv, sys.path = argv, path
    return config
