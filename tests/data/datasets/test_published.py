"""The published data sets: small trees in their true layouts, quirks and all; and real ones."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.datasets import CUB200, Cars196, InShop, Omniglot, RetrievalDataset, StanfordOnlineProducts
from lifted_lightning.data.datasets.base import Counts
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError
from lifted_lightning.testing import check_dataset


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 3), shade).save(path)


def stray(path: Path) -> None:
    """What macOS leaves in archives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0\5\26\7")


def split_names(table: ImageTable) -> tuple[list[str], list[str]]:
    names = np.array(table.class_names)
    return tuple(names[np.unique(table.labels[rows])].tolist() for rows in (table.train, table.test))


# Each makes a tree below a root and returns a data set that expects just that tree.


def make_omniglot(root: Path) -> None:
    for part, alphabet in (("images_background", "Greek"), ("images_evaluation", "Ge_ez")):
        for c in (1, 2):
            folder = root / "omniglot-py" / part / alphabet / f"character{c:02}"
            for i in range(2):
                picture(folder / f"{c:04}_{i:02}.png", 10 * c + i)
            stray(folder / f"._{c:04}_00.png")
        stray(root / "omniglot-py" / part / "._Greek")
        (root / "omniglot-py" / part / "notes.txt").write_text("x")


def make_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    species = [f"{c:03}.Bird_{c}" for c in range(1, 201)]
    # The images are not listed by class, so that only their labels tell it.
    images = [f"{species[c - 1]}/Bird_{i:04}_{c}.jpg" for i in range(2) for c in (200, 1, 101, 100)]
    for i, image in enumerate(images):
        picture(folder / "images" / image, i)
    stray(folder / "images" / species[0] / "._Bird_0000_1.jpg")
    write(folder / "classes.txt", [f"{c} {name}" for c, name in enumerate(species, 1)])
    write(folder / "images.txt", [f"{i} {image}" for i, image in enumerate(images, 1)])
    write(folder / "image_class_labels.txt", [f"{i} {int(image[:3])}" for i, image in enumerate(images, 1)])
    write(folder / "train_test_split.txt", [f"{i} {i % 2}" for i in range(1, 9)])


