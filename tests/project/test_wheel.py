"""The wheel and the sdist hold the package and no more, and a new user can work with the wheel in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from tests.helpers.images import draw_images

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as build; getattr(build, sys.argv[1])(sys.argv[2])"
FIT = [
    "fit", "--model.network=ConvNet", "--model.network.channels=3", "--model.network.width=4",
    "--model.augment=CropMirror", "--model.loss=my_loss.MarginLoss", "--model.loss.margin=0.3",
    "--data.dataset=ImageFolder", "--data.dataset.path=photos", "--data.size=32", "--data.batch_size=8",
    "--data.batches_per_epoch=2", "--evaluation.clustering=none", "--evaluation.baseline=false",
    "--trainer.max_steps=2", "--trainer.devices=1", "--trainer.accelerator=cpu", "--name=first",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of wheel and sdist, built where there are data, runs and tests, too."""
    folder = tmp_path_factory.mktemp("build")
    copy, dist = folder / "copy", folder / "dist"
    for name in ("lifted_lightning", "tests", "experiments/own"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name in ("data/photo.jpg", "runs/a/best.ckpt", "lifted_lightning/data/photo.jpg", "embeddings.npz"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    dist.mkdir()
    for kind in ("build_wheel", "build_sdist"):
        subprocess.run([sys.executable, "-c", BUILD, kind, dist], cwd=copy, check=True, capture_output=True)
    return dist


def test_wheel_and_sdist_hold_the_package_and_no_more(dist: Path) -> None:
    kinds = (".py", ".pyi", ".typed", ".html", ".yaml")
    package = [path for path in (ROOT / "lifted_lightning").rglob("*") if path.suffix in kinds]
    modules = {str(path.relative_to(ROOT)) for path in package}
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names - about == modules
    assert {PurePosixPath(name).name for name in about} >= {"METADATA", "entry_points.txt", "LICENSE"}
    with tarfile.open(sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    names = {name for name in names if ".egg-info/" not in name}
    of_build = {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"}
    assert names == modules | of_build
    assert max(wheel.stat().st_size, sdist.stat().st_size) < 400_000


def test_a_new_user_in_an_empty_folder(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv, work = tmp_path / "venv", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = str(venv / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # What it depends on is taken from the environment that runs the tests.
    packages = next((venv / "lib").glob("python*/site-packages"))
    (packages / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work.mkdir()
    paths = draw_images(work / "photos", 10, 5)
    shutil.copy(ROOT / "experiments" / "own" / "my_loss.py", work)
    shutil.copy(paths[0], work / "query.png")
    settings = {"WANDB_MODE": "disabled", "LIFTED_CACHE_DIR": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LIFTED_DATA_DIR")} | settings

    def printed(*command: str) -> str:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lifted = str(venv / "bin" / "lifted")
    assert printed(python, "-c", "import lifted_lightning; print(lifted_lightning.__file__)").startswith(str(venv))
    printed(lifted, *FIT)
    checkpoint = str(next(work.glob("runs/*/first/checkpoints/best.ckpt")))
    assert "50 embeddings: index.npz" in printed(lifted, "embed", "photos", "--ckpt", checkpoint, "--out", "index.npz")
    with np.load(work / "index.npz", allow_pickle=False) as file:
        assert file["embeddings"].shape == (50, 64)
    out = printed(lifted, "search", "query.png", "--index", "index.npz", "--k", "3", "--gallery", "found.png")
    assert "photos/class 0/0.png" in out.splitlines()[1], "the copy is found first"
    assert (work / "found.png").stat().st_size > 10_000
