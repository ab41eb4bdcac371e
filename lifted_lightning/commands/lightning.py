"""What users of Lightning bring: what is refused with what to do instead, and what Lightning says of the rest."""

import logging
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.errors import UserError, counted

# Settings of the trainer that would do nothing here, or not what they say; the values that they may have; and what to
# do instead.
SETTINGS: dict[str, tuple[tuple[object, ...], str]] = {
    "use_distributed_sampler": ((False,), "leave it out: batches and evaluations are each rank's own share already"),
    "enable_checkpointing": ((None, True), "leave it out: the test is of a checkpoint, and a run goes on from one"),
    "barebones": ((False,), "leave it out: it logs nothing; experiments/benchmarks/training/ measures speed"),
    "default_root_dir": ((None,), "give --runs_dir, --experiment and --name"),
    "model_registry": ((None,), "leave it out: checkpoints lie in the run's folder"),
}

CALLBACKS: dict[type[Callback], str] = {
    LearningRateFinder: "sets one rate for all groups, and a schedule forgets it: compare a few by lifted sweep",
    BatchSizeFinder: "would change the batch that the loss sees: choose data.batch_size; for memory, model.micro_batch",
    BaseFinetuning: "adds to an optimiser whose schedule and checkpoints know nothing of it: give "
    "model.freeze_trunk_steps, and the head a multiple of the trunk's rate (model.head_lr_factor)",
    StochasticWeightAveraging: "puts a schedule of its own in place of the run's, cannot resume exactly, and no "
    "checkpoint has its average: give WeightAveraging or EMAWeightAveraging",
}


def check_settings(trainer: Namespace) -> None:
    """Raise UserError for the first setting of Lightning's Trainer that would not do what it says."""
    for name, (allowed, instead) in SETTINGS.items():
        if trainer[name] not in allowed:
            raise UserError(f"--trainer.{name}={trainer[name]}: {instead}")


def check_callbacks(callbacks: Sequence[Callback], metrics: Sequence[str]) -> None:
    """Raise UserError for the first callback that would not do what it says; tell one that prefers what is worse.

    Args:
        callbacks: the user's.
        metrics: names, as they are logged, of those of which more is better.
    """
    for callback in callbacks:
        name = type(callback).__name__
        for kind, reason in CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"--trainer.callbacks={name}: it {reason}")
        if isinstance(callback, ModelCheckpoint) and callback.save_last:
            raise UserError(f"--trainer.callbacks={name}: leave out save_last: last.ckpt is always kept")
        monitor = getattr(callback, "monitor", None)
        if monitor in metrics and getattr(callback, "mode", "") == "min":
            rank_zero_warn(f"{name} takes less of {monitor} for better: give mode=max")


def own_loggers(given: Logger | Sequence[Logger] | bool | None) -> list[Logger]:
    """The loggers that a run has besides its own; raises UserError for one that it cannot have."""
    if given is True:
        raise UserError("--trainer.logger=true: metrics.csv and W&B are always there; name another, TensorBoardLogger")
    loggers = [given] if isinstance(given, Logger) else list(given or [])
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        raise UserError("--trainer.logger: W&B records every run already: leave it out; WANDB_PROJECT says where to")
    return loggers


def check_strategy(trainer: Trainer) -> None:
    """Raise UserError for processes that would each be a run, wait for others, or end with all that they have found."""
    wanted = started = trainer.num_devices * trainer.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        started = int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        started = int(os.environ.get("SLURM_NTASKS", 1))
    if started != wanted:
        raise UserError(
            f"--trainer.devices, --trainer.num_nodes: {counted(wanted, 'process')} of this run, of which torchrun or "
            f"srun has started {started}; give auto and 1"
        )
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError("--trainer.strategy: a run's result would end with the processes that it forks: give ddp")


def launched(trainer: Namespace) -> dict[str, Any]:
    """The trainer's devices, nodes and accelerator where torchrun or srun has started the processes of the run.

    They are as many devices as processes on each machine, and under SLURM GPUs exactly if the job was given any. One
    device, which all recipes have, gives way too; what else the user has set stays, and is refused if it does not fit.

    Raises:
        UserError: in a job of several tasks, of which this process is none: it would wait for the others.
    """
    variables, found = os.environ, dict[str, Any]()
    if "TORCHELASTIC_RUN_ID" in variables:
        here = int(variables["LOCAL_WORLD_SIZE"])
        found = {"devices": here, "num_nodes": int(variables["WORLD_SIZE"]) // here}
    elif SLURMEnvironment.detect():
        tasks, devices, nodes = (
            int(variables.get(f"SLURM_N{name}", 1)) for name in ("TASKS", "TASKS_PER_NODE", "NODES")
        )
        if tasks > 1 and "SLURM_STEP_ID" not in variables:
            raise UserError(f"SLURM has {tasks} tasks for this job, and none of them is this process: start it by srun")
        gpus = variables.get("SLURM_GPUS_ON_NODE")
        found = {"devices": devices, "num_nodes": nodes, "accelerator": "gpu" if gpus else "cpu"}
    open_to = {"devices": ("auto", 1, "1"), "num_nodes": (1,), "accelerator": ("auto",)}
    return {name: value for name, value in found.items() if trainer[name] in open_to[name]}


def trained_with(callbacks: list[Callback], command: str) -> list[Callback]:
    """The callbacks, but those that average weights in training alone.

    The average is what a checkpoint has as weights. Lightning's callback, loading one, puts those that it is of back.
    """
    return [c for c in callbacks if command == "fit" or not isinstance(c, WeightAveraging)]


def say_why_it_ended(trainer: Trainer) -> None:
    """A line for a training that a callback has ended."""
    if trainer.should_stop and trainer.is_global_zero:
        told = [getattr(callback, "stopping_reason_message", None) for callback in trainer.early_stopping_callbacks]
        reason = "; ".join(filter(None, told)) or "a callback asked for it"
        print(f"training ended at step {trainer.global_step}: {reason}")


# What Lightning says at the beginning of each run, of no use to who started it. What else it says is shown: why a
# training has ended, a profiler's report, a summary.
TIPS = re.compile(
    r"(\[rank: \d+\] )?\W*(Tip: |[GTH]PU available|LOCAL_RANK: |You are using a CUDA device|Seed set to|"
    r"Using (16bit|bfloat16) Auto|`weights_only` was not|Restor(ing|ed) |Loaded model weights|Found current_model|"
    r"Trainer already configured|`Trainer\(.* configured|`Trainer.fit` stopped: `max_|Running in `fast_dev_run`|"
    r"Initializing distributed|-{9,}\s+distributed_backend|Your model can run with static|Missing logger folder|"
    r"SLURM auto-requeueing enabled)"
)


def quiet() -> None:
    """Leave out the libraries' tips and deprecation notes, which are not about what the user did."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers or logging.getLogger().handlers:
            handler.addFilter(_no_tip)
    for pattern in (
        r"Grad strides do not match bucket view strides.*",  # of 1x1 convolutions, where strides say nothing
        r".*LeafSpec.*",
        r".*does not have many workers.*",
        r".*is not resumable.*",
        r".*number of training batches.*is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r"It is recommended to use `self\.log.*",
        r".*srun.*",
        r"Be aware that when using `ckpt_path`, callbacks.*",  # trained_with leaves them out
        r"\s*Unable to serialize instance.*",  # settings_of leaves it out
        r"Total length of `list` across ranks is zero.*",  # there are no validation classes
    ):
        warnings.filterwarnings("ignore", pattern)


def _no_tip(record: logging.LogRecord) -> bool:
    return not TIPS.match(record.getMessage())
