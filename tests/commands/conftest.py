"""`lifted` in a folder with a model and photos."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lifted_lightning.cli import main
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.images import draw_images

Lifted = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lifted:
    """Run a command in a folder with ``best.ckpt`` and 20 photos; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    save_checkpoint(Path("best.ckpt"))
    draw_images(Path("photos"))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run
