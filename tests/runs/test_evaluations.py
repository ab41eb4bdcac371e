"""The record of who evaluated a run's checkpoints."""

from pathlib import Path

import pytest

from lifted_lightning.runs.evaluations import EVALUATIONS, looks_at_test, note_evaluation


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_evaluations_of_the_same_test_classes_are_counted(checkpoint: Path) -> None:
    assert note_evaluation(checkpoint, "test", "=cars", 10) == 1
    assert note_evaluation(checkpoint.with_name("last.ckpt"), "test", "=cars", 12) == 2
    assert note_evaluation(checkpoint, "validation", "=cars", 10) == 2
    assert note_evaluation(checkpoint, "test", "other", 10) == 1
    folder = checkpoint.parents[1]
    lines = (folder / EVALUATIONS).read_text().splitlines()
    assert lines[0] == "time,stage,dataset,checkpoint,step"
    assert lines[2].split(",")[1:] == ["test", "'=cars", "last.ckpt", "12"]
    assert (looks_at_test(folder, "=cars"), looks_at_test(folder, "none")) == (2, 0)


def test_an_evaluation_that_nobody_counts_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint.parents[1] / EVALUATIONS).mkdir()  # nor can a read-only folder's be written
    assert note_evaluation(checkpoint, "test", "cars", 10) is None
    assert "cannot be written (Is a directory), so this evaluation of the test classes" in capsys.readouterr().out
    assert looks_at_test(checkpoint.parents[1], "cars") == 0
    assert note_evaluation(tmp_path / "moved.ckpt", "test", "cars", 10) is None
    assert "moved.ckpt: lies in no run's folder, so this evaluation" in capsys.readouterr().out
    assert not (tmp_path / EVALUATIONS).exists()
