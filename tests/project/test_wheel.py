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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of wheel and sdist, built from a copy in which there are data and runs, too."""
    folder = tmp_path_factory.mktemp("build")
    left = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "data", "wandb", "venv")
    copy, dist = folder / "copy", folder / "dist"
    shutil.copytree(
        ROOT,
        copy,
        ignore=lambda path, names: left(path, names) if Path(path) == ROOT else IGNORE(path, names),
    )
    for name in ("data/photo.jpg", "runs/a/best.ckpt", "lifted_lightning/data/photo.jpg", "embeddings.npz"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    dist.mkdir()
    for kind in ("build_wheel", "build_sdist"):
        subprocess.run([sys.executable, "-c", BUILD, kind, dist], cwd=copy, check=True, capture_output=True)
    return dist


IGNORE = shutil.ignore_patterns("__pycache__")


def modules() -> set[str]:
    """The package's own files."""
    package = ROOT / "lifted_lightning"
    return {
        str(path.relative_to(ROOT)) for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed"
    }


def test_the_wheel_holds_the_package_and_the_licence(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names - about == modules()
    assert {PurePosixPath(name).name for name in about} >= {"METADATA", "entry_points.txt", "LICENSE"}
    assert wheel.stat().st_size < 400_000


def test_the_sdist_holds_what_builds_the_wheel(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) for m in file.getmembers() if m.isfile()}
    names = {name for name in names if ".egg-info/" not in name}
    assert names == modules() | {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "PKG-INFO",
        "setup.cfg",
    }
    assert sdist.stat().st_size < 400_000


LOSS = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, margin: float = 0.5):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings, labels):
        distances = torch.cdist(embeddings, embeddings)
        same = labels[:, None] == labels
        return torch.where(same, distances, (self.margin - distances).relu()).mean()
"""
FIT = [
    "fit", "--model.network=ConvNet", "--model.network.channels=3", "--model.network.width=4",
    "--model.augment=CropMirror",
    "--model.loss=my_loss.Mine", "--model.loss.margin=0.3", "--data.dataset=ImageFolder", "--data.dataset.path=photos",
    "--data.size=32", "--data.batch_size=8", "--data.sampler.samples_per_class=2", "--data.batches_per_epoch=2",
    "--data.sampler.neighbours=0", "--evaluation.clustering=none", "--evaluation.baseline=false",
    "--trainer.max_steps=2", "--trainer.devices=1", "--trainer.accelerator=cpu", "--name=first",
]  # fmt: skip


def test_a_new_user_in_an_empty_folder(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv, work = tmp_path / "venv", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    # What it depends on is taken from the environment that runs the tests.
    packages = next((venv / "lib").glob("python*/site-packages"))
    (packages / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work.mkdir()
    paths = draw_images(work / "photos", 10, 5)
    (work / "my_loss.py").write_text(LOSS)
    shutil.copy(paths[0], work / "query.png")
    settings = {"WANDB_MODE": "disabled", "LIFTED_CACHE_DIR": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LIFTED_DATA_DIR")} | settings

    def lifted(*arguments: str) -> str:
        command = [str(venv / "bin" / "lifted"), *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import lifted_lightning; print(lifted_lightning.__file__)"
    done = subprocess.run([python, "-c", where], cwd=work, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(venv))

    lifted(*FIT)
    checkpoint = next(work.glob("runs/*/first/checkpoints/best.ckpt"))
    assert "50 embeddings: index.npz" in lifted("embed", "photos", "--ckpt", str(checkpoint), "--out", "index.npz")
    with np.load(work / "index.npz", allow_pickle=False) as file:
        assert file["embeddings"].shape == (50, 64)
    out = lifted("search", "query.png", "--index", "index.npz", "--k", "3", "--gallery", "found.png")
    assert "photos/class 0/0.png" in out.splitlines()[1], "the copy is found first"
    assert (work / "found.png").stat().st_size > 10_000
