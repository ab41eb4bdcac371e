"""The best checkpoint's state, in a folder that has been moved and in another run's."""

import warnings
from pathlib import Path

from lifted_lightning.callbacks.checkpoints import BestCheckpoint
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from tests.helpers.tiny import silent_trainer
from tests.helpers.tiny_evaluation import Data, Model, Recorder, clusters


def trained(folder: Path, resume: Path | None = None, steps: int = 4) -> BestCheckpoint:
    """Train so many steps, with a validation after every two; the first counts as the best, for all score alike."""
    best = BestCheckpoint()
    best.dirpath = str(folder)
    trainer = silent_trainer(
        default_root_dir=folder, max_steps=steps, val_check_interval=2, logger=Recorder(), log_every_n_steps=1,
        callbacks=[RetrievalEvaluation(baseline=False), best], enable_checkpointing=True,
    )  # fmt: skip
    trainer.fit(Model(clusters()), datamodule=Data(), ckpt_path=resume, weights_only=True)
    if resume is None:
        trainer.save_checkpoint(folder / "last.ckpt")
    return best


def test_a_moved_folder_keeps_its_best(tmp_path: Path) -> None:
    first = trained(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    content = (tmp_path / "after" / "best.ckpt").read_bytes()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dirpath has changed")
        moved = trained(tmp_path / "after", tmp_path / "after" / "last.ckpt", steps=6)
    assert moved.best_model_score == first.best_model_score
    assert Path(moved.best_model_path) == tmp_path / "after" / "best.ckpt"
    assert (tmp_path / "after" / "best.ckpt").read_bytes() == content, "one that is no better takes no place"
    assert not (tmp_path / "before").exists()


def test_another_run_s_best_is_not_ours(tmp_path: Path) -> None:
    trained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dirpath has changed")
        ours = trained(tmp_path / "ours", tmp_path / "theirs" / "last.ckpt", steps=6)
    assert Path(ours.best_model_path) == tmp_path / "ours" / "best.ckpt"
    assert (tmp_path / "ours" / "best.ckpt").exists()


def test_no_best_yet(tmp_path: Path) -> None:
    best = BestCheckpoint()
    state = best.state_dict()
    (tmp_path / "best.ckpt").touch()
    best.dirpath = str(tmp_path)
    best.load_state_dict(state)
    assert best.best_model_path == ""
    assert best.best_model_score is None
