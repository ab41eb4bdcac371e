"""Which checkpoint is meant, and where it lies."""

import subprocess
import sys
from pathlib import Path

import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.runs.checkpoint import (
    checkpoint_of_trial,
    checkpoints_beside,
    find_checkpoint,
    unfinished_folder,
)


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


@pytest.mark.parametrize(
    ("run", "sweep", "file", "found", "said"),
    [
        ("run1", "sweep1", "checkpoints/last.ckpt", True, "is this trial: it goes on from its last checkpoint"),
        ("run2", "sweep1", "checkpoints/last.ckpt", True, "W&B's run run1, is this trial: it goes on"),
        ("run2", "sweep2", "checkpoints/last.ckpt", False, ""),
        ("run2", "", "checkpoints/last.ckpt", False, ""),
        ("run2", "sweep1", "", False, "was ended before its first checkpoint: it is run anew"),
        ("run2", "sweep1", "result.json", False, "has its result already: it is run anew"),
    ],
)
def test_a_trial_of_wandbs_agent_goes_on_where_it_was_begun(
    run: str, sweep: str, file: str, found: bool, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, seed in (("trial", 3), ("other", 4)):
        folder = tmp_path / name
        (folder / "wandb").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        (folder / "wandb" / "id.txt").write_text("run1\nsweep1" if name == "trial" else "run0\nsweep1")
        (folder / "config.yaml").write_text(f"# how to repeat it\nseed_everything: {seed}\n")
        (folder / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "trial" / "checkpoints" / "last.ckpt").unlink()
    if file:
        (tmp_path / "trial" / file).touch()
    monkeypatch.setenv("WANDB_RUN_ID", run)
    monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    checkpoint = checkpoint_of_trial(tmp_path, {"seed_everything": 3})
    assert checkpoint == (tmp_path / "trial" / file if found else None)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("run", ["run1", "run2"])
def test_a_trial_of_the_same_values_that_another_process_runs_is_left_to_it(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "trial"
    for name, text in (("wandb/id.txt", "run1\nsweep1"), ("config.yaml", "seed: 3"), ("checkpoints/last.ckpt", "")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("WANDB_RUN_ID", run)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    script = "import sys; from lifted_lightning.files import lock; lock(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", script, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = checkpoint_of_trial(tmp_path, {"seed": 3})
        other.kill()
    assert (found is None) == (run == "run2"), "the very run is not begun anew beside itself"
    assert ("another process is at work there: it is run anew" in capsys.readouterr().out) == (run == "run2")
    assert checkpoint_of_trial(tmp_path, {"seed": 3}) is not None
