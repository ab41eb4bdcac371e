"""Pictures that are drawn in a process of their own while training goes on."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.runs.folder import PLOTS

Inputs = dict[str, Any]  # arrays, numbers and text by name


@dataclass
class _Drawing:
    """A picture that is being drawn, and what its process says meanwhile."""

    picture: Path
    key: str
    step: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def start_drawing(kind: str, picture: Path, inputs: Inputs) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start the process that draws a picture; gives it, and the file that its output goes to.

    What it needs is in a file without a name, so that nobody waits for it to be read and nobody has to remove it.
    """
    output = tempfile.TemporaryFile()  # noqa: SIM115 - it is read when the process has ended
    # One thread: training has the other cores. A session of its own: Ctrl-C is for training.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "lifted_lightning.pictures.worker", kind, str(picture), str(os.getpid())]
    with tempfile.TemporaryFile() as source:
        np.savez(source, allow_pickle=False, **inputs)
        source.seek(0)
        process = subprocess.Popen(
            command, stdin=source, stdout=output, stderr=output, env=os.environ | threads, start_new_session=True
        )
    return process, output


class BackgroundPicture(Callback):
    """Draws a picture of an evaluation in a background process on rank zero, and logs it when it is there.

    Training does not wait: the process is looked at after each batch, and waited for only when training or
    testing is over. One picture of a kind is drawn at a time: a validation that comes while the last one's is still
    being drawn is left out, with a warning. A picture is logged with the step of its embeddings, whenever it is
    finished. If drawing fails or takes too long, that is a warning; training goes on. The process ends with training's.

    Pictures go to ``plots/<name>_<step>.png`` (validation) and ``plots/<name>_test.png`` in the run's folder,
    and to every logger that has ``log_image``, as ``plots/<name>_<stage>``.

    Args:
        seed: of what is chosen at random, so that the same images are shown each time.
        every_n: draw at every n-th validation too; the test alone by default, and nothing at all for 0.
        timeout: seconds that the end of training waits for a picture before giving it up.
    """

    name: str

    def __init__(self, seed: int = 0, every_n: int | None = None, timeout: float = 300.0) -> None:
        if seed < 0 or (every_n or 0) < 0 or not 0 <= timeout < float("inf"):
            raise UserError(
                f"{self.name}.seed {seed}, every_n {every_n}, timeout {timeout:g}: give numbers of at least 0; "
                "every_n 0 for no pictures, null for the test's"
            )
        self.seed = seed
        self.every_n = every_n
        self.timeout = timeout
        self._validations = 0
        self._drawing: _Drawing | None = None

    def inputs(self, trainer: Trainer, evaluation: Evaluation) -> Inputs | None:
        """What ``lifted_lightning.pictures.worker`` draws, but for its title; None if there is nothing to draw."""
        raise NotImplementedError

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Start drawing, if it is this evaluation's turn."""
        if not trainer.is_global_zero or not self._is_due(evaluation.stage):
            return
        suffix = evaluation.step if evaluation.stage == "validation" else evaluation.stage
        picture = Path(trainer.default_root_dir) / PLOTS / f"{self.name}_{suffix}.png"
        self._look(trainer)
        if self._drawing is not None:
            rank_zero_warn(f"{picture.name} is left out: {self._drawing.picture.name} is still being drawn")
            return
        inputs = self.inputs(trainer, evaluation)
        if inputs is None:
            return
        inputs["title"] = picture_title(trainer, evaluation)
        key = f"{PLOTS}/{self.name}_{evaluation.stage}"
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
            self._drawing = _Drawing(picture, key, evaluation.step, *start_drawing(self.name, picture, inputs))
        except OSError as error:  # a full disk
            rank_zero_warn(f"{picture.name} was not drawn: {error}")

    def _is_due(self, stage: str) -> bool:
        if stage != "validation" or not self.every_n:
            return stage != "validation" and self.every_n != 0
        self._validations += 1
        return self._validations % self.every_n == 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Log a picture that has been finished."""
        self._look(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the picture; Lightning finalises the loggers only after this."""
        if self._drawing is None:
            return
        try:
            self._drawing.process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            self._drawing.process.kill()
            self._drawing.process.wait()
            rank_zero_warn(f"{self._drawing.picture.name} was not finished {self.timeout:g} s after the end: given up")
            self._drawing = None
        self._look(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far, so that a resumed run keeps the interval."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self._validations = state_dict["validations"]

    def _look(self, trainer: Trainer) -> None:
        """Log the picture, or say why there is none, if its process has ended."""
        drawing = self._drawing
        if drawing is None or (code := drawing.process.poll()) is None:
            return
        self._drawing = None
        if code:
            drawing.output.seek(0)
            said = [f"exit code {code}", *drawing.output.read().decode(errors="replace").strip().splitlines()]
            why = f"its process was ended by signal {-code}" if code < 0 else said[-1]
            rank_zero_warn(f"{drawing.picture.name} was not drawn: {why}")
            return
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(drawing.key, [str(drawing.picture)], step=drawing.step)


def picture_title(trainer: Trainer, evaluation: Evaluation) -> str:
    """Data set, stage, step and Recall@1, on one line."""
    data = data_of(trainer)
    # The table of one's own images has a name of its own, the folder's say.
    name = data.dataset.title if data.table.name == data.dataset.name else data.table.name
    recall = evaluation.ranking.metrics(ks=(1,))["recall@1"]
    return f"{name} · {evaluation.stage} · step {evaluation.step:,} · Recall@1 {recall:.3f}"
