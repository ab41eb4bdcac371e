"""Pictures are drawn beside training, by a process that never harms the run, and bear the step of what they show."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import pytest

from lifted_lightning.callbacks import pictures
from lifted_lightning.callbacks.confusions import ConfusedClasses
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.gallery import RetrievalGallery
from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs
from lifted_lightning.callbacks.tsne import TSNEPlot
from lifted_lightning.errors import UserError
from tests.helpers.tiny import silent_trainer
from tests.helpers.tiny_evaluation import NAMES, Data, Model, clusters, evaluated, fit, overlapping

KEY = "plots/tsne_validation"


def instead(monkeypatch: pytest.MonkeyPatch, *command: str) -> list[str]:
    """Have another command run in place of the worker; gives the names of the pictures that were begun."""
    begun: list[str] = []

    def start(kind: str, picture: Path, inputs: Inputs) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        begun.append(picture.name)
        return subprocess.Popen(command), tempfile.TemporaryFile()

    monkeypatch.setattr(pictures, "start_drawing", start)
    return begun


class TestBackground:
    def test_drawn_one_at_a_time_and_logged_after_training_with_their_own_steps(self, tmp_path: Path) -> None:
        """Validations at 2, 4, 6 outrun the drawing: 2 is drawn, the others are left out, and that is said."""
        with pytest.warns(UserWarning, match=r"tsne_6\.png is left out: tsne_2\.png is still being drawn"):
            model, recorder = fit(tmp_path, TSNEPlot(every_n=1))
        assert model.steps == 6
        assert recorder.images == [(KEY, "tsne_2.png", 2)]
        assert [p.name for p in (tmp_path / "plots").iterdir()] == ["tsne_2.png"]

    @pytest.mark.parametrize("picture", [RetrievalGallery, ConfusedClasses])
    def test_the_others_are_drawn_beside_training_too(self, tmp_path: Path, picture: type[BackgroundPicture]) -> None:
        _, recorder = fit(tmp_path, picture(every_n=3), items=overlapping(), names=NAMES)
        file = f"{picture.name}_6.png"
        assert recorder.images == [(f"plots/{picture.name}_validation", file, 6)]
        assert [path.name for path in (tmp_path / "plots").iterdir()] == [file]

    @pytest.mark.parametrize(
        ("command", "settings", "told"),
        [
            (("sh", "-c", "kill -KILL $$"), {}, "was not drawn: its process was ended by signal 9"),
            ((), {}, "was not drawn: ValueError: .* of 3 points .*needs 4"),
            (("no such command",), {}, "was not drawn: .*No such file"),
            (("sleep", "60"), {"timeout": 0.2}, r"was not finished 0\.2 s after the end"),
        ],
        ids=["killed", "raising", "not started", "late"],
    )
    def test_a_picture_that_is_not_drawn_is_a_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], settings: Any, told: str
    ) -> None:
        if command:
            instead(monkeypatch, *command)
        start = time.monotonic()
        with pytest.warns(UserWarning, match=rf"tsne_6\.png {told}"):
            model, recorder = fit(tmp_path, TSNEPlot(every_n=3, **settings), items=clusters(3))
        assert model.steps == 6
        assert recorder.images == []
        assert time.monotonic() - start < 20

    def test_the_worker_ends_with_its_parent_and_not_with_ctrl_c(self, tmp_path: Path) -> None:
        parent = (
            "import os, signal, time, sys, numpy as np; from pathlib import Path\n"
            "from lifted_lightning.callbacks.pictures import start_drawing\n"
            "inputs = dict(embeddings=np.random.rand(9000, 30), seed=np.array(0), perplexity=np.array(30.0))\n"
            "process, _ = start_drawing('tsne', Path('map.png'), inputs)\n"
            "time.sleep(1)\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "os.killpg(0, signal.SIGINT)\n"
            "time.sleep(0.5)\n"
            "assert process.poll() is None, 'the worker is gone too early'\n"
            "print(process.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", parent], cwd=tmp_path, capture_output=True, text=True, start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        deadline = time.monotonic() + 20
        while _lives(int(done.stdout)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _lives(int(done.stdout))

    def test_only_rank_zero_draws(self, tmp_path: Path) -> None:
        trainer, evaluation = evaluated(tmp_path, clusters())
        trainer.is_global_zero = False
        TSNEPlot().on_evaluation(trainer, Model(clusters()), evaluation)
        assert list(tmp_path.iterdir()) == []

    def test_interval_counts_validations_through_resuming_and_the_test_is_drawn_unless_nothing_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = instead(monkeypatch, "true")

        def evaluate(plot: TSNEPlot, step: int, stage: str) -> TSNEPlot:
            trainer, evaluation = evaluated(tmp_path, clusters(), step=step, stage=stage)
            plot.on_evaluation(trainer, Model(clusters()), evaluation)
            return plot

        plot = evaluate(TSNEPlot(every_n=2), 10, "validation")
        resumed = TSNEPlot(every_n=2)
        resumed.load_state_dict(plot.state_dict())
        evaluate(resumed, 20, "validation")
        assert begun == ["tsne_20.png"]
        for every_n in (2, None, 0):
            evaluate(TSNEPlot(every_n=every_n), 20, "test")
        assert begun == ["tsne_20.png", "tsne_test.png", "tsne_test.png"]
        evaluate(TSNEPlot(), 20, "validation")
        assert len(begun) == 3

    def test_the_worker_needs_no_torch(self) -> None:
        check = (
            "import sys, lifted_lightning.pictures.worker, sklearn.manifold, matplotlib.figure;"
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0

    @pytest.mark.parametrize(
        "settings", [{"every_n": -1}, {"timeout": -1.0}, {"timeout": float("nan")}, {"points": 0}, {"thumbnails": -1},
                     {"perplexity": float("inf")}, {"perplexity": float("nan")}, {"seed": -1}], ids=str
    )  # fmt: skip
    def test_settings_out_of_range(self, settings: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=next(iter(settings))):
            TSNEPlot(**settings)


def _lives(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_after_training_the_step_is_the_checkpoint_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"default_root_dir": tmp_path, "max_steps": 5, "limit_val_batches": 1}
    trainer = silent_trainer(**settings)
    trainer.fit(Model(clusters()), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "five.ckpt")
    begun = instead(monkeypatch, "false")
    callbacks = [RetrievalEvaluation(baseline=False), RetrievalGallery(every_n=1)]
    silent_trainer(**settings, callbacks=callbacks).validate(
        Model(clusters()), datamodule=Data(), ckpt_path=tmp_path / "five.ckpt"
    )
    assert begun == ["gallery_5.png"]
