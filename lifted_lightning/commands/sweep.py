"""`lifted sweep FILE`: runs what is missing of a sweep, and shows how it goes."""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError
from lifted_lightning.runs.settings import metric_names, slug
from lifted_lightning.sweep.driver import Driver
from lifted_lightning.sweep.plan import Sweep, read_sweep
from lifted_lightning.sweep.pool import Pool
from lifted_lightning.sweep.search import Search
from lifted_lightning.sweep.trials import Trial, earlier_values, make_trial, ordered_arguments

CHECKED = 40  # trials of a grid that are all checked before it starts; of a larger one, each value once


def parser() -> argparse.ArgumentParser:
    """The options of `lifted sweep`."""
    result = CommandParser(
        prog="lifted sweep",
        description="Run the trials of a W&B sweep file that have no result yet; the run folders say which.",
    )
    result.add_argument("file", type=Path, metavar="FILE", help="a W&B sweep configuration")
    result.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where run folders are made")
    result.add_argument("--cpus-per-trial", type=float, default=1.0, help="CPU cores, and threads, of a trial")
    result.add_argument(
        "--gpus-per-trial",
        type=float,
        help="GPUs of a trial; 0.5 puts two trials on one GPU; by default 1 where there are any",
    )
    result.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS"), help="of a Ray cluster; by default RAY_ADDRESS"
    )
    result.add_argument("--retries", type=int, default=1, help="times that a failed trial is run again")
    result.add_argument("--dry-run", action="store_true", help="list the trials, and run none")
    return result


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code: 0 if every trial is done."""
    options = parser().parse_args(arguments)
    if options.cpus_per_trial < 0 or (options.gpus_per_trial or 0) < 0 or options.retries < 0:
        raise UserError("--cpus-per-trial, --gpus-per-trial and --retries: give numbers of at least 0")
    sweep = read_sweep(options.file)
    parent = options.runs_dir.absolute() / slug(sweep.name)
    if sweep.method == "grid":
        trials = list({t.digest: t for t in (make_trial(sweep, v, parent) for v in sweep.grid())}.values())
        trials = trials[: sweep.run_cap]
    else:
        trials = [make_trial(sweep, values, parent) for values in earlier_values(sweep, parent)]
    missing = [trial for trial in trials if trial.state in ("missing", "begun")]
    wanted = len(trials) if sweep.method == "grid" else sweep.run_cap or 0
    if missing or len(trials) < wanted:
        check_arguments(sweep, missing)
    if options.dry_run:
        show_trials(sweep, trials)
        return 0
    if not missing and len(trials) >= wanted:
        print(f"{sweep.name}: all {len(trials)} trials are done; next: lifted report {show(parent)}")
        return 0
    # Ray has a handler of its own, so ours comes after it.
    with (
        Pool(options.address, options.cpus_per_trial, options.gpus_per_trial) as pool,
        interrupted_by_sigterm(),
    ):
        search = Search(sweep, [trial.values for trial in trials])
        failed = Driver(sweep, search, pool, parent, options.retries, wanted).run()
    if not failed:
        print(f"next: lifted report {show(parent)}")
    return 1 if failed else 0


def check_arguments(sweep: Sweep, missing: list[Trial]) -> None:
    """Parse the trials' arguments as `lifted fit` will, and find the metric among what it logs.

    Raises:
        UserError: for the first that it would not take.
    """
    from lifted_lightning.commands.fit import parse

    if sweep.method == "grid" and len(missing) <= CHECKED:
        lines = [list(trial.arguments) for trial in missing]
    else:
        lines = [[*sweep.fixed, *ordered_arguments(values)] for values in sweep.examples()]
    for line in lines:
        try:
            config = parse("fit", line)
        except UserError as error:
            raise UserError(f"{sweep.path}: {error} (lifted fit {' '.join(line)})") from error
        check_metric(sweep, config["evaluation"]["ks"], tested=config["test"])


def check_metric(sweep: Sweep, ks: Sequence[int], tested: bool) -> None:
    """Whether runs with these K of Recall@K log the sweep's metric at validation, or in the test.

    Raises:
        UserError: if they do not.
    """
    logged = [f"validation/{name}" for name in metric_names(ks, clustering=False)]
    logged += [f"test/{name}" for name in metric_names(ks, clustering=True)] if tested else []
    if sweep.metric is not None and sweep.metric not in logged:
        raise UserError(f"{sweep.path}: metric.name {sweep.metric}: no run logs it; give one of {', '.join(logged)}")


def show_trials(sweep: Sweep, trials: list[Trial]) -> None:
    """List the trials: state, folder, and command."""
    for trial in trials:
        print(f"{trial.state:<8} {show(trial.folder)}\n         lifted fit {' '.join(trial.arguments)}")
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    more = (sweep.run_cap or 0) - len(trials) if sweep.method != "grid" else 0
    drawn = f"{more} more will be drawn from {', '.join(sweep.parameters)}" if more > 0 else ""
    print(f"{sweep.name}: " + "; ".join(part for part in (counts, drawn) if part))


def show(path: Path) -> str:
    """A path as one would type it here."""
    return os.path.relpath(path)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within it, SIGTERM is as Ctrl-C: the trials save their checkpoints and end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
