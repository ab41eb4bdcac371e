"""The data module: what it refuses, and what it tells the batch sampler."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.datasets import ImageFolder, TableFile
from lifted_lightning.data.table import digest_of_rows
from lifted_lightning.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Eight classes of four images; of two classes that train or validate and one that tests, the first is broken."""
    for label in range(8):
        (tmp_path / f"class {label}").mkdir()
        for number in range(4):
            path = tmp_path / f"class {label}" / f"{number}.png"
            Image.new("RGB", (12, 10), (30 * label, 60 * number, 0)).save(path)
            if label in (0, 1, 7) and number == 0:
                path.write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("cache", [True, False])
def test_the_sampler_draws_rows_that_train_and_can_be_read(folder, cache):
    data = RetrievalDataModule(
        ImageFolder(str(folder)), PositivePairs(2), batch_size=4, size=8, validation_share=0.25, workers=2,
        cache=cache, cache_dir=str(folder / "cache"), skip_broken=True, seed=3,
    )  # fmt: skip
    named = r"left out, cannot be decoded: 3 images: class 0/0\.png, class 1/0\.png, class 7/0\.png"
    with pytest.warns(UserWarning, match=named):
        data.setup("fit")
    sampler, broken = data.sampler, [0, 4, 28]
    assert sampler.rows.tolist() == [row for row in data.train_rows.tolist() if row not in broken]
    assert (sampler.labels[sampler.rows] == data.train_labels[sampler.rows]).all()
    assert (sampler.batch_size, sampler.seed, sampler.drawn_ahead) == (4, 3, 5)
    assert [sampler.class_names[c] for c in range(3)] == [
        data.class_names[c] for c in np.unique(data.table.labels[data.train_rows])
    ]
    for batch, rows in zip(data.train_dataloader(), sampler, strict=True):
        assert batch["indices"].tolist() == rows
        assert batch["labels"].tolist() == data.train_labels[rows].tolist()
    tested = [row for batch in data.test_dataloader() for row in batch["indices"].tolist()]
    assert tested == [row for row in data.table.test.tolist() if row not in broken]


def test_ranks_whose_classes_are_in_another_order_are_refused(folder):
    """As a set of names gives them, which is in another order in each process."""
    data = RetrievalDataModule(ImageFolder(str(folder)), PositivePairs(), size=8, cache=False)
    strategy = SimpleNamespace(broadcast=lambda own: strategy.of_rank_zero, reduce_boolean_decision=lambda same: same)
    data.trainer = SimpleNamespace(world_size=2, strategy=strategy)
    strategy.of_rank_zero = digest_of_rows(replace(data.table, class_names=data.class_names[::-1]))
    with pytest.raises(UserError, match="come in another order on another rank"):
        data.setup("validate")
    strategy.of_rank_zero = digest_of_rows(data.table)
    data._compare_ranks(data.trainer)


def test_single_images_are_named_all_or_left_out(folder):
    for label in (2, 6):
        for number in range(1, 4):
            (folder / f"class {label}" / f"{number}.png").unlink()
    settings = {"dataset": ImageFolder(str(folder)), "sampler": PositivePairs(), "validation_share": 0.0}
    with pytest.raises(UserError, match=r"2 classes have a single image.*: class 2, class 6; add images, or "):
        _ = RetrievalDataModule(**settings).table
    data = RetrievalDataModule(**settings, single_images="leave_out")
    with pytest.warns(UserWarning, match="left out: 2 classes of a single image: class 2, class 6"):
        table = data.table
    assert (data.num_classes, len(data.train_rows), len(table.test), len(table)) == (3, 12, 12, 26)
    assert table.labels[table.test].tolist() == [4] * 4 + [5] * 4 + [7] * 4


