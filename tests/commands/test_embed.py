"""`lifted embed`: which files it takes, and what it leaves."""

import sys
from pathlib import Path

import numpy as np
import pytest

import lifted_lightning
from lifted_lightning.commands.embed import find_images
from tests.commands.conftest import Lifted
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.images import draw_images


def test_a_folder_with_class_folders(lifted: Lifted) -> None:
    Path("photos/broken.jpg").write_text("no image")
    Path("photos/class 1/empty.PNG").touch()
    Path("photos/.hidden.jpg").touch()
    Path("photos/notes.txt").write_text("no image, and not meant to be one")
    (plain,) = draw_images(Path("photos/deep/er"), 1, 1)
    Path(plain).rename("photos/top.png")
    code, out, err = lifted("embed", "photos", "--ckpt", "best.ckpt", "--out", "index.npz", "--device", "cpu")
    assert code == 0
    assert out == "21 embeddings: index.npz\n"
    assert err.splitlines() == [
        "warning: photos/broken.jpg: is empty, no image, or damaged at its start",
        "warning: photos/class 1/empty.PNG: is empty, no image, or damaged at its start",
        "warning: 2 of 23 images could not be read",
    ]
    with np.load("index.npz", allow_pickle=False) as file:
        index = dict(file)
    paths = index["paths"].tolist()
    assert paths == ["photos/top.png", *draw_images(Path("photos"))]
    assert index["class_names"].tolist() == [f"class {c}" for c in range(4)]
    assert index["labels"].tolist() == [-1, *np.repeat(range(4), 5)]
    assert index["embeddings"].dtype == np.float32
    model = lifted_lightning.load("best.ckpt", "cpu")
    np.testing.assert_allclose(index["embeddings"], model.embed(paths), rtol=1e-4, atol=1e-5)
    assert (str(index["checkpoint"]), str(index["checkpoint_sha256"])) == ("best.ckpt", model.sha256)
    assert (int(index["size"]), str(index["resize"]), int(index["channels"])) == (24, "squash", 3)


def test_lists_and_files_each_once(lifted: Lifted) -> None:
    Path("lists").mkdir()
    lines = ["../photos/class 0/0.png", "", "gone.jpg", str(Path("photos/class 1/1.jpg").resolve())]
    Path("lists/some.txt").write_text("\ufeff" + "\r\n".join(lines))
    arguments = ["lists/some.txt", "photos/class 2", "photos/class 2/0.png", "photos/class 3/3.bmp"]
    code, _, err = lifted("embed", *arguments, "--ckpt", "best.ckpt")
    assert code == 0
    assert err.splitlines() == [
        "warning: lists/gone.jpg: cannot be read (No such file or directory)",
        "warning: 1 of 9 images could not be read",
    ]
    with np.load("embeddings.npz", allow_pickle=False) as file:
        names = [str(path) for path in file["paths"]]
        classes = [str(file["class_names"][label]) if label >= 0 else "" for label in file["labels"]]
    of_class_2 = [f"photos/class 2/{n}" for n in ("0.png", "1.jpg", "2.png", "3.bmp", "4.jpg")]
    assert names == ["lists/../photos/class 0/0.png", lines[-1], *of_class_2, "photos/class 3/3.bmp"]
    assert classes == ["class 0", "class 1", "", "", "", "", "", "class 3"], "a folder that is given is no class"


def test_folders_of_one_name_in_different_places_are_different_classes(lifted: Lifted) -> None:
    for folder, there in (("photos/class 0", "letters/Latin/a"), ("photos/class 1", "letters/Greek/a")):
        Path(there).parent.mkdir(parents=True)
        Path(folder).rename(there)
    assert lifted("embed", "letters", "--ckpt", "best.ckpt")[0] == 0
    with np.load("embeddings.npz", allow_pickle=False) as file:
        assert file["class_names"].tolist() == ["Greek/a", "Latin/a"]
        assert set(file["labels"].tolist()) == {0, 1}


def test_links_back_are_not_followed_round_and_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop/a").mkdir(parents=True)
    Path("loop/a/x.png").touch()
    Path("loop/a/up").symlink_to("..")
    Path("loop/a/again").symlink_to("../a")
    assert find_images(["loop"]) == [("loop/a/x.png", "a")]


def test_an_image_without_an_ending_is_an_image(lifted: Lifted) -> None:
    Path("photos/class 0/0.png").rename("nameless")
    assert lifted("embed", "nameless", "--ckpt", "best.ckpt")[0] == 0
    with np.load("embeddings.npz", allow_pickle=False) as file:
        assert file["labels"].tolist() == [-1]


def test_many_images_show_progress(lifted: Lifted) -> None:
    draw_images(Path("many"), 15, 5)
    code, out, err = lifted("embed", "many", "--ckpt", "best.ckpt")
    assert (code, out) == (0, "75 embeddings: embeddings.npz\n")
    assert "75/75" in err
    assert "images/s" in err


def test_a_network_of_ones_own_in_the_current_folder(lifted: Lifted, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_net_here.py").write_text("from lifted_lightning import ConvNet\nclass Mine(ConvNet): ...\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(".")
        mine = {"class_path": "my_net_here.Mine", "init_args": {"channels": 3}}
        save_checkpoint(Path("mine.ckpt"), {"network": mine})
    sys.modules.pop("my_net_here", None)
    assert lifted("embed", "photos", "--ckpt", "mine.ckpt")[0] == 0


def test_an_index_that_is_there_is_kept_until_the_new_one_is_whole(
    lifted: Lifted, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("embeddings.npz").write_text("the old one")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    code, _, err = lifted("embed", "photos", "--ckpt", "best.ckpt")
    assert code == 2
    assert "embeddings.npz: cannot be written (No space left on device)" in err
    assert Path("embeddings.npz").read_text() == "the old one"
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
