"""Pictures are drawn beside training, by a process that never harms the run, and bear the step of what they show."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning import Callback, Trainer

from lifted_lightning.callbacks import pictures
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.gallery import RetrievalGallery
from lifted_lightning.callbacks.pictures import Inputs
from lifted_lightning.callbacks.tsne import TSNEPlot
from lifted_lightning.errors import UserError
from tests.helpers.tiny_evaluation import Data, Model, Recorder, clusters, evaluated, fit

KEY = "plots/tsne_validation"


def sleeper(job: Any) -> None:
    """A worker that never ends."""
    job.log.touch()
    job.process = subprocess.Popen(["sleep", "60"])


class TestBackground:
    def test_drawn_one_at_a_time_and_logged_after_training_with_their_own_steps(self, tmp_path: Path) -> None:
        """Validations at 2, 4, 6 outrun the drawing: 2 is drawn, 4 waits and is overtaken by 6."""
        _, recorder = fit(tmp_path, TSNEPlot())
        assert recorder.images == [(KEY, "tsne_2.png", 2), (KEY, "tsne_6.png", 6)]
        assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["tsne_2.png", "tsne_6.png"]

    def test_a_killed_worker_is_a_warning(self, tmp_path: Path) -> None:
        plot = TSNEPlot(every_n=2)

        class Kill(Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                if plot._running is not None:
                    process = plot._running.process
                    assert process is not None
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()

        with pytest.warns(UserWarning, match=r"tsne_4\.png was not drawn: .*killed by SIGKILL"):
            model, recorder = fit(tmp_path, Kill(), plot)
        assert model.steps == 6
        assert recorder.images == []

    def test_a_raising_worker_is_a_warning_with_its_last_line(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"tsne_6\.png was not drawn: ValueError: .* of 3 points .*needs 4"):
            model, recorder = fit(tmp_path, TSNEPlot(every_n=3), embedding_set=clusters(3))
        assert model.steps == 6
        assert recorder.images == []
        assert "Traceback" in (tmp_path / "plots" / "tsne_6.log").read_text()

    def test_the_end_of_training_waits_no_longer_than_the_timeout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pictures._Job, "start", sleeper)
        start = time.monotonic()
        with pytest.warns(UserWarning, match=r"tsne_2\.png was not drawn: it was not finished 0\.2 s"):
            model, _ = fit(tmp_path, TSNEPlot(timeout=0.2))
        assert model.steps == 6
        assert time.monotonic() - start < 20
        assert [p.suffix for p in (tmp_path / "plots").iterdir()] == [".log"] * 2

    def test_an_error_in_training_leaves_the_picture_to_be_finished(self, tmp_path: Path) -> None:
        class Fail(Callback):
            def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
                if trainer.global_step == 3:
                    raise RuntimeError("out of luck")

        plot = TSNEPlot()
        with pytest.raises(RuntimeError, match="out of luck"):
            fit(tmp_path, Fail(), plot)
        assert plot._running is not None
        process = plot._running.process
        assert process is not None
        assert process.wait(60) == 0
        assert (tmp_path / "plots" / "tsne_2.png").exists()

    def test_only_rank_zero_draws_and_never_in_the_sanity_check(self, tmp_path: Path) -> None:
        for change in ({"is_global_zero": False}, {"sanity_checking": True}):
            trainer = evaluated(tmp_path, clusters())
            vars(trainer).update(change)
            TSNEPlot().on_embedding_set(trainer, Model(clusters()), "validation", clusters())
        assert list(tmp_path.iterdir()) == []

    def test_interval_counts_validations_through_resuming_and_the_test_is_always_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[str] = []
        monkeypatch.setattr(pictures._Job, "start", lambda job: started.append(job.picture.name))
        plot = TSNEPlot(every_n=2)
        plot.on_embedding_set(evaluated(tmp_path, clusters(), step=10), Model(clusters()), "validation", clusters())
        resumed = TSNEPlot(every_n=2)
        resumed.load_state_dict(plot.state_dict())
        resumed.on_embedding_set(evaluated(tmp_path, clusters(), step=20), Model(clusters()), "validation", clusters())
        tested = TSNEPlot(every_n=2)
        tested.on_embedding_set(evaluated(tmp_path, clusters(), step=20), Model(clusters()), "test", clusters())
        assert started == ["tsne_20.png", "tsne_test.png"]

    def test_the_worker_needs_no_torch(self) -> None:
        check = (
            "import sys, lifted_lightning.pictures.worker, sklearn.manifold, matplotlib.figure;"
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0

    def test_interval_below_zero(self) -> None:
        with pytest.raises(UserError, match="every_n"):
            TSNEPlot(every_n=-1)


def test_after_training_the_step_is_the_checkpoint_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trainer(*callbacks: RetrievalGallery) -> Trainer:
        return Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_steps=5, logger=Recorder(),
            callbacks=[RetrievalEvaluation(), *callbacks], log_every_n_steps=1, limit_val_batches=1,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip

    drawn: list[Inputs] = []
    original = np.savez

    def savez(path: Path, **arrays: np.ndarray) -> None:
        drawn.append(arrays)
        original(path, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    training = trainer()
    training.fit(Model(clusters()), datamodule=Data())
    training.save_checkpoint(tmp_path / "five.ckpt")
    trainer(RetrievalGallery()).validate(Model(clusters()), datamodule=Data(), ckpt_path=tmp_path / "five.ckpt")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["gallery_5.png"]
    assert "· step 5 ·" in str(drawn[0]["title"])
