"""Checkpoints from which a run goes on exactly: the selected one, the last one, and one more when told to stop."""

import operator
import os
import shutil
import signal
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor
from torch.utils.serialization import config

from lifted_lightning import processes
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import RunError, UserError
from lifted_lightning.files import atomic
from lifted_lightning.runs.folder import CHECKPOINTS, RESULT
from lifted_lightning.runs.loggers import WandbRecord
from lifted_lightning.training.lora import ADAPTER, TRUNK_KEY, adapter

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is SLURM's, as Lightning has it
STOP_CHECK_STEPS = 10  # with several ranks, being told to stop is agreed upon every so many steps
LOST = object()  # stands for what a checkpoint cannot hold


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a reader sees the whole file or the last one.

    (Lightning writes to the system's temporary folder and moves: across file systems that is a copy.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        checkpoint = safe(checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._write(checkpoint, target)
        if TRUNK_KEY in checkpoint and target.name in ("best.ckpt", "last.ckpt"):
            self._write(adapter(checkpoint), target.with_suffix(ADAPTER))

    @staticmethod
    def _write(checkpoint: dict[str, Any], target: Path) -> None:
        # Checksums, which torch.load does not look at, take as long as writing.
        try:
            with atomic(target) as file, config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            reason = error if isinstance(error, OSError) else error.__context__  # torch has words of its own
            if not isinstance(reason, OSError):
                raise
            raise RunError(f"{target}: cannot be written ({reason.strerror}); what was there before stays") from error


def safe(value: Any, place: str = "") -> Any:
    """What of a checkpoint can be read without unpickling code: tensors and plain values in dictionaries and lists.

    Hyperparameters (``save_hyperparameters()``) that are neither are left out, for the configuration has them. What
    else is, of a callback's state say, is told.
    """
    if isinstance(value, Tensor | torch.dtype) or type(value) in (bool, int, float, str, bytes, torch.Size, NoneType):
        return value
    if isinstance(value, dict):
        kept = {k: safe(v, f"{place}/{k}") for k, v in value.items()}
        if all(kept[k] is value[k] for k in kept) and type(value) in (dict, OrderedDict):
            return value  # itself: torch keeps versions beside the tensors of a state dict
        return {k: v for k, v in kept.items() if v is not LOST}
    if type(value) in (list, tuple):
        items = [safe(v, f"{place}/{i}") for i, v in enumerate(value)]
        return value if all(map(operator.is_, items, value)) else type(value)(i for i in items if i is not LOST)
    for kind in (bool, int, float, str):  # numpy's numbers and the like
        if isinstance(value, kind):
            return kind(value)
    if not place.startswith(("/hyper_parameters", "/datamodule_hyper_parameters")):
        told = f"checkpoint: {place[1:]} ({type(value).__name__}) is not kept; keep plain values or tensors there"
        warnings.warn(told, stacklevel=2)
    return LOST


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the checkpoint with the best validation metric (Lightning's ModelCheckpoint, one file).

    Args:
        monitor: the metric to select by; None keeps no best one, and the last is selected.
        mode: whether more or less of it is better.
    """

    def __init__(self, monitor: str | None = "validation/map@r", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename="best",
            save_top_k=1 if monitor else 0,
            save_on_train_epoch_end=False,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best one so far of this folder, wherever it lay when the checkpoint was saved.

        (Lightning forgets the score with a warning, and a worse checkpoint would take the best one's place.)
        The state of another run's checkpoint, without a best one here, says nothing.
        """
        own = Path(self.dirpath or "") / "best.ckpt"
        if not own.exists():
            return
        paths = {key: str(own) if state_dict[key] else "" for key in ("best_model_path", "kth_best_model_path")}
        models = {str(own): score for score in state_dict["best_k_models"].values()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": models, "dirpath": self.dirpath})


class LastCheckpoint(Checkpoint):
    """``last.ckpt``: every so many steps, after each validation, at the end, and on SIGTERM, SIGUSR1 or Ctrl-C.

    It must come right after the callback that selects the best checkpoint, whose state it saves; a checkpoint that
    this one has just written is not written again. Where a validation is due after a step, it saves after that
    validation, because Lightning would skip it on resuming. Outside training a signal ends the command at once.

    Args:
        every_n_steps: training steps between two saves.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise UserError(f"last_checkpoint.every_n_steps {every_n_steps}: give at least 1")
        self.every_n_steps = every_n_steps
        self.folder: Path | None = None
        self._stop_signal = 0
        self._saved_step = -1

    @property
    def path(self) -> Path:
        assert self.folder is not None
        return self.folder / "last.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = self.folder or Path(trainer.default_root_dir) / CHECKPOINTS
        # Lightning's handlers are left out: until training begins they pass SIGTERM over, to end it later with code 0;
        # on SIGUSR1 they queue a job of SLURM again, with a checkpoint that no run would find. It still notes ours.
        signals = trainer._signal_connector
        signals.register_signal_handlers = lambda: setattr(  # type: ignore[method-assign]
            signals, "_original_handlers", signals._get_current_signal_handlers()
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handle_signals(self._on_signal)
        if trainer.ckpt_path and Path(trainer.ckpt_path).resolve() == self.path.resolve():
            self._saved_step = trainer.global_step  # nothing may be left to train, and then it stays as it is
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # not told of an epoch that is gone on with
                callback.on_train_epoch_start(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if _validation_is_due(trainer) or _gradients_are_pending(trainer):
            return
        if self._must_stop(trainer):
            self._stop(trainer)
        # The last step too, here: once it has ended, Lightning counts the epoch as whole, and a run with more steps
        # would go on with the next.
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._end_when_told(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or _gradients_are_pending(trainer):
            return
        self._save(trainer)
        if self._must_stop(trainer, now=True):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_when_told(trainer)

    on_predict_start = on_test_start

    def _end_when_told(self, trainer: Trainer) -> None:
        self._handle_signals(lambda number, frame: self._exit(trainer, number))
        if self._stop_signal:
            self._exit(trainer, self._stop_signal)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        if best is None or best._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(self.path)
        elif trainer.is_global_zero:
            source = Path(best.best_model_path)
            for kind in (self.path.suffix, ADAPTER):
                if source.with_suffix(kind).exists():
                    _link(source.with_suffix(kind), self.path.with_suffix(kind))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_signal = number
        if number == signal.SIGINT:  # a second Ctrl-C does not wait
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _must_stop(self, trainer: Trainer, now: bool = False) -> bool:
        if trainer.world_size == 1:
            return self._stop_signal != 0
        if not now and trainer.global_step % STOP_CHECK_STEPS:
            return False
        return trainer.strategy.reduce_boolean_decision(self._stop_signal != 0, all=False)

    def _stop(self, trainer: Trainer) -> None:
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        trainer.strategy.barrier()
        self._exit(trainer, self._stop_signal or signal.SIGTERM)

    def _exit(self, trainer: Trainer, number: int) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)  # the end is on its way; a Ctrl-C does not wait for it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not trainer.is_global_zero:
            processes.wait_for_rank_zero(10)
            os._exit(128 + number)
        if number == signal.SIGTERM and not (self.path.parents[1] / RESULT).exists():  # else nothing is left to do
            for logger in trainer.loggers:
                if isinstance(logger, WandbRecord):
                    logger.mark_preempting()
        if self.path.exists():  # it does not where a checkpoint of another run is tested
            where = f"at step {trainer.global_step}" if trainer.state.fn == "fit" else "after all of its training"
            print(
                f"\nstopped {where}; go on with: lifted fit "
                f"--config {self.path.parent.parent / 'config.yaml'} --ckpt_path last",
                file=sys.stderr,
            )
        sys.exit(128 + number)

    def _handle_signals(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, handler)  # Lightning puts back what was there before, however the run ends


def _link(source: Path, target: Path) -> None:
    """Give a file's content a second name; where the file system has no hard links, copy it."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:
        with open(source, "rb") as content, atomic(target) as file:
            shutil.copyfileobj(content, file)
    else:
        os.replace(temporary, target)


def _gradients_are_pending(trainer: Trainer) -> bool:
    """Whether batches have been seen whose gradients, to be added to others', no checkpoint would hold."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def _validation_is_due(trainer: Trainer) -> bool:
    if not len(data_of(trainer).validation_rows):
        return False  # Lightning skips the validation, and its hooks
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
