"""Glyphs: the classes it documents, drawn as it documents, and as hard as it should be."""

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from lifted_lightning.data.datasets import Glyphs
from lifted_lightning.data.datasets.glyphs import FACES
from lifted_lightning.data.table import ImageTable


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return Glyphs().table(Path("nowhere"))


@pytest.fixture(scope="module")
def images(table: ImageTable) -> np.ndarray:
    return np.stack([np.asarray(table.read(row)) for row in range(len(table))])


def test_classes_are_letters_and_numbers_in_order(table: ImageTable) -> None:
    characters = [chr(int(name.split(" ")[0][2:], 16)) for name in table.class_names]
    assert characters == sorted(set(characters))
    assert {unicodedata.category(c)[0] for c in characters} == {"L", "N"}
    assert table.class_names[10] == "U+0041 LATIN CAPITAL LETTER A"
    assert 1_750 < len(characters) < 1_900


def test_8_to_16_faces_each_and_the_first_half_trains(table: ImageTable) -> None:
    counts = np.bincount(table.labels)
    assert len(FACES) == len(set(FACES)) == 16
    assert (counts.min(), counts.max()) == (8, 16)
    assert table.labels[table.train].max() + 1 == table.labels[table.test].min() == len(table.class_names) // 2
    assert len(table.train) + len(table.test) == len(table) == len(set(table.items))
    assert Glyphs().table(Path("elsewhere")).key == table.key


def test_no_two_classes_look_alike_in_the_regular_face(table: ImageTable, images: np.ndarray) -> None:
    firsts = np.unique(table.labels, return_index=True)[1]
    assert len({images[row].tobytes() for row in firsts}) == len(firsts)
    code_points = {name.split(" ")[0] for name in table.class_names}
    assert "U+0041" in code_points  # Latin A
    assert not code_points & {"U+0391", "U+0410"}  # Greek and Cyrillic A


def test_drawings(images: np.ndarray) -> None:
    assert images.shape[1:] == (64, 64)
    assert images.dtype == np.uint8
    assert (images.min(axis=(1, 2)) < 128).all()  # none is blank
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (edges.min(axis=1) < 255).mean() < 0.01  # nearly all fit


def test_no_face_draws_the_box_of_missing_glyphs(table: ImageTable, images: np.ndarray) -> None:
    for face in FACES:
        rows = [row for row, item in enumerate(table.items) if item.endswith(f" {face}")]
        drawings = [images[row].tobytes() for row in rows]
        most = max(np.unique([hash(d) for d in drawings], return_counts=True)[1])
        assert most <= 4, face  # italic faces have a few letters alike; a box would come in hundreds


def test_reads_one_by_one_and_in_other_processes(table: ImageTable) -> None:
    reader = pickle.loads(pickle.dumps(table.reader))
    found = reader("U+0041 DejaVuSans")
    assert found.mode == "L"
    box = ImageChops.invert(found).getbbox()
    assert box is not None
    assert box[3] == 51  # it stands on the baseline
    assert abs((box[0] + box[2]) / 2 - 32) <= 1
    assert ImageChops.difference(found, table.reader("U+0041 DejaVuSans-Bold")).getbbox() is not None


def test_raw_pixels_find_about_four_in_ten(table: ImageTable, images: np.ndarray) -> None:
    resized = [np.asarray(Image.fromarray(images[row]).resize((32, 32), Image.Resampling.BOX)) for row in table.test]
    pixels = torch.from_numpy(np.stack(resized)).flatten(1).float() / 255
    labels = torch.from_numpy(table.labels[table.test])
    queries = torch.arange(0, len(pixels), 5)
    distances = torch.cdist(pixels[queries], pixels)
    distances[torch.arange(len(queries)), queries] = torch.inf
    recall = (labels[distances.argmin(dim=1)] == labels[queries]).float().mean()
    assert recall == pytest.approx(0.39, abs=0.03)
