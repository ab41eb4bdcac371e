"""The files that a command ends with: ``result.json``, and ``embeddings.npz`` of a prediction."""

import copy
import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lifted_lightning import __version__
from lifted_lightning.callbacks.checkpoints import BestCheckpoint
from lifted_lightning.callbacks.costs import Meter, multiply_adds_of_image, parameters
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import counted
from lifted_lightning.metrics.collection import EmbeddingSet, Evaluation
from lifted_lightning.metrics.distances import Distance
from lifted_lightning.runs.checkpoint import PROGRESS_KEY, file_sha256, folder_of
from lifted_lightning.runs.embeddings import Embeddings
from lifted_lightning.runs.evaluations import note_evaluation
from lifted_lightning.runs.folder import METRICS, RESULT, read_metrics, write_json
from lifted_lightning.runs.loggers import log_summary
from lifted_lightning.runs.settings import flatten, relative_paths
from lifted_lightning.training.module import EmbeddingModule

# that decide what a run computes
LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "scikit-learn", "numpy")


@dataclass(eq=False)
class ResultFile(Callback):
    """Measures the run, and writes ``result.json`` once its evaluation on the test classes is done.

    What it cost and how it came about stands there under these names, and in W&B's summary; null is what is not told.

    - ``cost``: of the ``fit`` (from the first step on; up to the last checkpoint, where a process was killed) and of
      the ``evaluation`` what :class:`~lifted_lightning.callbacks.costs.Meter` measures, and the ``images`` and
      ``steps`` that the fit has taken; ``parameters``; ``multiply_adds`` of an image in the evaluation.
    - ``selection``: ``split``: ``validation``, or ``none`` for a checkpoint that was not chosen, such as the last;
      ``metric``: by which it was; its ``step``; ``looks``: at the validation classes during the fit.
    - ``tuning_trials``: behind the configuration, where the ``best.yaml`` of a sweep, or whoever has set it, tells.
    - ``test_looks``: how often this run's checkpoints were evaluated on these test classes.
    - ``versions`` of this process, and ``git``: its commit, and ``before``, the other ones of the training.

    Args:
        evaluation: whose metrics are written.
        config: the run's configuration.
        summary: loss, embedding size, data set and seed, as they stand at the top of the file.
        known: the classes evaluated that the checkpoint was trained on, to be marked as ``trained_classes``.
    """

    evaluation: RetrievalEvaluation
    config: dict[str, Any]
    summary: dict[str, Any]
    known: Sequence[str] = ()

    def __post_init__(self) -> None:
        # Kept in checkpoints: seconds of fit and of training steps, images trained on, the latest validation, and all;
        # what was spent; the metric to select by, if any, and whether this checkpoint is the best so far by it.
        self._meter = Meter()
        self._progress: dict[str, Any] = {
            "fit": 0.0, "training": 0.0, "images": 0, "validation": {}, "history": [], "spent": self._meter.spent,
            "metric": None, "selected": False, "git": [],
        }  # fmt: skip
        self._loaded: dict[str, Any] = {}  # this of the checkpoint that is evaluated, and its step
        self._loaded_step = 0
        self._evaluation_meter = Meter()
        self._fit_began: float | None = None
        self._git = git_state()  # as the run begins; files may change while it goes on
        self._step_began = 0.0
        self._evaluation_began = 0.0

    # Time and images, over all the processes that trained this run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_began = time.monotonic() - self._progress["fit"]
        # The latest validation, which callbacks such as EarlyStopping ask for at the end of an epoch gone on with.
        latest = {f"validation/{key}": torch.tensor(value) for key, value in self._progress["validation"].items()}
        trainer._logger_connector._callback_metrics.update(latest)
        self._meter.start(trainer)
        self._progress["git"] = [*(before := self._progress.get("git", [])), *[self._git] * (self._git not in before)]
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        now = time.monotonic()
        self._progress["training"] += now - self._step_began
        self._progress["images"] += len(outputs["labels"])
        self._step_began = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_began = time.monotonic()
        if trainer.sanity_checking:
            return
        self._progress["validation"] = self.evaluation.results.get("validation", {})
        self._progress["part"] = dict(self.evaluation.parts)
        if trainer.state.fn == "fit":
            self._note_history(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note_fit_time()
        self._meter.note(trainer)
        self._fit_began = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._fit_began is not None:
            self._note_fit_time()
            self._meter.note(trainer)
        best = next(c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint))
        looked = bool(self._progress["history"]) and self._progress["history"][-1]["step"] == trainer.global_step
        score = trainer.callback_metrics.get(best.monitor or "")
        chosen = looked and score is not None and best.best_model_score is not None and score == best.best_model_score
        self._progress |= {"metric": best.monitor, "selected": bool(chosen)}
        checkpoint[PROGRESS_KEY] = copy.deepcopy(self._progress)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(PROGRESS_KEY)
        if saved is None:
            return
        if trainer.state.fn == "fit":
            # An older version has not measured what was spent, and it is not told of the whole.
            self._progress = copy.deepcopy({"spent": None} | saved)
            self._meter = Meter(self._progress["spent"])
        self._loaded, self._loaded_step = saved, checkpoint["global_step"]

    def _note_history(self, trainer: Trainer) -> None:
        self._note_fit_time()
        scores = {f"validation/{key}": v for key, v in self.evaluation.results.get("validation", {}).items()}
        row = {"step": trainer.global_step, "seconds": round(self._progress["fit"], 3)} | scores
        self._progress["history"].append(row)

    def _note_fit_time(self) -> None:
        if self._fit_began is not None:
            self._progress["fit"] = time.monotonic() - self._fit_began

    # The result

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_began = time.monotonic()
        if trainer.state.fn != "fit":
            self._evaluation_meter = Meter()
            self._evaluation_meter.start(trainer)
            # The evaluation's row has the last step, also if that was made before resuming.
            loop = trainer.fit_loop.epoch_loop
            loop._batches_that_stepped = max(loop._batches_that_stepped, loop.global_step)

    on_validation_start = on_test_start

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Write the result before anything else is made of it: pictures, and what loggers get, may fail."""
        if trainer.state.fn == "fit":
            return
        seconds = round(time.monotonic() - self._evaluation_began, 3)
        self._evaluation_meter.note(trainer)
        multiply_adds = multiply_adds_of_image(trainer, module)
        if trainer.is_global_zero:
            ledger = self._ledger(trainer, cast(EmbeddingModule, module), evaluation, multiply_adds)
            self._write(trainer, evaluation.stage, seconds, ledger)
            log_summary(trainer.loggers, {key.replace(".", "/"): value for key, value in flatten(ledger).items()})

    def _ledger(
        self, trainer: Trainer, module: EmbeddingModule, evaluation: Evaluation, multiply_adds: int | None
    ) -> dict[str, Any]:
        """What the result says of costs, and of how the checkpoint came about."""
        saved, checkpoint = self._loaded, Path(trainer.ckpt_path) if trainer.ckpt_path else None
        here = self._progress["training"] > 0  # else the checkpoint tells of the training, and its run of the whole
        progress = self._progress if here else saved
        fit, test_looks = None, None
        if progress.get("spent") is not None:
            fit = progress["spent"] | {"images": progress["images"], "steps": self._steps(trainer)}
        looks = sum(any(key.startswith("validation/") for key in row) for row in progress.get("history", ()))
        if checkpoint is not None:
            fit, looks = (not here and whole_fit(checkpoint)) or (fit, looks)
            test_looks = note_evaluation(checkpoint, evaluation.stage, data_of(trainer).table.name, evaluation.step)
        chosen = saved.get("selected")
        before = [commit for commit in progress.get("git", []) if commit and commit != self._git]
        selection = {
            "split": "validation" if chosen else "none",
            "metric": saved.get("metric") if chosen else None,
            "step": self._loaded_step,
            "looks": looks,
        }
        return {
            "cost": {
                "parameters": parameters(module, module.loss),
                "multiply_adds": multiply_adds,
                "fit": fit,
                "evaluation": self._evaluation_meter.spent,
            },
            "selection": None if chosen is None else selection,
            "tuning_trials": self.config.get("tuning_trials"),
            "test_looks": test_looks,
            "versions": {"lifted-lightning": __version__, "python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
            "git": self._git and self._git | ({"before": before} if before else {}),
        }

    def _steps(self, trainer: Trainer) -> int:
        return trainer.fit_loop.epoch_loop.global_step or self._loaded_step

    def _write(self, trainer: Trainer, stage: str, seconds: float, ledger: Mapping[str, Any]) -> None:
        folder = Path(trainer.default_root_dir)
        results = self.evaluation.results
        training = self._progress["training"]
        if training and not self._progress["history"]:  # without validation
            self._note_history(trainer)
        parts = self.evaluation.parts | (self._loaded.get("part", {}) if stage == "test" else {})
        content = {
            "name": f"{folder.parent.name}/{folder.name}",
            "config": relative_paths(self.config, data_of(trainer).root, folder),
            **self.summary,
            "stage": stage,
            **({"part": parts} if parts else {}),
            **({"trained_classes": list(self.known)} if self.known else {}),
            "steps": self._steps(trainer),
            "selected_step": self._loaded_step,
            "validation": results["validation"] if stage == "validation" else self._loaded.get("validation", {}),
            "test": results.get("test", {}),
            "history": with_training_means(self._progress["history"], read_metrics(folder / METRICS)),
            "baseline": results.get("baseline", {}),
            "baseline_name": self.evaluation.baseline_name,
            "baseline_unit_length": self.evaluation.baseline_unit_length,
            "seconds": {"fit": round(self._progress["fit"], 3), "test": seconds},
            "images_per_second": round(self._progress["images"] / training, 1) if training else None,
            "world_size": trainer.world_size,
            **ledger,
        }
        write_json(folder / RESULT, content)


def whole_fit(checkpoint: Path) -> tuple[dict[str, Any], int] | None:
    """What the whole fit of a checkpoint cost, and its looks at validation; None where its run does not say."""
    try:
        result = json.loads(((folder_of(checkpoint) or checkpoint) / RESULT).read_bytes())
        return dict(result["cost"]["fit"]), int(result["selection"]["looks"])
    except (OSError, ValueError, TypeError, LookupError):
        return None


def with_training_means(history: list[dict[str, Any]], metrics: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The history of a run with, in each row, what training logged since the row before.

    Args:
        history: one row a validation, each with the ``step`` and ``seconds`` at its end.
        metrics: the rows of ``metrics.csv``, one a logging step, counted from 0.

    Returns:
        The rows with the means of ``train/loss`` and of every ``batch/`` figure added, where any was logged.
    """
    rows, before = [], 0
    for row in history:
        since = [logged for logged in metrics if before <= int(logged["step"]) < row["step"]]
        means = {}
        for column in since[0] if since else ():
            values = [float(logged[column]) for logged in since if logged[column]]
            if column.startswith(("train/", "batch/")) and values:
                means[column] = fmean(values)
        rows.append(row | means)
        before = row["step"]
    return rows


