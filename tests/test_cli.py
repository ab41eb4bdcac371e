"""The command line's help. Wrong inputs are in test_wrong_inputs.py, real runs in test_fit.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifted_lightning import cli
from lifted_lightning.cli import OWN, TRAINER, main
from tests.helpers.run_folders import make_run

CALLED = "from lifted_lightning.cli import main; from contextlib import suppress\nwith suppress(SystemExit): main"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (f"{CALLED}(['--help'])", "torch pytorch_lightning numpy wandb"),
        (f"{CALLED}(['init', '--help'])", "torch numpy PIL rich pandas"),
        (f"{CALLED}(['data', '--help'])", "torch numpy PIL rich pandas"),
        (f"{CALLED}(['report', '--help'])", "torch pandas"),
        (f"{CALLED}(['sweep', '--help'])", "torch ray optuna pandas"),
        (f"{CALLED}(['check', '--help'])", "torch pandas rich"),
        ("import lifted_lightning.data.datasets", "torch scipy matplotlib pandas rich"),
        ("from lifted_lightning.report import page", "torch"),
    ],
)
def test_no_more_is_imported_than_is_needed(code: str, heavy: str) -> None:
    code = f"import sys\n{code}\nprint([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert {*TRAINER, *OWN} <= set(capsys.readouterr().out.split())


def test_help_lists_our_losses_and_no_layers_of_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lifted", "fit", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "lifted_lightning.LiftedStructureLoss" in text
    assert "torch.nn." not in text.split("--model.loss")[1].split("--model.augment")[0]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    command = [sys.executable, "-m", "lifted_lightning.cli", "report", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("lightnings", [False, True])
def test_a_ctrl_c_has_one_exit_code_whoever_saw_it(
    lightnings: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(command: str, arguments: list[str]) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if lightnings:  # outside of training it ends the process itself
                sys.exit(1)
            raise

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["fit"]) == 130
    assert "lifted fit: interrupted" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_dispatch", lambda command, arguments: sys.exit(143))
    with pytest.raises(SystemExit, match="143"):
        main(["fit"])
