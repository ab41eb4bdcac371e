"""What else moves a result: one change at a time to the recipes of two losses, on validation classes.

    python -m experiments.checks.recipes --folder runs/recipes

A run is as the trials of `experiments/sweeps/tune/cars196_*.yaml`: 400 steps on three of four folds of Cars-196's
training models, validated once, on the fourth; two minutes on a CPU core. Three seeds of each change, and of the recipe
as it stands. The same command goes on where it stopped, and ends with the report.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.sweeps.reality_check.__main__ import run_all
from lifted_lightning import processes
from lifted_lightning.cli import main as lifted
from lifted_lightning.commands.sweep import check_folder
from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import Parameter, read_sweep
from lifted_lightning.sweep.trials import Trial, Trials

TUNE = Path(__file__).parents[1] / "sweeps" / "tune"
LOSSES = ("proxy_anchor", "contrastive_memory")  # the two best of cars196_long.yaml
SEEDS = (0, 1, 2)
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
ASKED = [
    *((loss, change) for loss in LOSSES for change in CHANGES),
    *(("lifted", name) for name in ("recipe", *LENGTHS)),
]


def trials_of(loss: str, change: str, folder: Path) -> list[Trial]:
    """The runs of a loss with a change to its recipe, one a seed."""
    sweep = read_sweep(TUNE / f"cars196_{loss}.yaml")
    seeds = {"seed_everything": Parameter("values", SEEDS)}
    fixed = (*sweep.fixed, *(CHANGES | LENGTHS)[change])
    sweep = replace(sweep, method="grid", run_cap=None, parameters=seeds, fixed=fixed)
    trials = Trials(sweep, folder.absolute() / f"{loss}-{change}".replace("_", "-"))
    return [trials.of(values) for values in sweep.grid()]


def main(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code: 0 if every run is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where run folders and the report are made")
    folder = parser.parse_args(arguments).folder
    check_folder(folder.absolute(), f"--folder {folder}")
    seeds = zip(*(trials_of(loss, change, folder) for loss, change in ASKED), strict=True)
    runs = [run for runs in seeds for run in runs]  # seed by seed, so that a part of them has every change as often
    resources = argparse.Namespace(cpus_per_trial=1.0, gpus_per_trial=None, address=None)
    if run_all(runs, read_sweep(TUNE / f"cars196_{LOSSES[0]}.yaml"), "recipes", resources):
        print("the same command runs again what failed")
        return 1
    return lifted(["report", *sorted({str(run.folder.parent) for run in runs}), f"--out={folder / 'report'}"])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("recipes: interrupted; the same command goes on")
    except UserError as error:
        sys.exit(processes.report("recipes", error))
