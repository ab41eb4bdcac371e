"""The run's folder: chosen on rank zero, the same on every rank, with the configuration and the loggers in it."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import one_line
from lifted_lightning.files import atomic, writing
from lifted_lightning.runs.checkpoint import CLASSES_KEY, SETTINGS_KEY
from lifted_lightning.runs.folder import CHECKPOINTS, CONFIG, RESULT, claim_folder, lock, remove_unfinished
from lifted_lightning.runs.guarded import Guarded
from lifted_lightning.runs.loggers import MetricsFile, log_summary, moved_into, wandb_logger, wandb_mode
from lifted_lightning.runs.modules import keep_modules
from lifted_lightning.runs.settings import LONGEST_NAME, flatten, group_name, relative_paths

PROJECT = "lifted-lightning"  # of W&B, where WANDB_PROJECT does not name another
LONGEST_TAG = 64  # characters that W&B takes


@dataclass(eq=False)
class RunFolder(Callback):
    """Makes or continues the run's folder, writes ``config.yaml`` there, and points loggers and checkpoints to it.

    Args:
        parent: the experiment's folder.
        name: the run's name; a number is added where it is taken.
        config: the complete configuration, as written to ``config.yaml``.
        summary: what dashboards group by (loss, embedding size, data set, seed), put beside the configuration.
        existing: a folder to continue in, instead of a new one.
        header: comment lines at the top of ``config.yaml``.
        loggers: others of Lightning's; each is given the configuration.
        patience: seconds that a logger may take, but for ``metrics.csv``; it is left alone if it takes longer.
    """

    parent: Path
    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    existing: Path | None = None
    header: str = ""
    loggers: Sequence[Logger] = ()
    patience: float = 30.0

    def __post_init__(self) -> None:
        self._settings = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)  # as files have it
        self.folder: Path | None = None
        self._classes: dict[str, Any] = {}
        self._lock: int | None = None  # held as long as this process lives

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.folder is None:
            mode = wandb_mode(self.patience) if trainer.is_global_zero else "disabled"
            chosen = str(self._choose()) if trainer.is_global_zero else ""
            self.folder = Path(trainer.strategy.broadcast(chosen)).resolve()  # as a resumed run finds it
            profiler = trainer.profiler  # type: ignore[attr-defined]
            if profiler.dirpath == trainer.default_root_dir:  # which Lightning has put there where none was given
                profiler.dirpath = str(self.folder)
            trainer._default_root_dir = str(self.folder)  # type: ignore[attr-defined]
            others: list[Any] = [Guarded(moved_into(self.folder, logger), self.patience) for logger in self.loggers]
            for logger in others:
                logger.log_hyperparams(flatten(self.config) | self.summary)
            try:
                others += [Guarded(self._wandb(mode, trainer), self.patience)] if mode != "disabled" else []
            except Exception as error:  # whatever it is, the run's own record is another
                rank_zero_warn(f"W&B does not record this run: {type(error).__name__}: {one_line(error)}")
            trainer.loggers = [MetricsFile(self.folder), *others]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = callback.dirpath or str(self.folder / CHECKPOINTS)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last checkpoint before a callback puts an average in the place of the weights that train on."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._classes = self._classes or data_of(trainer).classes_seen()
        checkpoint[CLASSES_KEY] = self._classes
        checkpoint[SETTINGS_KEY] = self._settings
        log_pending_row(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave callbacks the numbers that they are given now; EarlyStopping would go on with the old patience."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
            for name in inspect.signature(type(callback)).parameters.keys() & state.keys():
                if isinstance(given := getattr(callback, name, None), int | float):
                    state[name] = given

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best validation so far into W&B's summary, as ``best/map@r`` and so on."""
        best = next(c for c in trainer.callbacks if isinstance(c, BestCheckpoint))  # type: ignore[attr-defined]
        score, before = trainer.callback_metrics.get(best.monitor or ""), best.best_model_score
        if score is None or (before is not None and not (score > before if best.mode == "max" else score < before)):
            return
        of, found = "validation/", trainer.callback_metrics.items()
        log_summary(trainer.loggers, {f"best/{k.removeprefix(of)}": float(v) for k, v in found if k.startswith(of)})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it there again where a run was gone on with: W&B may know it by another id than when it was the best."""
        if self.existing is not None and trainer.is_global_zero:
            best = json.loads(Path(trainer.default_root_dir, RESULT).read_text())["validation"]
            log_summary(trainer.loggers, {f"best/{name}": value for name, value in best.items()})

    def _choose(self) -> Path:
        with writing(f"--runs_dir: {self.existing or self.parent}"):
            if self.existing is None:
                folder, self._lock = claim_folder(self.parent, self.name)
            else:
                folder, self._lock = self.existing, lock(self.existing)
        remove_unfinished(folder)
        if self.existing is None:
            self._write_config(folder)
        return folder

    def _write_config(self, folder: Path) -> None:
        with atomic(folder / CONFIG, "w") as file:
            file.write(self.header + self._settings)
        for line in keep_modules(self.config, folder):
            rank_zero_warn(line)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings anew where a run goes on with others, once none of them can be refused any more."""
        if self.existing is not None and trainer.is_global_zero:
            self._write_config(Path(trainer.default_root_dir))

    def _wandb(self, mode: str, trainer: Trainer) -> Logger:
        assert self.folder is not None
        assert trainer.state.fn is not None
        untrained = {} if trainer.state.fn == "fit" or trainer.ckpt_path else {"steps": 0}
        experiment, summary = self.parent.name, self.summary
        tags = [summary["loss"], summary["dataset"], f"{summary['embedding_size']}d", experiment]
        return wandb_logger(
            self.folder,
            mode,
            self.patience,
            project=PROJECT,
            name=f"{experiment}/{self.folder.name}"[-LONGEST_NAME:],
            group=group_name(relative_paths(self.config, data_of(trainer).root, self.folder), summary | untrained),
            job_type=trainer.state.fn.value,
            tags=list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags)),
            config=(flat := flatten(self.config)) | parts_of(flat) | summary,
        )


def parts_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Trunk and sampler of a run by short names, as people group runs by them.

    Args:
        settings: its configuration by dotted names.
    """

    def named(part: str) -> str:
        return str(settings.get(part) or str(settings.get(f"{part}.class_path") or "").split(".")[-1])

    trunk = named("model.network.init_args.trunk") or named("model.network")
    return {"trunk": trunk, "sampler": named("data.sampler")}


def log_pending_row(trainer: Trainer) -> None:
    """Write the row of the step just taken to ``metrics.csv``, if that step is due to be logged.

    Lightning logs it after the callbacks that save checkpoints. A run killed in between goes on with the next step,
    and would never log it.
    """
    connector = trainer._logger_connector
    if not trainer.training or not connector.should_update_logs:
        return
    row = {**connector.metrics["log"], "epoch": trainer.current_epoch}
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.log_metrics(row, trainer.fit_loop.epoch_loop._batches_that_stepped)
            logger.save()
