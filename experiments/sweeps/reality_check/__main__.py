"""The protocol of *A Metric Learning Reality Check* (Musgrave, Belongie and Lim, ECCV 2020), in one command.

    python -m experiments.sweeps.reality_check --folder runs/reality_check

Each loss is a sweep file, which names its configuration, the ranges of its settings and the metric to choose by:

1. each loss is tuned with as many trials, each of them a run a fold, on the fold that it does not train on;
2. the trial that is the best in the mean over its folds is run again, with each fold, by other seeds;
3. the report looks at the test classes, for the first time: the models of a configuration one by one, and the folds'
   embeddings concatenated.

--trials and --repeats size it: as it stands 72 runs compare three losses on Omniglot, each of about 50 core-seconds, so
that two CPU cores need half an hour. The same command goes on where it stopped, and
with more repeats runs those that are missing: the run folders are its only state. Options of `lifted fit` go to all
runs (--trainer.max_steps=300).

    python -m experiments.sweeps.reality_check --folder runs/cars --losses experiments/sweeps/tune/cars196_*.yaml
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lifted_lightning import processes
from lifted_lightning.cli import main as lifted
from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.commands.sweep import check_arguments, check_folder, check_resources, run_on_ray
from lifted_lightning.errors import UserError
from lifted_lightning.runs.settings import slug
from lifted_lightning.sweep.driver import Progress
from lifted_lightning.sweep.plan import OWN, Parameter, Sweep, Values, read_sweep
from lifted_lightning.sweep.trials import Trial, Trials

TUNE = Path(__file__).parents[1] / "tune"
LOSSES = [TUNE / f"omniglot_{loss}.yaml" for loss in ("contrastive_linear", "triplet", "lifted")]
FOLD, SEED = "data.fold", "seed_everything"
DECIDED = (*OWN, "data.folds", FOLD, SEED, "data.validation_share", "test", "tuning_trials")  # by the protocol
BASES = (2, 3, 5, 7, 11, 13, 17, 19)  # of the points of a search, one a setting


@dataclass
class Queue:
    """Gives the trials that have not ended, one after the other."""

    trials: list[Trial]

    def __post_init__(self) -> None:
        self._left = iter([trial for trial in self.trials if not trial.ended])

    def next(self) -> Trial | None:
        return next(self._left, None)

    def tell(self, trial: Trial) -> None: ...

    def falls_behind(self, trial: Trial) -> bool:
        return False


def main(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code: 0 if every run is done."""
    options, overrides = parser().parse_known_args(arguments)
    check_resources(options.cpus_per_trial, options.gpus_per_trial)
    if min(options.trials, options.repeats, options.folds - 1) < 1:
        raise UserError("give --trials and --repeats of at least 1, and --folds of at least 2")
    losses = [with_folds(path, options.folds, overrides) for path in options.losses]
    check_folder(options.folder.absolute(), f"--folder {options.folder}")
    if len({sweep.name for sweep in losses}) < len(losses) or len({(s.metric, s.maximize) for s in losses}) > 1:
        raise UserError("--losses: give sweep files of different names, which choose by one metric")
    folds = range(options.folds)

    tuning = {}  # by loss: the runs of each trial, one a fold
    for sweep in losses:
        trials = Trials(sweep, options.folder.absolute() / slug(f"tune-{sweep.name}"))
        points = search_points(sweep.parameters, options.trials)
        tuning[sweep.name] = [[trials.of(point | {FOLD: fold}) for fold in folds] for point in points]
    run_all([run for trials in tuning.values() for runs in trials for run in runs], losses[0], "tuning", options)

    finals = []
    for sweep in losses:
        chosen = best(sweep, tuning[sweep.name])
        fixed = {name: Parameter("values", (value,)) for name, value in chosen.items()}
        swept = {FOLD: Parameter("values", tuple(folds)), SEED: Parameter("values", range(1, options.repeats + 1))}
        tried = f"--tuning_trials={len(tuning[sweep.name])}"
        final = replace(sweep, fixed=(*sweep.fixed, tried), parameters=fixed | swept)
        trials = Trials(final, options.folder.absolute() / slug(f"final-{sweep.name}"))
        finals += [trials.of(values) for values in final.grid()]
    if run_all(finals, losses[0], "repeats", options):
        print("the same command runs again what failed")
        return 1
    report = ["report", *(str(run.folder) for run in finals), "--ensemble", f"--out={options.folder / 'report'}"]
    return lifted(report)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = CommandParser(
        prog="python -m experiments.sweeps.reality_check",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        allow_abbrev=False,
    )
    result.add_argument("--folder", type=Path, required=True, help="where run folders and the report are made")
    result.add_argument("--losses", type=Path, nargs="+", default=LOSSES, metavar="FILE", help="a sweep file a loss")
    for name, default, text in (
        ("trials", 4, "settings that are tried of each loss"),
        ("repeats", 2, "seeds of each fold that the best settings are run with"),
        ("folds", 4, "class-disjoint parts of the training classes"),
    ):
        result.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    result.add_argument("--cpus-per-trial", type=float, default=1.0, help="as of `lifted sweep`")
    result.add_argument("--gpus-per-trial", type=float, help="as of `lifted sweep`")
    result.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="as of `lifted sweep`")
    return result


