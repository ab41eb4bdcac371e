"""Where a checkpoint lies."""

from pathlib import Path

from lifted_lightning.runs.checkpoint import checkpoints_beside, folder_of_checkpoint, unfinished_folder


def test_a_missing_checkpoint_s_neighbours_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "best.ckpt"
    assert checkpoints_beside(missing) == checkpoints_beside(tmp_path / "none" / "best.ckpt") == ""
    (tmp_path / "last.ckpt").touch()
    assert checkpoints_beside(missing) == " (last.ckpt is there)"


def test_folder_of_checkpoint(tmp_path: Path) -> None:
    assert folder_of_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt") == tmp_path / "run"
    assert folder_of_checkpoint(tmp_path / "elsewhere" / "last.ckpt") is None


def test_a_finished_run_s_folder_is_not_gone_on_in(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    assert unfinished_folder(checkpoint) == tmp_path
    (tmp_path / "result.json").touch()
    assert unfinished_folder(checkpoint) is None
