"""`lifted sweep FILE`: runs what is missing of a sweep, and shows how it goes."""

import argparse
import math
import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lifted_lightning import processes
from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError, counted
from lifted_lightning.runs.settings import metric_names, slug
from lifted_lightning.sweep.driver import Pool, Progress, run_trials, start_ray
from lifted_lightning.sweep.plan import Sweep, read_sweep
from lifted_lightning.sweep.process import fit_arguments, held
from lifted_lightning.sweep.trials import BEST, Trial, Trials, ordered_arguments, write_best

if TYPE_CHECKING:
    from lifted_lightning.sweep.search import Search

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
    alone = "run the K-th trial alone, from 0, to its end, in this process, without Ray: a job array is a sweep"
    result.add_argument("--task", type=int, metavar="K", help=alone)
    result.add_argument("--dry-run", action="store_true", help="list the trials, and run none")
    return result


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code: 0 if every trial is done."""
    options = parser().parse_args(arguments)
    cpus = options.cpus_per_trial
    check_resources(cpus, options.gpus_per_trial, options.retries)
    if options.task is not None and (cpus, options.gpus_per_trial, options.retries) != (1.0, None, 1):
        raise UserError("--task: leave out --cpus-per-trial, --gpus-per-trial and --retries: it takes what there is")
    sweep = read_sweep(options.file)
    parent = options.runs_dir.absolute() / slug(sweep.name)
    trials = Trials(sweep, parent)
    if sweep.method == "grid":  # a configuration with two names is one trial
        there = list({t.digest: t for t in map(trials.of, sweep.grid())}.values())[: sweep.run_cap]
    else:
        there = trials.earlier()
    if options.task is not None:
        there = [numbered(options.task, sweep, trials, there)]
    missing = [trial for trial in there if not trial.ended]
    total = len(there) if sweep.method == "grid" or options.task is not None else sweep.run_cap or 0
    if missing or len(there) < total:
        check_arguments(sweep, missing)
    if options.dry_run:
        show_trials(sweep, there, total)
        return 0
    if not missing and len(there) >= total:
        tried = there if options.task is None else []
        print(f"{sweep.name}: {counted(len(there), 'trial')}, all done; {whats_next(sweep, tried, parent)}")
        return 0
    check_folder(parent, f"--runs_dir {options.runs_dir}")
    if options.task is not None:
        return run_here(there[0])
    from lifted_lightning.sweep.search import Search

    progress = Progress(sweep, [trial for trial in there if trial.ended], total)
    run_on_ray(Search(sweep, trials, there), progress, cpus, options.gpus_per_trial, options.address, options.retries)
    print(whats_next(sweep, progress.tried, parent))
    return 1 if progress.failed else 0


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that the first trial could not make; it is not made here."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"{option}: {place} is no folder that can be written to; give another")


def check_resources(cpus: float, gpus: float | None, retries: int = 1) -> None:
    """Refuse what no trial can be given."""
    gpus = gpus or 0.0
    if not (0 < cpus < math.inf and (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())) and retries >= 0):
        raise UserError("give --cpus-per-trial above 0, --gpus-per-trial from 0 to 1 or whole, --retries of at least 0")


def run_on_ray(
    search: "Search",
    progress: Progress,
    cpus: float = 1.0,
    gpus: float | None = None,
    address: str | None = None,
    retries: int = 1,
) -> None:
    """Run trials on Ray until there are no more, and print how it went.

    Args:
        search: gives the trials, and is told how each ended.
        progress: tells how they go.
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial; None for one where there are any.
        address: of a Ray cluster; None starts Ray here.
        retries: times that a failed trial is run again.
    """
    pool = Pool(start_ray(address), cpus, gpus)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has one of its own, so ours comes after it
    try:
        run_trials(search, pool, retries, progress)
    finally:
        pool.close()
        print(progress.summary())


def whats_next(sweep: Sweep, tried: list[Trial], parent: Path) -> str:
    """What to do with a sweep's trials; the settings of the best of a search are written into its folder."""
    best = None
    if sweep.method != "grid" and sweep.metric and sweep.metric.startswith("validation/"):
        best = write_best(sweep, tried, parent / BEST)
    settings = f"the best settings, to go on top of its files: --config={os.path.relpath(best)}; " if best else ""
    return f"{settings}next: lifted report {os.path.relpath(parent)}"


def numbered(number: int, sweep: Sweep, trials: Trials, grid: list[Trial]) -> Trial:
    """The trial of a number from 0: of a grid in its order, else in that in which a sweep begun anew draws them.

    Raises:
        UserError: if there is none.
    """
    there = grid
    if sweep.method == "bayes":
        raise UserError(f"--task {number}: {sweep.path} draws each trial by the results of others; leave out --task")
    if sweep.method == "random":
        from lifted_lightning.sweep.search import Search

        there = list(iter(Search(sweep, trials, []).next, None))
    if not 0 <= number < len(there):
        raise UserError(f"--task {number}: {sweep.path} has {counted(len(there), 'trial')}; give 0 to {len(there) - 1}")
    return there[number]


def run_here(trial: Trial) -> int:
    """Run a trial to its end in this process, which may be one of its ranks; rank zero makes the folder ready."""
    from pytorch_lightning.utilities import rank_zero_only

    from lifted_lightning.commands.fit import run as fit

    processes.stay_together()
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with held(trial) if first else nullcontext(not trial.ended) as left:
        return fit("fit", fit_arguments(trial, [])) if left else 0


def check_arguments(sweep: Sweep, missing: list[Trial]) -> None:
    """Parse the trials' arguments as `lifted fit` will, and find the sweep's metric among what it logs.

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
        ks = config["evaluation"]["ks"]
        logged = [f"validation/{name}" for name in metric_names(ks, clustering=False)]
        logged += [f"test/{name}" for name in metric_names(ks, clustering=True)] if config["test"] else []
        own = config["evaluation"]["metrics"]  # whose names a run finds by asking them
        if sweep.metric is not None and sweep.metric not in logged and not own:
            known = ", ".join(logged)
            raise UserError(f"{sweep.path}: metric.name {sweep.metric}: no run logs it; give one of {known}")


def show_trials(sweep: Sweep, trials: list[Trial], total: int) -> None:
    """List the trials, of so many: state, folder, and command."""
    for trial in trials:
        print(f"{trial.state:<8} {os.path.relpath(trial.folder)}\n         lifted fit {' '.join(trial.arguments)}")
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    more = total - len(trials)
    drawn = f"{more} more will be drawn from {', '.join(sweep.parameters)}" if more > 0 else ""
    print(f"{sweep.name}: " + "; ".join(part for part in (counts, drawn) if part))
