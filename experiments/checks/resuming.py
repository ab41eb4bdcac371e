"""Whether a run that was killed and goes on ends as the unbroken one: for every schedule, callback, loss and sampler.

python -m experiments.checks.resuming                    # the whole table
python -m experiments.checks.resuming --only OneCycle

Each row is a run of 30 steps in miniature, three epochs and a part of a fourth. It is ended by SIGKILL in the middle of
an epoch; or twice, during a validation and just after a checkpoint; or of two processes one is killed. What is compared
with the unbroken run, to the last bit: weights, optimiser, rates and schedule, the sampler's and the loss's state in
`last.ckpt` and `best.ckpt`; the rows that `read_metrics` gives of `metrics.csv`; `result.json`, but for times; and
which pictures of the test there are.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from lifted_lightning.callbacks.pictures import BackgroundPicture
from lifted_lightning.errors import one_line
from lifted_lightning.runs.folder import CHECKPOINTS, METRICS, PLOTS, RESULT
from tests.helpers import faults
from tests.helpers.lifted import lifted
from tests.training.test_resume import BASE, COMPARED, assert_same, load, rows

DRAW = BackgroundPicture.on_evaluation  # which the tests' processes leave out
Moment = tuple[str, int]
MOMENTS: dict[str, tuple[Sequence[Moment], int]] = {  # the events at which processes are killed, and how many they are
    "killed once": ([("step", 13)], 1),
    "killed twice": ([("validation", 2), ("renamed", 4)], 1),
    "two processes": ([("step", 13)], 2),
}
RANKS = (  # the rows in which the number of processes may matter
    "WarmupCosine", "ReduceLROnPlateau", "pictures", "baseline, k-means, tables", "EarlyStopping", "ModelCheckpoint",
    "EMAWeightAveraging", "freeze_trunk_steps", "accumulate_grad_batches", "batch normalisation", "ProxyAnchorLoss",
    "neighbours of difficult classes", "ReleasedPairs",
)  # fmt: skip
AFTER = 9.0  # seconds after which a rank whose peer was killed is ended too


# Schedules that the command line cannot write down: made of others, or of functions


class Lambda(lr_scheduler.LambdaLR):
    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, lambda step: 0.9**step)


class Multiplicative(lr_scheduler.MultiplicativeLR):
    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, lambda step: 0.95)


class Sequential(lr_scheduler.SequentialLR):
    def __init__(self, optimizer: Optimizer) -> None:
        parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10), lr_scheduler.CosineAnnealingLR(optimizer, 20)]
        super().__init__(optimizer, parts, [10])


class Chained(lr_scheduler.ChainedScheduler):
    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__([lr_scheduler.StepLR(optimizer, 9), lr_scheduler.ExponentialLR(optimizer, 0.97)], optimizer)


class Averaging(SWALR):
    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, 0.01, anneal_epochs=20)


HERE = "experiments.checks.resuming"
SCHEDULES = {
    "no schedule": None,
    "WarmupCosine": {},
    "StepLR": {"step_size": 7},
    "MultiStepLR": {"milestones": "[5,17]"},
    "ConstantLR": {"total_iters": 11},
    "LinearLR": {"total_iters": 20},
    "ExponentialLR": {"gamma": 0.95},
    "PolynomialLR": {"total_iters": 30},
    "CosineAnnealingLR": {"T_max": 30},
    "CosineAnnealingWarmRestarts": {"T_0": 8, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 6},
    "OneCycleLR": {"max_lr": 0.01, "total_steps": 30},
    "pytorch_lightning.cli.ReduceLROnPlateau": {"monitor": "validation/recall@1", "patience": 0, "mode": "min"},
    **{f"{HERE}.{name}": {} for name in ("Lambda", "Multiplicative", "Sequential", "Chained", "Averaging")},
}
PML = "pytorch_metric_learning.losses"
OTHERS: dict[str, list[str]] = {
    "pictures": ["--tsne.every_n=1", "--gallery.every_n=1", "--tsne.points=40"],
    "baseline, k-means, tables": ["--evaluation.baseline=true", "--evaluation.clustering=k-means"],
    "best by the least": ["--best_checkpoint.monitor=validation/recall@1", "--best_checkpoint.mode=min"],
    "no validation": ["--data.validation_share=0"],
    "validation in the epoch": ["--trainer.val_check_interval=3"],
    "EarlyStopping": ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=validation/map@r",
                      "--trainer.callbacks.patience=1"],
    "LearningRateMonitor": ["--trainer.callbacks+=LearningRateMonitor"],
    "ModelCheckpoint": ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=validation/recall@1",
                        "--trainer.callbacks.save_top_k=2", "--trainer.callbacks.filename={step}"],
    "GradientAccumulationScheduler": ["--trainer.callbacks+=GradientAccumulationScheduler",
                                      "--trainer.callbacks.scheduling={0: 1, 2: 2}"],
    "EMAWeightAveraging": ["--trainer.callbacks+=EMAWeightAveraging"],
    "Timer": ["--trainer.callbacks+=Timer"],
    "accumulate_grad_batches": ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=13"],
    "gradient_clip_val": ["--trainer.gradient_clip_val=0.1"],
    "bf16-mixed": ["--trainer.precision=bf16-mixed"],
    "micro_batch": ["--model.micro_batch=4"],
    "head_lr_factor": ["--model.head_lr_factor=10"],
    "freeze_trunk_steps": ["--model.freeze_trunk_steps=16", "--model.weight_decay_on=matrices",
                           "--model.network.batchnorm=true"],
    "Adam with amsgrad": ["--model.optimizer=Adam", "--model.optimizer.amsgrad=true"],
    "SGD with momentum": ["--model.optimizer=SGD", "--model.optimizer.lr=0.01", "--model.optimizer.momentum=0.9"],
    "batch normalisation": ["--model.network.batchnorm=true"],
    "ContrastiveLoss": ["--model.loss=ContrastiveLoss"],
    "TripletLoss, semi-hard": ["--model.loss=TripletLoss", "--model.loss.mining=semihard"],
    "ProxyAnchorLoss": [f"--model.loss={PML}.ProxyAnchorLoss", "--model.loss_lr_factor=10"],
    "neighbours of difficult classes": ["--data.sampler.neighbours=0.5"],
    "neighbours, two workers": ["--data.sampler.neighbours=0.5", "--data.workers=2"],
    "classes by size": ["--data.sampler.class_weights=size"],
    "ReleasedPairs": ["--data.sampler=ReleasedPairs"],
    "images from files": ["--data.cache=false", "--model.augment.size=null", "--data.size=12"],
    "an epoch is a pass": ["--data.batches_per_epoch=null"],
}  # fmt: skip


def cases() -> dict[str, list[str]]:
    """What each row of the table is run with."""
    found = {}
    for name, settings in SCHEDULES.items():
        options = [f"--model.scheduler.{key}={value}" for key, value in (settings or {}).items()]
        found[name.rpartition(".")[2]] = ["--model.scheduler=" + ("null" if settings is None else name), *options]
    return found | OTHERS


def prepared(moment: Moment | None, draws: bool) -> Callable[[], None]:
    return partial(_prepare, moment, draws)


def _prepare(moment: Moment | None, draws: bool) -> None:
    if draws:
        BackgroundPicture.on_evaluation = DRAW  # type: ignore[method-assign]
    if moment is not None:
        faults.at(*moment)()


def run(place: Path, arguments: list[str], moments: Sequence[Moment], ranks: int) -> Path:
    """A run that is killed at each of these moments in turn, and goes on; gives its folder.

    Raises:
        RuntimeError: if it ends otherwise than it should.
    """
    place.mkdir(parents=True, exist_ok=True)
    folder = place / "e" / "run"
    common = [f"--runs_dir={place}", f"--trainer.devices={ranks}"]
    line = [*(word for word in BASE if "scheduler" not in word), *common, *arguments]
    draws = any("tsne" in word for word in arguments)
    if "--data.validation_share=0" in arguments:
        moments = [("step", 7) if event == "validation" else (event, count) for event, count in moments]
    for moment in [*moments, None]:
        prepare = [prepared(None, draws)] * (ranks - 1) + [prepared(moment, draws)]
        started = lifted(line, place, ranks, prepare)
        codes = started.wait(120 if moment is None or ranks == 1 else AFTER)
        if codes[-1] != (0 if moment is None else -signal.SIGKILL):
            raise RuntimeError(f"exit code {codes[-1]} at {moment or 'the end'}: {started.output[-400:]}")
        if (folder / CHECKPOINTS / "last.ckpt").exists():
            line = ["fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last"]
    return folder


def compared(place: Path, arguments: list[str], moments: Sequence[Moment], ranks: int) -> str:
    """What differs between a run that is killed and the unbroken one; ``equal`` where nothing does."""
    try:
        unbroken = place / f"unbroken{ranks}" / "e" / "run"
        if not (unbroken / RESULT).exists():
            run(place / f"unbroken{ranks}", arguments, (), ranks)
        killed = run(place / "-".join(event for event, _ in moments) / str(ranks), arguments, moments, ranks)
        return difference(killed, unbroken) or "equal"
    except RuntimeError as error:
        return one_line(error)


def difference(folder: Path, unbroken: Path) -> str:
    """What differs between two runs; empty where nothing does."""
    parts: list[tuple[str, Callable[[Path], Any]]] = [(METRICS, rows), (RESULT, result), (PLOTS, pictures)]
    for name in ("last", "best"):
        if (unbroken / CHECKPOINTS / f"{name}.ckpt").exists():
            keys = (*COMPARED, "lifted_loss", "lifted_rates", "callbacks")
            parts += [(f"{name}: {key}", partial(state, name=name, key=key)) for key in keys]
    found = []
    for name, part in parts:
        try:
            assert_same(part(folder), part(unbroken), name)
        except (AssertionError, FileNotFoundError) as error:
            where = str(error).split("\n")[0]
            found.append(where if len(where) < 60 else f"{name} ... {where[-40:]}")
    return "; ".join(found[:3]) + (" and more" if len(found) > 3 else "")


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / PLOTS).glob("*test*.png"))  # one being drawn ends with its run


def state(folder: Path, name: str, key: str) -> Any:
    return without_places(load(folder, name).get(key))


def result(folder: Path) -> dict[str, Any]:
    """A run's result without times and places; one that was killed in its test has looked at the test classes twice."""
    content: dict[str, Any] = json.loads((folder / RESULT).read_text())
    for key in ("seconds", "images_per_second", "test_looks"):
        del content[key]
    for part in ("fit", "evaluation"):
        for key in ("core_seconds", "gpu_seconds", "peak_resident_bytes", "peak_gpu_bytes"):
            del content["cost"][part][key]
    content["config"].pop("runs_dir")
    content["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in content["history"]]
    return content


def without_places(state: Any) -> Any:
    """A state without paths, the time that a callback has measured, and a score that none reads again."""
    if isinstance(state, dict):
        kept = {k: v for k, v in state.items() if k not in ("dirpath", "time_elapsed", "current_score")}
        return {without_places(k): without_places(v) for k, v in kept.items()}
    return Path(state).name if isinstance(state, str) and state.startswith("/") else state


def main() -> int:
    """Print a row of the table for each case; the exit code says whether all were equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name has this regular expression")
    options = parser.parse_args()
    unequal = 0
    print(f"| run | {' | '.join(MOMENTS)} |\n|:--|{':--|' * len(MOMENTS)}")
    with tempfile.TemporaryDirectory(prefix="resuming-") as top:
        os.environ["LIFTED_CACHE_DIR"] = f"{top}/cache"
        for name, arguments in cases().items():
            if not re.search(options.only, name):
                continue
            kinds = [kind for kind in MOMENTS.values() if kind[1] == 1 or name in RANKS]
            cells = [compared(Path(top, name), arguments, *kind) for kind in kinds]
            unequal += sum(cell != "equal" for cell in cells)
            print(f"| {name} | {' | '.join(cells + ['–'] * (len(MOMENTS) - len(kinds)))} |", flush=True)
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
