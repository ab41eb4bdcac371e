"""What else moves a result: one change at a time to the recipes of three losses, on validation classes.

    python -m experiments.checks.recipes --folder runs/recipes
    python -m experiments.checks.recipes --folder experiments/results/cars196_recipes --table

A run is as the trials of `experiments/sweeps/tune/cars196_*.yaml`: 400 steps on three of four folds of Cars-196's
training models, validated once, on the fourth; two minutes on a CPU core. Three seeds of each change, and of the recipe
as it stands. The same command goes on where it stopped, and ends with the table once all runs are there;
``--table`` makes it of those that are.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.sweeps.reality_check.__main__ import run_all
from lifted_lightning import processes
from lifted_lightning.commands.sweep import check_folder
from lifted_lightning.errors import UserError
from lifted_lightning.report.statistics import estimate, holm, t_test
from lifted_lightning.runs.folder import RESULT
from lifted_lightning.sweep.plan import Parameter, read_sweep
from lifted_lightning.sweep.trials import Trial, Trials, read_json

TUNE = Path(__file__).parents[1] / "sweeps" / "tune"
LOSSES = ("proxy_anchor", "contrastive_memory")  # the two best of cars196_long.yaml in Recall@1
SEEDS = (0, 1, 2)
METRICS = {"R@1": "recall@1", "MAP@R": "map@r"}
NETWORK = "--model.network.init_args."
CHANGES: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "warm-up": ("--model.freeze_trunk_steps=80",),  # a fifth of the run
    "averaged": ("--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.975"),  # of a tenth of the run
    "neighbours": ("--data.sampler.init_args.neighbours=0.5",),
    "size-64": (f"{NETWORK}embedding_size=64",),
    "size-128": (f"{NETWORK}embedding_size=128",),
    "gem": (f"{NETWORK}pooling=GeM",),
    "average-max": (f"{NETWORK}pooling=AverageMax",),
}
LENGTHS = {f"length-{length}": (f"{NETWORK}length={length}",) for length in (5, 10, 30)}  # the recipe has 15.5
ASKED = [  # in the order of running
    *((LOSSES[0], change) for change in CHANGES),
    *(("lifted", change) for change in ("recipe", *LENGTHS)),
    *((LOSSES[1], change) for change in CHANGES),
]


def trials_of(loss: str, change: str, folder: Path) -> list[Trial]:
    """The runs of a loss with a change to its recipe, one a seed."""
    sweep = read_sweep(TUNE / f"cars196_{loss}.yaml")
    seeds = {"seed_everything": Parameter("values", SEEDS)}
    fixed = (*sweep.fixed, *(CHANGES | LENGTHS)[change])
    sweep = replace(sweep, method="grid", run_cap=None, parameters=seeds, fixed=fixed)
    trials = Trials(sweep, folder_of(loss, change, folder.absolute()))
    return [trials.of(values) for values in sweep.grid()]


def folder_of(loss: str, change: str, folder: Path) -> Path:
    """Where the runs of a loss with a change to its recipe are."""
    return folder / f"{loss}-{change}".replace("_", "-")


def table(folder: Path) -> str:
    """What each change gives and what it differs from the recipe by, in percent, in Markdown.

    Differences are the mean and 95 % t-interval over the seeds that both have; bold where the paired t-test, corrected
    by Holm for the changes to a loss that are there, metric by metric, finds p < 0.05.

    Raises:
        UserError: if there is no run, or two of one seed, as when a recipe has changed since.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    for loss, change in ASKED:
        for path in sorted(folder_of(loss, change, folder).glob(f"*/{RESULT}")):
            result = read_json(path)
            key = loss, change, result["seed"]
            if key in found:
                raise UserError(
                    f"{path.parent.parent}: has two runs of seed {key[2]}; remove the one of an older recipe"
                )
            found[key] = [100 * result["validation"][metric] for metric in METRICS.values()]
    if not found:
        raise UserError(f"--folder {folder}: no run of this check is there")
    index = pd.MultiIndex.from_tuples(found, names=["loss", "change", "seed"])
    scores = pd.DataFrame(list(found.values()), index=index, columns=list(METRICS))
    lines = [
        "| loss | change | seeds | R@1 | MAP@R | R@1 − the recipe's | MAP@R − the recipe's |",
        "|:--|:--|--:" + 4 * "|--:" + "|",
    ]
    for loss, of in scores.groupby("loss", sort=False):
        of = of.droplevel("loss")
        names = list(dict.fromkeys(of.index.get_level_values("change")))
        recipe = of.xs("recipe", level="change") if "recipe" in names else of.iloc[:0].droplevel("change")
        changed = of[of.index.get_level_values("change") != "recipe"]
        plain, differences = estimate(of, "change"), estimate(changed - recipe, "change")
        p = t_test(differences).apply(lambda column: pd.Series(holm(column.to_numpy()), column.index))
        for change in names:
            cells = [f"{plain.mean.loc[change, metric]:.1f}" for metric in METRICS]
            for metric in METRICS:
                if change == "recipe" or not differences.n.loc[change, metric]:
                    cells.append("–")
                    continue
                mean, half = (part.loc[change, metric] for part in (differences.mean, differences.half))
                cell = f"{mean:+.1f}".replace("-", "−") + (f" ± {half:.1f}" if pd.notna(half) else "")
                cells.append(f"**{cell}**" if p.loc[change, metric] < 0.05 else cell)
            seeds = plain.n if change == "recipe" else differences.n
            lines.append(f"| {' | '.join([loss.replace('_', ' '), change, str(seeds.loc[change, 'R@1']), *cells])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code: 0 if every run is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where run folders are made")
    parser.add_argument("--table", action="store_true", help="of the runs that are there, and run none")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    if options.table:
        print(table(folder))
        return 0
    check_folder(folder.absolute(), f"--folder {folder}")
    runs = [run for loss, change in ASKED for run in trials_of(loss, change, folder)]
    resources = argparse.Namespace(cpus_per_trial=1.0, gpus_per_trial=None, address=None)
    if run_all(runs, read_sweep(TUNE / f"cars196_{LOSSES[0]}.yaml"), "recipes", resources):
        print("the same command runs again what failed")
        return 1
    print(table(folder))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("recipes: interrupted; the same command goes on")
    except UserError as error:
        sys.exit(processes.report("recipes", error))
