"""`lifted data`: list, prepare, verify."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lifted_lightning.cli import main
from lifted_lightning.commands import data as data_command
from lifted_lightning.data.datasets import CUB200, ImageFolder, Omniglot
from lifted_lightning.data.pixels import Decoding, open_pixels
from lifted_lightning.errors import UserError
from tests.data.datasets.test_published import EIGHT, make_cub, make_omniglot


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_omniglot(tmp_path)
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    there = {line.split()[0]: line.split()[-1] for line in lines if line.split()[-1:] in (["yes"], ["no"])}
    names = ("glyphs", "omniglot", "cub200", "cars196", "sop", "inshop")
    assert there == {name: "yes" if name in ("glyphs", "omniglot") else "no" for name in names}


def own_images(folder: Path) -> None:
    """Four class folders, of two grey images each."""
    for c in range(4):
        (folder / str(c)).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (9, 9), 10 * c + i).save(folder / str(c) / f"{i}.png")


def test_verify_counts_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make_cub(tmp_path)
    with pytest.raises(UserError, match="found 4 train images"):
        data_command.verify("cub200", tmp_path)
    monkeypatch.setattr(CUB200, "expected", EIGHT)
    data_command.verify("CUB200", tmp_path)
    assert "4 train images, 2 train classes, 4 test images, 2 test classes" in capsys.readouterr().out


def test_verify_names_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cub(tmp_path)
    monkeypatch.setattr(CUB200, "expected", EIGHT)
    images = sorted((tmp_path / "CUB_200_2011" / "images").rglob("Bird*.jpg"))
    images[1].write_bytes(b"")
    images[5].write_bytes(b"no image")
    with pytest.raises(UserError, match="2 of 8 images cannot be read") as caught:
        data_command.verify("cub200", tmp_path)
    assert all(f"{images[row].relative_to(tmp_path)}: is empty, no image" in str(caught.value) for row in (1, 5))
    monkeypatch.setattr(data_command, "NAMED", 1)
    with pytest.raises(UserError, match=r"2 of 8 images cannot be read: .*: is empty.*; and 1 more") as caught:
        data_command.verify("cub200", tmp_path)
    assert (str(caught.value).count("is empty"), "\n" in str(caught.value)) == (1, False)


def test_verify_own_images_and_their_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    own_images(tmp_path / "own")
    lines = [f"{c}/{i}.png,{c},{'train' if c < 3 else 'test'}" for c in range(4) for i in range(2)]
    (tmp_path / "own" / "t.csv").write_text("\n".join(["path,label,split", *lines]))
    pixels = open_pixels(Decoding(ImageFolder(str(tmp_path / "own")).table(tmp_path), 9, channels=1))
    content = pixels.path.read_bytes()
    pixels.path.write_bytes(content[:-1] + b"x")
    assert main(["data", "verify", "own", "--root", str(tmp_path)]) == 0
    assert main(["data", "verify", str(tmp_path / "own" / "t.csv")]) == 0
    out, err = capsys.readouterr()
    assert "own: 4 train images, 2 train classes" in out
    assert "t: 6 train images, 3 train classes" in out
    assert "is damaged; its images are decoded again" in err
    assert f"{pixels.path}: 8 decoded images, as they were written" in out
    assert pixels.path.read_bytes() == content


def test_prepare_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make_omniglot(tmp_path)
    monkeypatch.setattr(Omniglot, "expected", EIGHT)
    data_command.prepare("omniglot", tmp_path)
    assert "Omniglot: 4 train images" in capsys.readouterr().out
    data_command.prepare("Glyphs", tmp_path)