def part_of(data: RetrievalDataModule) -> dict[str, set[str]]:
    """The names of the classes of each part."""
    table = data.table
    parts = {"train": data.train_rows, "validation": data.validation_rows, "test": table.test}
    return {part: {table.class_names[table.labels[row]] for row in rows} for part, rows in parts.items()}


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_each_training_class_validates_in_one_fold_and_trains_in_the_others(folder, folds):
    def parts(**given):
        data = RetrievalDataModule(ImageFolder(str(folder)), PositivePairs(), folds=folds, **given)
        assert sorted([*data.train_rows, *data.validation_rows]) == data.table.train.tolist()
        return part_of(data)

    found = [parts(fold=fold) for fold in range(folds)]
    training = {f"class {c}" for c in range(4)}  # the first half of eight
    for fold in found:
        assert fold["test"] == {f"class {c}" for c in range(4, 8)}
        assert fold["train"] == training - fold["validation"]
    assert sorted(name for fold in found for name in fold["validation"]) == sorted(training)
    assert {len(fold["validation"]) for fold in found} <= {4 // folds, -(-4 // folds)}
    assert found == [parts(fold=fold, seed=9) for fold in range(folds)], "they are of split_seed alone"
    assert any(parts(fold=0, split_seed=seed) != found[0] for seed in range(1, 9))


def test_more_folds_than_classes_and_validation_classes_of_ones_own_are_refused(folder):
    with pytest.raises(UserError, match=r"data\.folds 5: .* has 4 training classes; give fewer folds"):
        _ = RetrievalDataModule(ImageFolder(str(folder)), PositivePairs(), folds=5, fold=0).train_rows
    lines = [f"class {c}/{n}.png,{c},{('train', 'val', 'test')[c % 3]}" for c in range(8) for n in range(4)]
    (folder / "own.csv").write_text("\n".join(["path,label,split", *lines]))
    data = RetrievalDataModule(TableFile(str(folder / "own.csv")), PositivePairs(), folds=2, fold=0)
    with pytest.raises(UserError, match=r"data\.folds 2: own has validation classes of its own; leave out folds"):
        _ = data.train_rows


@pytest.mark.parametrize(
    ("colour", "channels", "told"), [(True, 1, True), (True, 3, False), (False, 1, False), (False, 3, False)]
)
def test_images_in_colour_that_are_read_in_grey_are_told(tmp_path, recwarn, colour, channels, told):
    shown = np.random.default_rng(0).integers(0, 255, (8, 12, 10, 3 if colour else 1), dtype=np.uint8)
    for number, pixels in enumerate(np.broadcast_to(shown, (8, 12, 10, 3))):
        (tmp_path / f"class {number // 2}").mkdir(exist_ok=True)
        tinted = np.clip(pixels.astype(int) + np.array([3, 0, -3]), 0, 255).astype(
            np.uint8
        )  # as a scan of grey paper is
        Image.fromarray(tinted).save(tmp_path / f"class {number // 2}" / f"{number}.png")
    data = RetrievalDataModule(
        ImageFolder(str(tmp_path)), PositivePairs(2), size=8, channels=channels, cache_dir=str(tmp_path / "cache")
    )
    data.setup("test")
    data.setup("predict")
    lines = [str(warning.message) for warning in recwarn if "in colour" in str(warning.message)]
    assert len(lines) == told
    assert not told or "8 of 8 images" in lines[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0}, {"batches_per_epoch": 0}, {"size": 0}, {"size": 100_000}, {"size": (8, 0)},
        {"single_images": "keep"}, {"eval_batch_size": 0}, {"workers": -1}, {"seed": -1},
        {"folds": 1, "fold": 0}, {"folds": 4}, {"fold": 0}, {"folds": 4, "fold": 4}, {"fold": -1, "folds": 4},
        {"validation_share": 0.2, "folds": 4, "fold": 0},
        {"split_seed": -1}, {"validation_share": 1.0}, {"validation_share": float("nan")}, {"channels": 2},
        {"crop_scale": (0.5, 0.2)}, {"crop_scale": (0.0, 1.0)}, {"crop_scale": (float("nan"), 1.0)}, {"resize": "tile"},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_named_at_once(settings):
    name = next(iter(settings))
    with pytest.raises(UserError, match=rf"data\.{name} ") as caught:
        RetrievalDataModule(ImageFolder("nowhere"), PositivePairs(), **settings)
    assert "\n" not in str(caught.value)
