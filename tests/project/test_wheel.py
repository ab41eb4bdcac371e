"""The wheel and the sdist hold what they should and no more, and with the wheel a new user can do what a clone can."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from lifted_lightning.commands.init import recipes
from tests.helpers.images import draw_images

ROOT = Path(__file__).parents[2]
BUILD = "import sys, hatchling.build as build; getattr(build, sys.argv[1])(sys.argv[2])"
BRIEF = (
    "--trainer.max_steps=2", "--data.batches_per_epoch=2", "--data.batch_size=16", "--evaluation.baseline=false",
    "--evaluation.clustering=none", "--tsne.every_n=0", "--gallery.every_n=0",
)  # fmt: skip
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
    for name in ("lifted_lightning", "tests", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    stray = ("data/photo.jpg", "runs/a/best.ckpt", "lifted_lightning/data/photo.jpg", "embeddings.npz")
    for name in (*stray, "experiments/own/runs/a/config.yaml", "experiments/own/runs/a/code/my_loss.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    dist.mkdir()
    for kind in ("build_wheel", "build_sdist"):
        subprocess.run([sys.executable, "-c", BUILD, kind, dist], cwd=copy, check=True, capture_output=True)
    return dist


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a command of an environment with the wheel in a folder, and gives what it prints."""
    (wheel,) = dist.glob("*.whl")
    venv, cache = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("cache")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    install = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    # What it depends on is taken from the environment that runs the tests.
    packages = next((venv / "lib").glob("python*/site-packages"))
    (packages / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    settings = {"WANDB_MODE": "disabled", "LIFTED_CACHE_DIR": str(cache)}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LIFTED_DATA_DIR")} | settings

    def printed(folder: Path, program: str, *arguments: str) -> str:
        command = [str(venv / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = printed(venv, "python", "-c", "import lifted_lightning; print(lifted_lightning.__file__)")
    assert where.startswith(str(venv))
    return printed


def test_wheel_and_sdist_hold_the_package_and_what_to_start_with(dist: Path) -> None:
    kinds = (".py", ".pyi", ".typed", ".html", ".yaml")
    package = [path for path in (ROOT / "lifted_lightning").rglob("*") if path.suffix in kinds]
    modules = {str(path.relative_to(ROOT)) for path in package}
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        for name, path in recipes().items():
            assert file.read(f"lifted_lightning/{name}") == path.read_bytes(), name
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names - about == modules | {f"lifted_lightning/{name}" for name in recipes()}
    assert {PurePosixPath(name).name for name in about} >= {"METADATA", "entry_points.txt", "LICENSE"}
    with tarfile.open(sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    of_build = {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
    assert names - {".gitignore"} == modules | recipes().keys() | of_build
    assert max(wheel.stat().st_size, sdist.stat().st_size) < 500_000


def test_no_link_of_the_index_s_page_leads_nowhere(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as file:
        metadata = file.read(next(name for name in file.namelist() if name.endswith("/METADATA"))).decode()
    page = metadata.partition("\n\n")[2]  # what follows the headers
    links = re.findall(r"\]\((.*?)\)", page)
    assert all(link.startswith("https://") for link in links), links
    first = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?s)```.*?```", first)) <= set(re.findall(r"(?s)```.*?```", page)), (
        "commands are as they were"
    )


def test_a_new_user_in_an_empty_folder(installed: Callable[..., str], tmp_path: Path) -> None:
    paths = draw_images(tmp_path / "photos", 10, 5)
    shutil.copy(ROOT / "experiments" / "own" / "my_loss.py", tmp_path)
    shutil.copy(paths[0], tmp_path / "query.png")
    installed(tmp_path, "lifted", *FIT)
    run = next(tmp_path.glob("runs/*/first"))
    assert (run / "code" / "my_loss.py").read_bytes() == (tmp_path / "my_loss.py").read_bytes()
    embed = ["embed", "photos", "--ckpt", str(run / "checkpoints" / "best.ckpt"), "--out", "index.npz"]
    assert "50 embeddings: index.npz" in installed(tmp_path, "lifted", *embed)
    with np.load(tmp_path / "index.npz", allow_pickle=False) as file:
        assert file["embeddings"].shape == (50, 64)
    search = ["search", "query.png", "--index", "index.npz", "--k", "3", "--gallery", "found.png"]
    out = installed(tmp_path, "lifted", *search)
    assert "photos/class 0/0.png" in out.splitlines()[1], "the copy is found first"
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_what_the_help_says_works_in_a_folder_of_init(installed: Callable[..., str], tmp_path: Path) -> None:
    start, then = installed(tmp_path, "lifted", "--help").splitlines()[-2:]
    assert "lifted init my-project && cd my-project" in start
    installed(tmp_path, "lifted", "init", "my-project")
    project = tmp_path / "my-project"
    assert {str(p.relative_to(project)) for p in project.rglob("*.yaml")} == {n for n in recipes() if ".yaml" in n}
    installed(project, *then.split(), *BRIEF)
    own = ["fit", "--config=../quickstart.yaml", "--model.loss=my_loss.MarginLoss", *BRIEF]
    installed(project / "experiments" / "own", "lifted", *own)
    assert "quick: 6 missing" in installed(project, "lifted", "sweep", "experiments/sweeps/quick.yaml", "--dry-run")


def test_a_paper_as_one_folder_works_anywhere(installed: Callable[..., str], tmp_path: Path) -> None:
    paper = ROOT / "experiments" / "own" / "paper"
    shutil.copytree(paper, tmp_path, ignore=shutil.ignore_patterns("runs", "__pycache__"), dirs_exist_ok=True)
    files = {path.name for path in tmp_path.iterdir()}
    installed(tmp_path, "lifted", "fit", "--config=protocol.yaml", "--config=centres.yaml", "--name=own", *BRIEF)
    code = tmp_path / "runs" / "centres" / "own" / "code"
    assert {path.name for path in code.iterdir()} == {"centre_loss.py", "centre_module.py", "centre_sampler.py"}
    assert "comparison: 9 missing" in installed(tmp_path, "lifted", "sweep", "sweep.yaml", "--dry-run")
    installed(tmp_path, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert {path.name for path in tmp_path.iterdir()} - files <= {"runs", "__pycache__"}
