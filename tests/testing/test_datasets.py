"""The contract of data sets: each planted fault is found by its question, and ours and sound ones have none."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from PIL import Image

from experiments.own.my_images import Shapes
from lifted_lightning.data.datasets import Glyphs, ImageFolder, Omniglot
from lifted_lightning.data.datasets.base import Counts
from lifted_lightning.testing import check_dataset
from tests.helpers.images import draw_images
from tests.helpers.tiny import Blobs, blob

TABLE = "has a table of the right counts, whose parts share no class"
ORDER = "labels are dense, classes named, rows ascending"
READS = "a sample of images can be read, in other processes too"
CALLS = count()


def changed(**changes):
    """Blobs whose table differs by these, each made of the table."""

    class Faulty(Blobs):
        def table(self, root):
            table = super().table(root)
            return replace(table, **{name: make(table) for name, make in changes.items()})

    return Faulty()


def of_floats(item):
    return Image.fromarray(np.asarray(blob(item)).astype(np.float32))


def broken(item):
    raise OSError("image file is truncated")


def different_each_time(item):
    return blob(f"{item.split('/')[0]}/{next(CALLS)}")


class NoTitle(Blobs):
    title = ""


class OtherCounts(Blobs):
    expected = Counts(1, 1, 1, 1)


FAULTS = {
    "no title": (NoTitle(), TABLE),
    "other counts": (OtherCounts(), TABLE),
    "cameras of other images": (changed(cameras=lambda t: np.zeros(3, dtype=np.int64)), TABLE),
    "a class in two parts": (changed(test=lambda t: np.append(t.train[-1:], t.test)), TABLE),
    "a class without images": (changed(class_names=lambda t: [*t.class_names, "x"]), ORDER),
    "one name for two": (changed(class_names=lambda t: ["x"] * 40), ORDER),
    "labels of 32 bits": (changed(labels=lambda t: t.labels.astype(np.int32)), ORDER),
    "rows out of order": (changed(train=lambda t: t.train[::-1]), ORDER),
    "a row twice": (changed(test=lambda t: np.sort(np.append(t.test, t.test[0]))), ORDER),
    "no test": (changed(test=lambda t: t.test[:0]), ORDER),
    "a single image": (changed(test=lambda t: t.test[7:]), "each query has an answer, each training class a pair"),
    "another key each time": (changed(key=lambda t: f"k{next(CALLS)}"), "is the same table when it is made again"),
    "a reader of lambda": (changed(reader=lambda t: lambda item: blob(item)), READS),
    "a broken image": (changed(reader=lambda t: broken), READS),
    "another image each time": (changed(reader=lambda t: different_each_time), READS),
    "floats": (changed(reader=lambda t: of_floats), READS),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name):
    dataset, question = FAULTS[name]
    assert [finding.question for finding in check_dataset(dataset).failed] == [question]


def test_sound_data_sets_pass(tmp_path):
    draw_images(tmp_path / "photos", classes=8)
    for dataset in (Blobs(), Glyphs(), ImageFolder(str(tmp_path / "photos")), Shapes()):
        findings = check_dataset(dataset)
        assert not findings.failed
        assert len(findings) == 5


def test_one_that_is_not_there_is_one_finding(tmp_path):
    (finding,) = check_dataset(Omniglot(), tmp_path).failed
    assert "Omniglot not found: looked for" in finding.detail
