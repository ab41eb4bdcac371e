"""Pictures that are drawn in a process of their own while training goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.callbacks.evaluation import evaluation_of
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError
from lifted_lightning.metrics import EmbeddingSet
from lifted_lightning.runs.folder import PLOTS

Inputs = dict[str, npt.NDArray[Any]]


@dataclass
class _Job:
    """One picture. Its input lies beside it as ``.npz`` until it is read, its output as ``.log``."""

    picture: Path
    key: str
    step: int
    process: subprocess.Popen[bytes] | None = None
    given_up: str | None = None

    @property
    def inputs(self) -> Path:
        return self.picture.with_suffix(".npz")

    @property
    def log(self) -> Path:
        return self.picture.with_suffix(".log")

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "lifted_lightning.pictures.worker",
            str(self.inputs),
            str(self.picture),
        ]
        # One thread: training has the other cores. A session of its own: Ctrl-C is for training.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **threads},
                start_new_session=True,
            )  # fmt: skip

    def failure(self) -> str:
        """Why the process ended without a picture, in one line."""
        assert self.process is not None
        if self.given_up is not None:
            return self.given_up
        code = self.process.returncode
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else f'exit code {code}'} (see {self.log})"


class BackgroundPicture(Callback):
    """Draws a picture of the embeddings in a background process on rank zero, and logs it when it is there.

    Training does not wait: the process is looked at after each batch, and waited for only when training or
    testing is over. One picture is drawn at a time; while one is being drawn, the latest waits and takes the
    place of an earlier one that still waits, so that pictures may be left out but never lag behind. A picture
    is logged with the step of its embeddings, whenever it is finished. If drawing fails or takes too long,
    that is a warning, with the end of the process's output in ``plots/``; training goes on. If training
    itself ends in an error, a picture that is being drawn is left to be finished, but not logged.

    Pictures go to ``plots/<name>_<step>.png`` (validation) and ``plots/<name>_test.png`` in the run's folder,
    and to every logger that has ``log_image``, as ``plots/<name>_<stage>``.

    Args:
        every_n: draw at every n-th validation, and always the test; 0 draws nothing.
        timeout: seconds that the end of training waits for a picture before giving it up.
    """

    name: str

    def __init__(self, every_n: int = 1, timeout: float = 300.0) -> None:
        if every_n < 0:
            raise UserError(f"every_n {every_n} of a picture: give 1 or more, or 0 for no pictures")
        self.every_n = every_n
        self.timeout = timeout
        self._validations = 0
        self._running: _Job | None = None
        self._waiting: _Job | None = None

    def inputs(self, trainer: Trainer, stage: str, embedding_set: EmbeddingSet) -> Inputs | None:
        """What ``lifted_lightning.pictures.worker`` needs to draw; None if there is nothing to draw."""
        raise NotImplementedError

    def on_embedding_set(
        self, trainer: Trainer, module: LightningModule, stage: str, embedding_set: EmbeddingSet
    ) -> None:
        """Take the embeddings of a finished evaluation and start drawing, or queue."""
        if not self.every_n or not trainer.is_global_zero or trainer.sanity_checking:
            return
        if stage == "validation":
            self._validations += 1
            if self._validations % self.every_n:
                return
        inputs = self.inputs(trainer, stage, embedding_set)
        if inputs is None:
            return
        step = evaluation_of(trainer).step(trainer)
        suffix = step if stage == "validation" else stage
        picture = Path(trainer.default_root_dir) / PLOTS / f"{self.name}_{suffix}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        job = _Job(picture, f"{PLOTS}/{self.name}_{stage}", step)
        self._discard_waiting()
        arrays: dict[str, Any] = {"kind": np.array(self.name), **inputs}
        np.savez(job.inputs, **arrays)
        self._waiting = job
        self._poll(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Log a picture that has been finished, and start the one that waits."""
        self._poll(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the pictures; Lightning finalises the loggers only after this."""
        deadline = time.monotonic() + self.timeout
        while self._running is not None:
            process = self._running.process
            assert process is not None
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                self._running.given_up = f"it was not finished {self.timeout:g} s after the end, so given up"
                process.kill()
                process.wait()
            self._poll(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far, so that a resumed run keeps the interval."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self._validations = state_dict["validations"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log what is finished; leave what is being drawn to end by itself."""
        self._discard_waiting()
        self._poll(trainer)

    def _poll(self, trainer: Trainer) -> None:
        job = self._running
        if job is not None and job.process is not None and job.process.poll() is not None:
            self._running = None
            self._finish(trainer, job)
        if self._running is None and self._waiting is not None:
            self._running, self._waiting = self._waiting, None
            self._running.start()

    def _finish(self, trainer: Trainer, job: _Job) -> None:
        assert job.process is not None
        job.inputs.unlink(missing_ok=True)
        if job.process.returncode != 0:
            rank_zero_warn(f"{job.picture.name} was not drawn: {job.failure()}")
            return
        job.log.unlink(missing_ok=True)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(job.key, [str(job.picture)], step=job.step)

    def _discard_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.inputs.unlink(missing_ok=True)
        self._waiting = None


def picture_title(trainer: Trainer, stage: str) -> str:
    """Data set, stage, step and Recall@1, on one line."""
    evaluation = evaluation_of(trainer)
    recall = evaluation.ranking.metrics(ks=(1,))["recall@1"]
    data = data_of(trainer)
    # The table of one's own images has a name of its own, the folder's say.
    name = data.dataset.title if data.table.name == data.dataset.name else data.table.name
    return f"{name} · {stage} · step {evaluation.step(trainer):,} · Recall@1 {recall:.3f}"
