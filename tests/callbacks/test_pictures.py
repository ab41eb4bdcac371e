"""A picture bears the step of the network that it shows."""

from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.gallery import RetrievalGallery
from lifted_lightning.callbacks.pictures import Inputs
from tests.helpers.evaluations import Data, Model, Recorder, clusters


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
