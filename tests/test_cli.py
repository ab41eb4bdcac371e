"""The command line's help. Wrong inputs are in test_errors.py, real runs in test_fit.py."""

import sys

import pytest

from lifted_lightning.cli import main


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