def git_state() -> dict[str, Any] | None:
    """The commit of the working folder and whether it has changes; None outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


class PredictionFile(Callback):
    """Writes ``embeddings.npz`` into the run's folder, which ``numpy.load`` and ``lifted search`` read.

    Args:
        distance: by which the embeddings are compared.
    """

    def __init__(self, distance: Distance) -> None:
        self.distance: Distance = distance
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []  # of this rank

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self._batches.append((outputs["indices"], outputs["embeddings"], outputs["labels"]))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        items = EmbeddingSet.gather(self._batches, pl_module.device)
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        checkpoint = trainer.ckpt_path and Path(trainer.ckpt_path).resolve()
        path = Path(trainer.default_root_dir) / "embeddings.npz"
        Embeddings(
            embeddings=items.embeddings.float().cpu().numpy(),
            paths=np.array(data.names(items.rows.tolist())),
            labels=items.labels.cpu().numpy(),
            class_names=np.array(data.class_names),
            folder=str(Path(getattr(data.table.reader, "base", data.root)).resolve()),
            checkpoint=str(checkpoint or ""),
            checkpoint_sha256=file_sha256(checkpoint) if checkpoint else "",
            size=data.size,
            resize=data.resize,
            channels=data.channels,
            distance=self.distance,
        ).save(path)
        of = f" of {there:,} images" if len(items) < (there := len(data.rows_of("test"))) else ""
        print(f"{counted(len(items), 'embedding')}{of}: {path}")
