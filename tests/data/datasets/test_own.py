"""A person's own images: folders of class folders, and CSV or Parquet files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.datasets import ImageFolder, RetrievalDataset, TableFile, data_root
from lifted_lightning.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 3)).save(path)


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


def test_class_in_both_train_and_test(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", ["a", "b"])
    make_folder(tmp_path / "test", ["b", "c"])
    assert "1 classes both train and test, for example b" in failure(ImageFolder(str(tmp_path)), tmp_path)


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
        ("Zeder/0.png", b"x", "Zeder: holds one image"),
        ("Zeder/", b"", "Zeder: holds no images"),
        ("Ahorn/notes.txt", b"x", "Ahorn/notes.txt: is no image"),
        ("Ahorn/old/0.png", b"x", "Ahorn/old: a folder in a class folder"),
        ("2.jpg", b"x", "2.jpg: lies beside the class folders"),
    ],
)
def test_what_does_not_belong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    make_folder(tmp_path)
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert f"{tmp_path}/{message}" in failure(ImageFolder(str(tmp_path)), tmp_path)


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
    ("b/0 ä.png", "dog", "train"),
    ("a/0.png", 7, "test"),
    ("b/1.png", "dog", "train"),
    ("./a/1.png", 7, "test"),
]
RANKED: Lines = [
    ("b/0.png", "dog", "train"),
    ("b/1.png", "dog", "train"),
    ("a/0.png", "cat", "gallery"),
    ("a/1.png", "cat", "query"),
    ("a/2.png", "hen", "gallery"),
]


def make_table(folder: Path, lines: Lines, suffix: str = ".csv", delimiter: str = ",") -> str:
    for path, *_ in lines:
        if path:
            picture(folder / str(path))
    file = folder / f"birds{suffix}"
    if suffix == ".csv":
        text = "\n".join(delimiter.join(map(str, line)) for line in [("path", "label", "split"), *lines])
        file.write_text(text, encoding="utf-8")
    else:
        import pandas

        columns = zip(*lines, strict=True)
        frame = pandas.DataFrame(dict(zip(("path", "label", "split"), columns, strict=True)))
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


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_query_and_gallery(tmp_path: Path, suffix: str) -> None:
    table = TableFile(make_table(tmp_path, RANKED, suffix)).table(tmp_path)
    assert table.query is not None
    assert table.gallery is not None
    assert [table.items[row] for row in table.query] == ["a/1.png"]
    assert [table.items[row] for row in table.gallery] == ["a/0.png", "a/2.png"]


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
        ([*PLAIN, ("c.png", "dog", "test"), ("d.png", "dog", "test")], "both train and test, for example dog"),
        ([*PLAIN, ("c.png", "cat", "train")], "label 'cat' has one image in train"),
        ([*PLAIN, ("c.png", "cat", "gallery")], "has the splits train, test, gallery"),
        (PLAIN[:1] + PLAIN[2:3], "has the splits train; it needs"),
        ([*RANKED, ("c.png", "cow", "query")], "label 'cow' has queries and no gallery image"),
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


def test_parquet_without_a_column_or_a_label(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"path": ["a", "b"], "label": ["x", None], "split": ["train", "train"]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert "line 2 has no label" in failure(TableFile("t.parquet"), tmp_path)
    frame.drop(columns="label").to_parquet(tmp_path / "t.parquet")
    assert "no column label (found: path, split)" in failure(TableFile("t.parquet"), tmp_path)


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


def test_names_on_the_command_line() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RetrievalDataset, "dataset")
    found = parser.parse_args(["--dataset=ImageFolder", "--dataset.path=birds", "--dataset.test_share=0.25"])
    assert found.dataset.class_path.endswith(".ImageFolder")
    assert vars(found.dataset.init_args) == {"path": "birds", "test_share": 0.25}
    for name in ("CUB200", "Cars196", "Glyphs", "InShop", "Omniglot", "StanfordOnlineProducts"):
        assert parser.parse_args([f"--dataset={name}"]).dataset.class_path.endswith(f".{name}")
