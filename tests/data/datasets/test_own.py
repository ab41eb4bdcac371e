"""A person's own images: folders of class folders, and CSV or Parquet files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lifted_lightning.data.datasets import ImageFolder, RetrievalDataset, TableFile, data_root
from lifted_lightning.data.datasets.base import Counts
from lifted_lightning.data.table import positives, split_training_rows, with_pairs
from lifted_lightning.errors import UserError
from tests.data.datasets.test_published import picture


def make_folder(base: Path, classes: Sequence[str] = ("Ahorn", "Birke ä", "Eiche", "Linde", "Ulme")) -> Path:
    for name in classes:
        for i in range(2):
            picture(base / name / f"{i}.png")
    return base


def failure(dataset: RetrievalDataset, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        dataset.table(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTED_DATA_DIR", "/somewhere")
    assert data_root("~/x") == Path.home() / "x"
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("LIFTED_DATA_DIR")
    assert data_root() == Path("data")


# ImageFolder


@pytest.mark.parametrize(("share", "test"), [(0.5, 2), (0.4, 2), (0.6, 3)])
def test_the_last_classes_test(tmp_path: Path, share: float, test: int) -> None:
    make_folder(tmp_path / "trees")
    table = ImageFolder("trees", test_share=share).table(tmp_path)
    assert table.name == "trees"
    assert table.class_names == ["Ahorn", "Birke ä", "Eiche", "Linde", "Ulme"]
    assert np.unique(table.labels[table.test]).tolist() == list(range(5 - test, 5))
    assert np.unique(table.labels[table.train]).tolist() == list(range(5 - test))
    assert table.items[2] == "Birke ä/0.png"
    assert table.read(2).size == (3, 3)


def test_explicit_train_and_test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", ["a", "z"])
    make_folder(tmp_path / "test", ["b", "c", "d"])
    table = ImageFolder(str(tmp_path)).table(Path("nowhere"))
    assert table.class_names == ["a", "z", "b", "c", "d"]
    assert [table.items[row] for row in table.train] == [f"train/{c}/{i}.png" for c in "az" for i in range(2)]
    assert len(table.test) == 6


def test_a_val_folder_has_the_validation_classes(tmp_path: Path) -> None:
    for part, classes in (("train", "az"), ("val", "m"), ("test", "bcd")):
        make_folder(tmp_path / part, list(classes))
    (tmp_path / "notes").mkdir()
    table = ImageFolder(str(tmp_path)).table(Path("nowhere"))
    assert [table.items[row] for row in table.validation] == ["val/m/0.png", "val/m/1.png"]
    assert (len(table.train), len(table.test)) == (4, 6)
    assert str(Counts.of(table)).endswith("2 validation images, 1 validation class")
    assert [part.tolist() for part in split_training_rows(table, 0, 0.5)] == [[0, 1, 2, 3], [4, 5]], "no share"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/a", "train/b", "test/c", "test/d", "val/e", "valid/f"], "in test, train, val, valid; they must"),
        (["train/a", "train/b", "val/c", "val/d"], "has class folders in train, val; they must"),
        (["train/a", "train/b", "test/c", "test/d", "val"], "lies beside the class folders"),
    ],
)
def test_folders_that_are_no_split(tmp_path: Path, folders: Sequence[str], message: str) -> None:
    make_folder(tmp_path, folders)
    assert message in failure(ImageFolder(str(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train", "test"), "both train and test"), (("train", "val", "test"), "both train and validate"),
        (("test", "val", "train"), "both validate and test"),
    ],
)  # fmt: skip
def test_a_class_in_two_parts(tmp_path: Path, parts: Sequence[str], message: str) -> None:
    for part, classes in zip(parts, ("ab", "bc", "de"), strict=False):
        make_folder(tmp_path / part, list(classes))
    assert f"1 classes {message}: b; give each one part" in failure(ImageFolder(str(tmp_path)), tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\x1b[31mred", b"two\nlines"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    make_folder(tmp_path)
    picture(tmp_path / os.fsdecode(name) / "0.png")
    found = failure(ImageFolder(str(tmp_path)), tmp_path)
    assert "2 names of classes and images are no UTF-8 or hold control characters, for example '" in found
    assert found.isprintable()


def test_single_images_are_found_in_every_part(tmp_path: Path) -> None:
    for part, classes in (("train", "abc"), ("val", "mn"), ("test", "xyz")):
        make_folder(tmp_path / part, list(classes))
    for path in ("train/b/0.png", "val/n/1.png", "test/x/1.png"):
        (tmp_path / path).unlink()
    table = ImageFolder(str(tmp_path)).table(tmp_path)
    with pytest.raises(UserError, match=r"3 classes have a single image.*: b, n, x; add images, or .*=leave_out"):
        with_pairs(table)
    kept, names = with_pairs(table, leave_out=True)
    assert names == ["b", "n", "x"]
    assert [kept.items[row] for row in kept.validation] == ["val/m/0.png", "val/m/1.png"]
    assert (len(kept.train), len(kept.test), len(kept)) == (4, 4, 13)
    (tmp_path / "val/m/0.png").unlink()
    with pytest.raises(UserError, match=r": b, m, n, x; add images$"):
        with_pairs(ImageFolder(str(tmp_path)).table(tmp_path), leave_out=True)


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("Ahorn/._0.png", "Ahorn/.DS_Store", "Eiche/Thumbs.db", "README.txt", ".git/x/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert len(ImageFolder(str(tmp_path)).table(tmp_path)) == 10


def test_key_follows_the_content(tmp_path: Path) -> None:
    make_folder(tmp_path)
    keys = [ImageFolder(str(tmp_path)).table(tmp_path).key for _ in range(2)]
    image = tmp_path / "Ulme" / "2.JPG"
    for content, time in ((b"new", 1), (b"old", 2), (b"older", 2)):  # another file, time, size
        image.write_bytes(content)
        os.utime(image, (time, time))
        keys.append(ImageFolder(str(tmp_path)).table(tmp_path).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Zeder/", b"", ": 1 class folder empty, or with what is no image (by its ending): Zeder; move"),
        ("Ahorn/notes.txt", b"x", "is no image (by its ending): Ahorn/notes.txt;"),
        ("Ahorn/old/0.png", b"x", "is no image (by its ending): Ahorn/old;"),
        ("2.jpg", b"x", "/2.jpg: lies beside the class folders"),
    ],
)
def test_what_does_not_belong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    make_folder(tmp_path)
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = failure(ImageFolder(str(tmp_path)), tmp_path)
    assert found.startswith(str(tmp_path))
    assert message in found


def test_empty_missing_or_too_small_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "small", ["a", "b", "c"])
    assert "empty: has no class folders" in failure(ImageFolder("empty"), tmp_path)
    assert f"nix: no such folder, here or below {tmp_path}" in failure(ImageFolder("nix"), tmp_path)
    assert "1 class folders train and 2 test" in failure(ImageFolder("small"), tmp_path)
    with pytest.raises(UserError, match=r"test_share 1\.0"):
        ImageFolder("small", test_share=1.0)


# TableFile

Lines = Sequence[tuple[object, object, object]]
PLAIN: Lines = [
    ("b/0 ä.png", "dog", "train"), ("a/0.png", 7, "test"), ("b/1.png", "dog", "train"), ("./a/1.png", 7, "test"),
]  # fmt: skip


def make_table(folder: Path, lines: Sequence[Sequence[object]], suffix: str = ".csv", delimiter: str = ",") -> str:
    for path, *_ in lines:
        if path:
            picture(folder / str(path))
    file = folder / f"birds{suffix}"
    if suffix == ".csv":
        header = ("path", "label", "split", "camera")[: max(3, *map(len, [(), *lines]))]
        text = "\n".join(delimiter.join(map(str, line)) for line in [header, *lines])
        file.write_text(text, encoding="utf-8")
    else:
        import pandas

        columns = zip(*lines, strict=True)
        frame = pandas.DataFrame(dict(zip(("path", "label", "split", "camera"), columns, strict=False)))
        frame.astype({"label": "string"}).to_parquet(file)
    return file.name


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_train_and_test(tmp_path: Path, suffix: str) -> None:
    table = TableFile(make_table(tmp_path, PLAIN, suffix)).table(tmp_path)
    assert table.name == "birds"
    assert table.class_names == ["7", "dog"]
    assert list(table.items) == ["a/0.png", "a/1.png", "b/0 ä.png", "b/1.png"]
    assert table.labels.tolist() == [0, 0, 1, 1]
    assert (table.train.tolist(), table.test.tolist()) == ([2, 3], [0, 1])
    assert table.query is None
    assert table.read(2).size == (3, 3)


PROTOCOL: Sequence[Sequence[object]] = [
    ("b/0.png", "dog", "train", 2), ("b/1.png", "dog", "train", "10"), ("v/0.png", "owl", "val", 2),
    ("v/1.png", "owl", "val", 2), ("a/0.png", "cat", "query+gallery", "10"), ("a/1.png", "cat", "query", 2),
    ("a/2.png", "cat", "gallery", 2), ("a/3.png", "hen", "gallery", 3),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_validation_cameras_and_queries_in_the_gallery(tmp_path: Path, suffix: str) -> None:
    lines = PROTOCOL if suffix == ".csv" else [(*line[:3], str(line[3])) for line in PROTOCOL]
    table = TableFile(make_table(tmp_path, lines, suffix)).table(tmp_path)
    named = {part: [table.items[row] for row in getattr(table, part)] for part in ("query", "gallery", "validation")}
    assert named == {
        "query": ["a/0.png", "a/1.png"],
        "gallery": ["a/0.png", "a/2.png", "a/3.png"],
        "validation": ["v/0.png", "v/1.png"],
    }
    assert table.cameras.tolist() == [0, 1, 1, 1, 0, 2, 1, 1], "of the rows by label: cat, dog, hen, owl"
    assert with_pairs(table)[1] == [], "a single image in the gallery is there to be confused with"
    assert positives(table, table.query, table.gallery, by_camera=False).tolist() == [1, 2]
    assert positives(table, table.query, table.gallery).tolist() == [1, 1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / make_table(tmp_path, PLAIN, delimiter=delimiter)
    text = file.read_text(encoding="utf-8").replace("split", f"split{delimiter}remark", 1).replace("dog", '"dog"')
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert TableFile(str(file)).table(tmp_path).class_names == ["7", "dog"]


def test_absolute_paths(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "2.png"
    picture(outside)
    (tmp_path / "in").mkdir()
    lines = [(tmp_path / "in" / str(p), label, split) for p, label, split in PLAIN]
    file = make_table(tmp_path / "in", [*lines, (outside, 7, "test")])
    table = TableFile(f"in/{file}").table(tmp_path)
    assert list(table.items) == ["a/0.png", "a/1.png", str(outside), "b/0 ä.png", "b/1.png"]
    assert table.read(2).size == (3, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*PLAIN, ("c.png", "", "test")], "line 6 has no label"),
        ([*PLAIN, ("", "dog", "train")], "line 6 has no path"),
        ([*PLAIN, ("c.png", "dog", "valid")], "line 6 has the split 'valid'"),
        ([*PLAIN, ("a/../b/1.png", "dog", "train")], "b/1.png is listed twice"),
        ([*PLAIN, ("c.png", "dog", "test"), ("d.png", "dog", "test")], "both train and test: dog;"),
        ([*PLAIN, ("c.png", "cat", "gallery")], "has the splits train, test, gallery"),
        ([*PROTOCOL[:4], PROTOCOL[-1]], "has the splits train, val, gallery"),
        ([*PROTOCOL[:-1], ("c.png", "cow", "gallery", "")], "line 9 has no camera"),
        ([*PROTOCOL, ("c.png", "owl", "train", 1)], "both train and validate: owl;"),
        (PLAIN[:1] + PLAIN[2:3], "has the splits train; it needs"),
        ([], "has the splits none"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, lines: Lines, message: str) -> None:
    found = failure(TableFile(make_table(tmp_path, lines)), tmp_path)
    assert message in found
    assert "birds" in found or "TableFile" in found


def test_missing_image(tmp_path: Path) -> None:
    file = make_table(tmp_path, PLAIN)
    (tmp_path / "b/1.png").unlink()
    assert f"1 of 4 listed images are missing, for example {tmp_path}/b/1.png" in failure(TableFile(file), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path,class,split\na,b,train", "no column label (found: path, class, split)"),
        ("t.csv", b"", "cannot be read as a table (No columns"),
        ("t.csv", b"path,label,split\n\na.png,dog,train\nb.png,dog", "line 4 has no split"),
        ("t.csv", b"path,label,split\na.png,dog,train\nb,1.png,dog,train", "Expected 3 fields in line 3, saw 4"),
        ("t.csv", b"path,label,split\nb,1.png,dog,train\na.png,dog,train", "more fields than the header"),
        ("t.csv", b'path,label,split\na.png,"dog,train', "cannot be read as a table"),
        ("t.csv", b"path,label,split\n\xff\xfe,a,train", "is not UTF-8"),
        ("t.csv", b"path,label,split\na.png,dog", "line 2 has no split"),
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.csv", None, "t.csv: no such file, here or below"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = failure(TableFile(name), tmp_path)
    assert message in found
    assert name in found


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_are_text(tmp_path: Path, suffix: str) -> None:
    labels = ["001", "1", "NA", "None", "True", "nan", "1.0", "null"]
    lines = [(f"{i}.png", label, "train" if i < 8 else "test") for i, label in enumerate(np.repeat(labels, 2))]
    table = TableFile(make_table(tmp_path, lines, suffix)).table(tmp_path)
    assert table.class_names == sorted(labels)


def test_labels_of_parquet_that_are_numbers(tmp_path: Path) -> None:
    import pandas

    lines = [(f"{i}.png", i // 2 + 5, "train" if i < 4 else "test") for i in range(8)]
    for path, *_ in lines:
        picture(tmp_path / path)
    frame = pandas.DataFrame(lines, columns=["path", "label", "split"])
    frame.set_index("path").to_parquet(tmp_path / "t.parquet")
    assert TableFile("t.parquet").table(tmp_path).class_names == ["5", "6", "7", "8"]
