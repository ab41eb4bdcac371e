"""A run's own record comes first: no logger, whatever it does and whenever, takes anything from it."""

import json
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pytorch_lightning.loggers import Logger

from lifted_lightning.cli import main
from lifted_lightning.runs.folder import read_metrics

RUN = [
    "fit", "--config", "experiments/quickstart.yaml", "--trainer.max_steps=4", "--trainer.log_every_n_steps=1",
    "--data.dataset=tests.helpers.tiny.Blobs", "--data.batch_size=16", "--data.batches_per_epoch=2", "--data.size=16",
    "--model.network.width=4", "--evaluation.clustering=none",
    "--tsne.every_n=0", "--gallery.neighbours=2", "--experiment=e", "--name=run", "--logger_timeout=0.5",
]  # fmt: skip


class Wicked(Logger):
    """Fails or hangs from a moment on, and notes what of the run's record there is when it is asked.

    Args:
        deed: what it does.
        moment: the method, or the metric that is logged, with which that begins.
    """

    asked: ClassVar[list[tuple[str, set[str]]]] = []
    folder = Path()

    def __init__(self, deed: Literal["raise", "hang"], moment: str) -> None:
        super().__init__()
        self.deed = deed
        self.moment = moment
        self.begun = False

    def _do(self, what: str) -> None:
        self.asked.append((what, {path.name for path in self.folder.rglob("*")}))
        self.begun |= self.moment in ("at once", what)
        if self.begun and self.deed == "raise":
            raise OSError(28, "No space left on device")
        if self.begun:
            threading.Event().wait()

    @property
    def name(self) -> str:
        self._do("name")
        return "wicked"

    @property
    def version(self) -> str:
        self._do("version")
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name in metrics:
            self._do(name)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._do("log_hyperparams")

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._do("log_image")

    def log_table(self, *args: Any, **kwargs: Any) -> None:
        self._do("log_table")

    def save(self) -> None:
        self._do("save")

    def finalize(self, status: str) -> None:
        self._do("finalize")


@pytest.mark.parametrize(
    ("deed", "moment"),
    [("raise", "never"), ("raise", "at once"), ("raise", "test/recall@1"), ("raise", "log_table"),
     ("raise", "log_image"), ("hang", "validation/map@r")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_logger_takes_nothing_from_the_run(
    deed: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(Wicked, "folder", tmp_path)
    monkeypatch.setattr(Wicked, "asked", [])
    bad = ["--trainer.logger=tests.callbacks.test_run_folder.Wicked", f"--trainer.logger.deed={deed}"]
    start = time.monotonic()
    assert main([*RUN, "--runs_dir", str(tmp_path), *bad, f"--trainer.logger.moment={moment}"]) == 0
    assert time.monotonic() - start < 60
    run = tmp_path / "e" / "run"
    assert {path.name for path in run.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    result = json.loads((run / "result.json").read_text())
    assert float(read_metrics(run / "metrics.csv")[-1]["test/recall@1"]) == pytest.approx(result["test"]["recall@1"])
    record = {"best.ckpt", "last.ckpt", "per_class.csv", "result.json"}
    for what, there in Wicked.asked:
        if what.startswith("test/") or what in ("log_table", "log_image"):
            assert record <= there, what
    names = {what for what, _ in Wicked.asked}
    assert (moment != "never") or {"log_table", "log_image", "test/recall@1", "finalize", "train/loss"} <= names
    assert moment in ("never", "at once") or moment in names


def test_a_record_that_wandb_cannot_begin_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def full(*args: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("lifted_lightning.callbacks.run_folder.wandb_logger", full)
    assert main([*RUN, "--runs_dir", str(tmp_path), "--gallery.every_n=0", "--confusions.every_n=0"]) == 0
    assert any("W&B does not record this run: OSError: [Errno 28]" in str(warning.message) for warning in recwarn)