def with_folds(path: Path, folds: int, overrides: list[str]) -> Sweep:
    """A loss's sweep, its trials with folds and seeds, and without a look at the test classes.

    Raises:
        UserError: for an option that the protocol or the search decides, or that `lifted fit` does not take.
    """
    sweep = read_sweep(path)
    if sweep.metric is None or not sweep.metric.startswith("validation/"):
        raise UserError(f"{path}: metric: give a metric of the validation to choose by, for instance validation/map@r")
    if len(sweep.parameters) > len(BASES):
        raise UserError(f"{path}: parameters: give at most {len(BASES)}")
    searched = [name.replace(".init_args.", ".") for name in sweep.parameters]
    options = [word for word in overrides if word.startswith("-")]  # and not their values
    given = [word.lstrip("-").split("=")[0].replace(".init_args.", ".") for word in options]
    if wrong := [name for name in (*searched, *given) if name in DECIDED or (name in searched and name in given)]:
        raise UserError(f"{path}: {wrong[0]}: is decided by the protocol or its search; leave it out")
    if "--config" in overrides or "-c" in overrides:
        raise UserError("--config: give --config=FILE, in one word")
    fixed = (*sweep.fixed, *overrides, f"--data.folds={folds}", "--data.validation_share=null", "--test=false")
    sweep = replace(sweep, name=sweep.name.removeprefix("tune_"), method="random", fixed=fixed, halving=None)
    check_arguments(sweep, [])
    folded = {FOLD: Parameter("values", tuple(range(folds))), SEED: Parameter("values", (0,))}
    return replace(sweep, parameters=sweep.parameters | folded)


def search_points(parameters: dict[str, Parameter], count: int) -> list[Values]:
    """So many points of the ranges, or all if there are fewer, spread evenly: a Halton sequence, each point once.

    More points begin with the same ones.
    """
    searched = {name: p for name, p in parameters.items() if name not in (FOLD, SEED)}
    bases = dict(zip(searched, BASES, strict=False))
    points: dict[str, Values] = {}
    for number in range(1, 100 * count):  # few values give the same points again, which are no trials
        point = {name: value_at(p, radical_inverse(number, bases[name])) for name, p in searched.items()} | {SEED: 0}
        points.setdefault(repr(point), point)
    return list(points.values())[:count]


def radical_inverse(number: int, base: int) -> float:
    """The digits of a whole number behind the point, in reverse order, in [0, 1)."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


def value_at(parameter: Parameter, share: float) -> Any:
    """What lies at this share of a parameter's range, in [0, 1)."""
    low, high = parameter.low, parameter.high
    if parameter.kind == "values":
        return parameter.values[int(share * len(parameter.values))]
    if parameter.kind == "int":
        return int(low + share * (high - low + 1))
    if parameter.step:
        steps = int((high - low) / parameter.step + 1e-9)
        return round(low + int(share * (steps + 1)) * parameter.step, 12)
    return float(f"{low * (high / low) ** share if parameter.log else low + share * (high - low):.4g}")


def best(sweep: Sweep, trials: list[list[Trial]]) -> Values:
    """The settings of the trial that is the best in the mean over its folds, told beside the others.

    Raises:
        UserError: if no trial has a score in every fold.
    """
    found = []
    for runs in trials:
        scores = [score for run in runs if (score := run.score(sweep.metric)) is not None]
        if len(scores) < len(runs):
            print(f"{sweep.name}: {runs[0].folder.name}: failed in {len(runs) - len(scores)} folds, and is not chosen")
        else:
            found.append((fmean(scores), runs[0].values))
    if not found:
        raise UserError(f"{sweep.name}: every trial failed in some fold; see log.txt in {trials[0][0].folder.parent}")
    score, values = (max if sweep.maximize else min)(found, key=lambda item: item[0])
    values = {name: value for name, value in values.items() if name not in (FOLD, SEED)}
    told = ", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in values.items())
    others = ", ".join(f"{other:.4f}" for other, _ in found)
    print(f"{sweep.name}: {told}: {sweep.metric} {score:.4f} in the mean over folds, the best of {others}")
    return values


def run_all(runs: list[Trial], sweep: Sweep, name: str, options: argparse.Namespace) -> list[Trial]:
    """Run what has not ended of these, side by side, and give those that failed."""
    ended = [run for run in runs if run.ended]
    print(f"{name}: {len(runs)} runs, of which {len(ended)} are there")
    progress = Progress(replace(sweep, name=name), ended, len(runs))
    if len(ended) < len(runs):
        run_on_ray(Queue(runs), progress, options.cpus_per_trial, options.gpus_per_trial, options.address)
    return progress.failed


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("reality_check: interrupted; the same command goes on")
    except UserError as error:
        sys.exit(processes.report("reality_check", error))
