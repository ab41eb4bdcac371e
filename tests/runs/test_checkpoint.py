"""Which checkpoint is meant, and where it lies."""

from pathlib import Path

import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.runs.checkpoint import checkpoints_beside, find_checkpoint, unfinished_folder


def test_a_missing_checkpoint_s_neighbours_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "best.ckpt"
    assert checkpoints_beside(missing) == checkpoints_beside(tmp_path / "none" / "best.ckpt") == ""
    (tmp_path / "last.ckpt").touch()
    assert checkpoints_beside(missing) == " (last.ckpt is there)"


def test_only_an_unfinished_run_s_folder_is_gone_on_in(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    assert unfinished_folder(checkpoint) == tmp_path
    assert unfinished_folder(tmp_path / "elsewhere" / "last.ckpt") is None
    (tmp_path / "result.json").touch()
    assert unfinished_folder(checkpoint) is None


def test_last_is_that_of_the_run_whose_config_is_given(tmp_path: Path) -> None:
    for name in ("named", "named-2"):
        (tmp_path / "sweep" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "sweep" / name / "checkpoints" / "last.ckpt").touch()
    settings = {"ckpt_path": "last", "name": "named", "experiment": "sweep", "runs_dir": tmp_path}
    config = tmp_path / "sweep" / "named-2" / "config.yaml"
    assert find_checkpoint(settings | {"config": [config]}) == config.parent / "checkpoints" / "last.ckpt"
    elsewhere = {"config": [Path("experiments/quickstart.yaml")], "experiment": None}
    assert find_checkpoint(settings | elsewhere) == tmp_path / "sweep" / "named" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"best: no such checkpoint \(looked for .*last.ckpt is there"):
        find_checkpoint(settings | {"ckpt_path": "best"})
    (config.parent / "checkpoints" / "last.ckpt").unlink()  # a run that was killed before it saved one
    with pytest.raises(UserError, match=r"last: no such checkpoint .*without --ckpt_path a fit begins anew"):
        find_checkpoint({**settings, "name": None, "config": [config]})
