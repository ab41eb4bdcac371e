"""The index of embedded images: read back as written, without pickle, and refused where it is not one."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.runs.embeddings import Embeddings, read_embeddings


def example(**changes: object) -> Embeddings:
    """An index of three images."""
    values = {
        "embeddings": np.arange(6, dtype=np.float32).reshape(3, 2), "paths": np.array(["a/ä b.jpg", "a/2", "/c/3.png"]),
        "labels": np.array([0, 0, -1]), "class_names": np.array(["a"]), "folder": "/somewhere", "checkpoint": "x.ckpt",
        "checkpoint_sha256": "12ab", "size": 24, "resize": "pad", "channels": 1, "distance": "cosine",
    }  # fmt: skip
    return Embeddings(**(values | changes))  # type: ignore[arg-type]


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    index = example()
    index.save(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    back = read_embeddings(tmp_path / "index")
    for field in fields(Embeddings):
        before, after = getattr(index, field.name), getattr(back, field.name)
        assert type(after) is type(before)
        assert np.array_equal(after, before)
    with np.load(tmp_path / "index", allow_pickle=False) as file:
        assert file["embeddings"].dtype == np.float32
        assert str(file["paths"][0]) == "a/ä b.jpg"
    assert (back.file(0), back.file(2)) == ("/somewhere/a/ä b.jpg", "/c/3.png")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(6, dtype=np.float32).tobytes()) + 5] ^= 255
    path.write_bytes(content)


def write(path: Path, **changes: object) -> None:
    np.savez(path.open("wb"), **(vars(example()) | changes))


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("not an index"),
    "truncated": halve,
    "a changed byte": spoil,
    "other arrays": lambda path: np.savez(path.open("wb"), embeddings=np.zeros((3, 2))),
    "pickled objects": lambda path: np.savez(path.open("wb"), embeddings=np.array([object()])),
    "labels missing": lambda path: write(path, labels=np.array([0])),
    "a class without a name": lambda path: write(path, labels=np.array([0, 1, 0])),
    "embeddings of one dimension": lambda path: write(path, embeddings=np.zeros(3)),
    "an unknown distance": lambda path: write(path, distance=np.array("l1")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_index_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "index.npz"
    example().save(path)
    FOREIGN[kind](path)
    with pytest.raises(UserError, match=r"index\.npz: is (no index of lifted embed|damaged)"):
        read_embeddings(path)


def test_a_missing_index_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.npz: no such index; make one with lifted embed"):
        read_embeddings(tmp_path / "gone.npz")


def test_what_is_not_finite_is_counted_and_neither_written_nor_read(tmp_path: Path) -> None:
    spoilt = np.array([[0, 1], [np.nan, 1], [2, np.inf]], dtype=np.float32)
    with pytest.raises(UserError, match="2 of 3 embeddings are not finite"):
        example(embeddings=spoilt).save(tmp_path / "index.npz")
    assert not list(tmp_path.iterdir())
    write(tmp_path / "index.npz", embeddings=spoilt)
    with pytest.raises(UserError, match="2 of 3 embeddings are not finite"):
        read_embeddings(tmp_path / "index.npz")


@pytest.mark.parametrize("kind", [">f4", "f8"])
def test_other_precisions_are_read_as_single(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "index.npz", embeddings=example().embeddings.astype(kind))
    back = read_embeddings(tmp_path / "index.npz")
    assert back.embeddings.dtype == np.dtype(np.float32)
    assert np.array_equal(back.embeddings, example().embeddings)
