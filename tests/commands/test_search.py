"""`lifted search` against sorting all distances with numpy; what it draws; and one line for what it cannot do."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lifted_lightning
from lifted_lightning.pictures.gallery import RIGHT, UNKNOWN, WRONG, draw_gallery
from tests.commands.conftest import Lifted
from tests.helpers.checkpoints import save_checkpoint

INDEX = ["--index", "index.npz"]


@pytest.fixture(autouse=True)
def index(lifted: Lifted) -> None:
    """An index of the photos, ``index.npz``."""
    assert lifted("embed", "photos", "--ckpt", "best.ckpt", "--out", "index.npz", "--device", "cpu")[0] == 0


def found(output: str) -> list[tuple[str, int, float, str]]:
    """The lines of the table that is printed."""
    header, *lines = output.splitlines()
    assert header.split() == ["query", "rank", "distance", "path"]
    width = header.index("  rank")
    table = [line for line in lines if not line.startswith("gallery")]
    rows = [(line[:width].rstrip(), *line[width:].split(maxsplit=2)) for line in table]
    return [(query, int(rank), float(distance), path) for query, rank, distance, path in rows]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_equals_sorting_all_distances(lifted: Lifted, distance: str) -> None:
    save_checkpoint(Path("best.ckpt"), distance=distance)
    assert lifted("embed", "photos", "--ckpt", "best.ckpt", "--out", "index.npz", "--device", "cpu")[0] == 0
    shutil.copy("photos/class 2/0.png", "new.png")
    queries = ["new.png", "photos/class 1/3.bmp", os.path.abspath("photos/class 0/2.png")]
    code, out, err = lifted("search", *queries, *INDEX, "--k", "19", "--device", "cpu")
    assert code == 0
    assert len(err.splitlines()) == 2, "two of them are in the index"
    assert "photos/class 1/3.bmp is in the index itself: left out" in err

    with np.load("index.npz", allow_pickle=False) as file:
        embeddings, paths = file["embeddings"].astype(float), file["paths"].tolist()
    vectors = lifted_lightning.load("best.ckpt", "cpu").embed(queries).astype(float)
    if distance == "cosine":
        embeddings, vectors = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (embeddings, vectors))
    rows = iter(found(out))
    for query, vector in zip(queries, vectors, strict=True):
        distances = np.linalg.norm(embeddings - vector, axis=1)
        order = [row for row in np.argsort(distances) if os.path.realpath(paths[row]) != os.path.realpath(query)]
        for rank, row in enumerate(order[:19], start=1):
            assert next(rows) == (query, rank, pytest.approx(distances[row], rel=1e-3, abs=1e-5), paths[row])
    assert not list(rows)


def test_as_many_as_there_are_by_default_ten(lifted: Lifted) -> None:
    assert len(found(lifted("search", "photos/class 0/0.png", *INDEX)[1])) == 10
    assert lifted("embed", "photos/class 0", "--ckpt", "best.ckpt", "--out", "few.npz")[0] == 0
    assert len(found(lifted("search", "photos/class 0/0.png", "--index", "few.npz")[1])) == 4


def test_from_another_folder(lifted: Lifted, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    query = "../photos/class 0/0.png"
    code, out, err = lifted("search", query, "--index", "../index.npz", "--k", "2", "--gallery", "g.png")
    assert (code, err) == (0, f"{query} is in the index itself: left out of its own answer\n")
    assert all(path.startswith("photos/class 0/") for *_, path in found(out))


def test_the_gallery(lifted: Lifted, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    draw = draw_gallery

    def watch(path: Path, *arguments: Any) -> None:
        drawn.update(zip(("images", "names", "status", "headings", "title"), arguments, strict=True))
        draw(path, *arguments)

    monkeypatch.setattr("lifted_lightning.pictures.gallery.draw_gallery", watch)
    shutil.copy("photos/class 2/0.png", "new.png")
    Path("photos/class 1/0.png").unlink()
    queries = ["new.png", "photos/class 1/3.bmp"]
    code, out, err = lifted("search", *queries, *INDEX, "--k", "19", "--gallery", "g.png")
    assert code == 0
    assert "warning: " in err, "one image is gone"
    rows = found(out)
    classes = np.array([Path(path).parent.name for *_, path in rows]).reshape(2, 19)
    expected = np.stack([np.full(19, UNKNOWN), np.where(classes[1] == "class 1", RIGHT, WRONG)])
    assert np.array_equal(drawn["status"], expected)
    assert drawn["images"].shape == (2, 20, 128, 128, 3)
    assert drawn["names"][0][0] == "new"
    assert re.fullmatch(r"d=\S+ class 2/0", drawn["names"][0][1])
    gone = [path.endswith("class 1/0.png") for *_, path in rows].index(True)
    assert (drawn["images"].reshape(40, -1)[[1 + gone + gone // 19]] == 255).all(), "it is white"
    with Image.open("g.png") as picture:
        assert picture.width > 1000


def test_names_of_an_index_do_not_steer_the_terminal(lifted: Lifted) -> None:
    Path("photos/class 2/0.png").rename("photos/\x1b[31mred\x07.png")
    odd = os.fsdecode(b"photos/caf\xe9.png")
    Path("photos/class 1/0.png").rename(odd)
    Path("photos/\x1b[2Jbroken.png").touch()
    code, _, err = lifted("embed", "photos", "--ckpt", "best.ckpt", "--out", "index.npz")
    assert code == 0
    arguments = [*INDEX, "--k", "19", "--gallery", "found.png"]
    code, out, errors = lifted("search", "photos/class 0/0.png", odd, *arguments)
    assert code == 0
    assert "photos/\ufffd[31mred\ufffd.png\n" in out
    assert "photos/caf\ufffd.png " in out
    assert (out + err + errors).replace("\n", "").isprintable()


def test_a_checkpoint_that_was_moved_is_given(lifted: Lifted) -> None:
    Path("best.ckpt").rename("moved.ckpt")
    assert lifted("search", "photos/class 0/0.png", *INDEX, "--ckpt", "moved.ckpt")[0] == 0


def test_a_query_that_cannot_be_read_is_one_line(lifted: Lifted) -> None:
    for query, why in (("index.npz", "is empty, no image"), ("gone.png", "cannot be read (No such file")):
        code, out, err = lifted("search", query, *INDEX)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith(f"lifted search: {query}: {why}")