def write(path: Path, lines: list[str]) -> None:
    """A text file with Windows line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


CARS = [(196, 1), (1, 0), (98, 1), (99, 0), (1, 1), (98, 0), (99, 1), (196, 0)]  # class, whether for testing
MODELS = [f"Make Model {c}" for c in range(1, 197)]


def save_mat(path: Path, name: str, kinds: list[tuple[str, object]], cars: list[tuple]) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.array(cars, dtype=kinds) if cars else None
    names = {"class_names": np.array(MODELS, dtype=object)}
    savemat(path, {"annotations": content, **names} if name == "both" else {name: content} if cars else names)


def make_cars_original(root: Path) -> None:
    kinds = [("relative_im_path", object), ("bbox_x1", float), ("class", float), ("test", float)]
    cars = [(f"car_ims/{i:06}.jpg", 1.0, float(c), float(t)) for i, (c, t) in enumerate(CARS, 1)]
    save_mat(root / "cars196" / "cars_annos.mat", "both", kinds, cars)
    for car in cars:
        picture(root / "cars196" / car[0])
    stray(root / "cars196" / "car_ims" / "._000001.jpg")


def make_cars_torchvision(root: Path) -> None:
    folder = root / "stanford_cars"
    kinds = [("bbox_x1", float), ("class", float), ("fname", object)]
    files = ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
    for test, (part, file) in enumerate(zip(("train", "test"), files, strict=True)):
        chosen = [c for c, t in CARS if t == test]
        cars = [(1.0, float(c), f"{i:05}.jpg") for i, c in enumerate(chosen, 1)]  # the same names in both folders
        save_mat(folder / file, "annotations", kinds, cars)
        for car in cars:
            picture(folder / f"cars_{part}" / car[2], test)
    save_mat(folder / "devkit" / "cars_meta.mat", "class_names", [], [])


def make_sop(root: Path) -> None:
    folder = root / "Stanford_Online_Products"
    number = 0
    for split, products in (("train", (1, 2)), ("test", (11319, 11320))):
        lines = ["image_id class_id super_class_id path"]
        for product in products:
            for i in range(2):
                number += 1
                path = f"bicycle_final/{product}0_{i}.JPG"
                picture(folder / path)
                lines.append(f"{number} {product} 1 {path}")
        write(folder / f"Ebay_{split}.txt", lines)
    stray(folder / "bicycle_final" / "._10_0.JPG")


def make_inshop(root: Path, folder: str = "inshop", part: str = "", images: str = "") -> None:
    lines = []
    garments = ((1, "train train"), (7, "query gallery gallery"), (3, "train train"), (9, "query gallery"))
    for item, statuses in garments:
        for i, status in enumerate(statuses.split()):
            image = f"img/WOMEN/Dresses/id_{item:08}/0{i}_1_front.jpg"
            picture(root / folder / images / image)
            lines.append(f"{image:<60} id_{item:08}   {status}")
    header = [str(len(lines)), "image_name item_id evaluation_status"]
    write(root / folder / part / "list_eval_partition.txt", [*header, *lines])


def make_inshop_as_published(root: Path) -> None:
    make_inshop(root, "In-shop Clothes Retrieval Benchmark", "Eval", "Img")


Case = tuple[RetrievalDataset, Path]
EIGHT = Counts(train_images=4, train_classes=2, test_images=4, test_classes=2)
NINE = Counts(4, 2, 5, 2, query_images=2, gallery_images=3)
CARS_CLASSES = ("Make Model 1|Make Model 98", "Make Model 99|Make Model 196")
ITEMS = ("id_00000001|id_00000003", "id_00000007|id_00000009")
# How to make it, its class, what it counts, and the classes that train and test.
MAKERS: dict[str, tuple[Callable[[Path], None], type[RetrievalDataset], Counts, str, str]] = {
    "omniglot": (
        *(make_omniglot, Omniglot, EIGHT),
        *("Greek/character01|Greek/character02", "Ge_ez/character01|Ge_ez/character02"),
    ),
    "cub": (make_cub, CUB200, EIGHT, "001.Bird_1|100.Bird_100", "101.Bird_101|200.Bird_200"),
    "cars": (make_cars_original, Cars196, EIGHT, *CARS_CLASSES),
    "cars of torchvision": (make_cars_torchvision, Cars196, EIGHT, *CARS_CLASSES),
    "sop": (
        *(make_sop, StanfordOnlineProducts, EIGHT),
        *("bicycle 00001|bicycle 00002", "bicycle 11319|bicycle 11320"),
    ),
    "inshop": (make_inshop, InShop, NINE, *ITEMS),
    "inshop as published": (make_inshop_as_published, InShop, NINE, *ITEMS),
}


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    make, cls, counts, _, _ = MAKERS[request.param]
    root = tmp_path / "meine Daten ä"
    make(root)
    monkeypatch.setattr(cls, "expected", counts)
    return cls(), root


def test_table_has_the_classes_the_split_and_the_files(case: Case, request: pytest.FixtureRequest) -> None:
    dataset, root = case
    table = dataset.table(root)
    train, test = (names.split("|") for names in MAKERS[request.node.callspec.params["case"]][3:])
    assert split_names(table) == (train, test)
    assert table.class_names == train + test
    assert not check_dataset(dataset, root).failed
    assert dataset.present(root)
    assert all((root / item).is_file() and "._" not in item for item in table.items)


def test_key_changes_with_a_file_and_not_with_the_place(case: Case, tmp_path: Path) -> None:
    dataset, root = case
    table = dataset.table(root)
    shutil.copytree(root, tmp_path / "copy")
    assert dataset.table(tmp_path / "copy").key == table.key
    path = root / table.items[-1]
    path.write_bytes(path.read_bytes() + b"\0")
    assert dataset.table(root).key != table.key


def test_wrong_counts_are_an_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, root = case
    monkeypatch.setattr(type(dataset), "expected", Counts(5, 2, 4, 2))
    with pytest.raises(UserError, match=r"found 4 train images, 2 train classes.* it must be 5 train images"):
        dataset.table(root)


def test_missing_image_is_named(case: Case) -> None:
    dataset, root = case
    item = dataset.table(root).items[2]
    (root / item).unlink()
    listed = not isinstance(dataset, Omniglot)  # which has no list: its counts tell
    message = f"1 of [89] listed images are missing.*{item}" if listed else "found 3 train images"
    with pytest.raises(UserError, match=message):
        dataset.table(root)


def test_missing_root_says_what_was_sought_where_and_how_to_get_it(case: Case, tmp_path: Path) -> None:
    dataset, _ = case
    said = [dataset.title, "looked for", tmp_path / "nowhere", dataset.remedy]
    with pytest.raises(UserError, match=".* ".join(re.escape(str(part)) for part in said)) as caught:
        dataset.table(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_query_and_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inshop(tmp_path)
    monkeypatch.setattr(InShop, "expected", NINE)
    table = InShop().table(tmp_path)
    assert table.query is not None
    assert table.gallery is not None
    queries = [table.items[row].split("/")[-2:] for row in table.query]
    assert queries == [["id_00000007", "00_1_front.jpg"], ["id_00000009", "00_1_front.jpg"]]
    assert sorted([*table.query, *table.gallery]) == table.test.tolist()


SOP = (make_sop, StanfordOnlineProducts, "Stanford_Online_Products/Ebay_test.txt")
SOP_TRAIN = (*SOP[:2], "Stanford_Online_Products/Ebay_train.txt")
INSHOP = (make_inshop, InShop, "inshop/list_eval_partition.txt")
LABELS = (make_cub, CUB200, "CUB_200_2011/image_class_labels.txt")


@pytest.mark.parametrize(
    ("source", "old", "new", "message"),
    [
        (SOP, "class_id", "id", r"Ebay_test\.txt: no column class_id"),
        (SOP, "image_id", '"', r"Ebay_test\.txt: cannot be read as a table"),
        (SOP, "5 11319 1 ", "5 11319 ", "found .*, 3 test classes; it must be"),
        (SOP, "11320 1", "2 1", "both train and test: bicycle 00002"),
        (SOP_TRAIN, "20_1.JPG", "20_0.JPG", r"bicycle_final/20_0\.JPG is listed twice"),
        (INSHOP, "evaluation_status", "status", r"list_eval_partition\.txt: no column evaluation_status"),
        (INSHOP, "gallery", "galery", "found .*, 2 gallery images; it must be"),
        (LABELS, "3 101", "3 1010", "found 4 train images, 2 train classes, 3 test images"),
        (LABELS, "3 101", "3", "found 4 train images, 2 train classes, 3 test images"),
    ],
)
def test_damaged_metadata_is_an_error(
    tmp_path: Path,
    source: tuple[Callable[[Path], None], type[RetrievalDataset], str],
    old: str,
    new: str,
    message: str,
) -> None:
    make, cls, file = source
    make(tmp_path)
    content = (tmp_path / file).read_bytes()
    assert old.encode() in content
    (tmp_path / file).write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(UserError, match=message):
        cls().table(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no Matlab", None])
def test_damaged_mat_is_named(tmp_path: Path, content: bytes | None) -> None:
    make_cars_torchvision(tmp_path)
    path = tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"cars_test_annos_withlabels\.mat"):
        Cars196().table(tmp_path)


def test_turned_characters_are_classes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_omniglot(tmp_path)
    monkeypatch.setattr(Omniglot, "expected", EIGHT)
    plain, turned = Omniglot().table(tmp_path), Omniglot(rotations=True).table(tmp_path)
    assert Counts.of(turned) == Counts(train_images=16, train_classes=8, test_images=4, test_classes=2)
    assert np.array_equal(turned.labels[: len(plain)], plain.labels)
    assert np.array_equal(turned.test, plain.test)
    assert len(set(turned.items)) == len(turned)
    assert len(set(turned.class_names)) == len(turned.class_names) == 10
    assert turned.key != plain.key
    for row in turned.train:
        item, _, degrees = turned.items[row].partition("@")
        name, _, also = turned.class_names[turned.labels[row]].partition("@")
        original = plain.items.index(item)
        assert degrees == also
        assert name == plain.class_names[plain.labels[original]]
        wanted = np.rot90(np.asarray(plain.read(original)), int(degrees or 0) // 90)
        assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(turned)).read(row)), wanted)


@pytest.mark.data
@pytest.mark.parametrize(
    ("cls", "first"), [(Omniglot, "Alphabet_of_the_Magi/character01"), (Cars196, "AM General Hummer SUV 2000")]
)
def test_real_data(data_root: Path, cls: type[RetrievalDataset], first: str) -> None:
    dataset = cls()
    if not dataset.present(data_root):
        pytest.skip(f"no real data: no {dataset.title} below LIFTED_DATA_DIR")
    assert not check_dataset(dataset, data_root).failed
    assert dataset.table(data_root).class_names[0] == first
