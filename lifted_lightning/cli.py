"""The `lifted` command: it finds the subcommand before anything heavy is imported."""

import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence

from lifted_lightning.errors import did_you_mean

TRAINER = {
    "fit": "train an embedding and evaluate it once on the test classes",
    "validate": "evaluate a checkpoint on the validation classes",
    "test": "evaluate a checkpoint on the test classes",
    "predict": "write the embeddings of the test classes",
}
OWN = {  # and the module that runs it
    "init": ("write a folder to start in: recipes, sweeps, examples of your own", "commands.init"),
    "sweep": ("run an ablation's trials side by side, on this machine or a cluster", "commands.sweep"),
    "report": (
        "compare finished runs: tables with intervals over seeds, figures, one page",
        "commands.report",
    ),
    "dashboard": ("save a W&B workspace that compares a project's runs", "commands.dashboard"),
    "data": ("list, prepare and verify data sets", "commands.data"),
    "embed": ("embed images with a checkpoint, into a file to search", "commands.embed"),
    "search": ("find the images of such a file that are nearest to others", "commands.search"),
    "check": ("check a loss, network, sampler, data set or augmentation of one's own", "commands.check"),
}


def usage() -> str:
    """The help of `lifted` itself: one line a subcommand."""
    texts = TRAINER | {name: text for name, (text, _) in OWN.items()}
    lines = ["usage: lifted COMMAND [--help] [options]", "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in texts.items()]
    lines += ["", "start:  lifted init my-project && cd my-project   (a clone has it all)"]
    lines += ["        lifted fit --config experiments/quickstart.yaml"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. ``--debug`` shows the traceback of an error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from lifted_lightning import __version__

        print(__version__)
        return 0
    if debug:
        os.environ["LIFTED_DEBUG"] = "1"  # for the other ranks
    try:
        code = _dispatch(arguments[0], arguments[1:])
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, SystemExit) as error:
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise  # else it is Lightning's, outside of training, with code 1
        then = "; the same command goes on" if arguments[0] == "sweep" else ""
        print(f"\nlifted {arguments[0]}: interrupted{then}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        if os.environ.get("LIFTED_DEBUG"):
            raise
        from lifted_lightning import processes

        return processes.report(arguments[0], error)


def _dispatch(command: str, arguments: list[str]) -> int:
    if command in TRAINER:
        from lifted_lightning import processes

        processes.stay_together()
        from lifted_lightning.commands.fit import run

        return run(command, arguments)
    if command in OWN:
        module = importlib.import_module(f"lifted_lightning.{OWN[command][1]}")
        return int(module.run(arguments))
    hint = did_you_mean(command, [*TRAINER, *OWN], "see lifted --help")
    print(f"lifted: no command {command!r}; {hint}", file=sys.stderr)
    return 2


def _nobody_reads() -> bool:
    """Whether standard output was closed, as by ``| head``; if so what is left of it goes nowhere, also at exit."""
    output = select.poll()
    output.register(sys.stdout, 0)  # an error is told without being asked for
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
