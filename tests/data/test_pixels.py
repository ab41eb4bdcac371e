"""The pixel cache: decoded once, found again, rebuilt when damaged, and safe among processes."""

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lifted_lightning.data import pixels as decode
from lifted_lightning.data.images import to_pixels
from lifted_lightning.data.loading import PixelRows, as_batch
from lifted_lightning.data.pixels import HEADER, Pixels, open_pixels
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

COUNT = 300  # enough for several processes


class Reader:
    """Draws item i in a colour of its own and notes that it did in a file; chosen items misbehave."""

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        self.log = log
        self.pause = pause

    def __call__(self, item: str) -> Image.Image:
        with self.log.open("a") as stream:
            stream.write(f"{item}\n")
        if (self.log.parent / f"broken {item}").exists():
            raise OSError("image file is truncated")
        if (self.log.parent / f"deadly {item}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        number = int(item.split()[-1])
        return Image.new("RGB", (10, 6), (number % 256, number // 256, 77))

    def count(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def make_table(folder: Path, count: int = COUNT, key: str = "one", **options: float) -> ImageTable:
    labels = np.arange(count) % 10
    order = np.arange(count)
    return ImageTable(
        name="toy set",
        labels=labels,
        class_names=[f"c{i}" for i in range(10)],
        train=order[labels < 5],
        test=order[labels >= 5],
        items=[f"ä b/image {i}" if i == 7 else f"image {i}" for i in range(count)],
        reader=Reader(folder / "log", **options),
        key=key,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path


def opened(folder: Path, table: ImageTable | None = None, **options: object) -> Pixels:
    return open_pixels(table or make_table(folder), 4, **({"cache_dir": folder / "cache"} | options))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.pixels"))


@pytest.mark.parametrize("workers", [1, 2, 3, None])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_decoded_once_into_its_row(folder, workers, channels):
    table = make_table(folder)
    pixels = opened(folder, table, workers=workers, channels=channels)
    assert table.reader.count() == COUNT
    wanted = [to_pixels(table.read(row), 4, "squash", channels) for row in range(COUNT)]
    assert np.array_equal(pixels[:], np.stack(wanted))
    assert pixels.shape == (COUNT, 4, 4, channels)
    assert pixels.valid.all()
    assert len(pixels) == COUNT


def test_found_again_without_decoding(folder):
    first = opened(folder)
    again = make_table(folder)
    before = again.reader.count()
    assert np.array_equal(opened(folder, again)[:], first[:])
    assert again.reader.count() == before
    assert not list((folder / "cache").glob("*.tmp"))


def test_one_file_for_each_key_size_mode_and_channels(folder):
    table = make_table(folder)
    other = make_table(folder, key="two")
    for t, options in [(table, {}), (other, {}), (table, {"mode": "pad"}), (table, {"channels": 1})]:
        opened(folder, t, **options)
    open_pixels(table, 5, cache_dir=folder / "cache")
    assert len(files(folder)) == 5
    before = table.reader.count()
    opened(folder, table)
    assert table.reader.count() == before


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def replace(file: Path) -> None:
    file.write_bytes(b"something else" * 5000)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def outdate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:HEADER].replace(b"pixels 1", b"pixels 0") + data[HEADER:])


@pytest.mark.parametrize("damage", [truncate, replace, empty, outdate])
def test_a_file_that_is_not_what_it_should_be_is_rebuilt(folder, damage):
    wanted = opened(folder)[:].copy()
    damage(files(folder)[0])
    assert np.array_equal(opened(folder)[:], wanted)


def test_other_items_are_decoded_anew(folder):
    opened(folder)
    table = make_table(folder)
    swapped = ImageTable(**(vars(table) | {"items": list(table.items)[::-1]}))
    assert opened(folder, swapped)[0, 0, 0, 0] == (COUNT - 1) % 256
    assert len(files(folder)) == 1


def test_the_folder_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(folder / "elsewhere"))
    pixels = open_pixels(make_table(folder), 4)
    assert pixels.path.parent == folder / "elsewhere"


def open_in_process(folder: Path) -> None:
    opened(folder, make_table(folder, pause=0.001))


def test_two_processes_decode_once(folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_in_process, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert make_table(folder).reader.count() == COUNT


def test_a_killed_builder_blocks_nobody(folder):
    context = multiprocessing.get_context("fork")
    slow = make_table(folder, pause=0.02)
    process = context.Process(target=opened, args=(folder, slow))
    process.start()
    while slow.reader.count() < 10:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert list((folder / "cache").glob("*.tmp"))
    pixels = opened(folder)
    assert pixels.valid.all()
    assert not list((folder / "cache").glob("*.tmp"))


def test_a_killed_worker_is_an_error(folder):
    (folder / "deadly image 100").touch()
    with pytest.raises(UserError, match="toy set: a decoding process was killed"):
        opened(folder, workers=2)
    assert not files(folder)
    assert not list((folder / "cache").glob("*.tmp"))


def test_too_little_disk_is_said_first(folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    table = make_table(folder)
    with pytest.raises(UserError, match=r"needs 0\.0 GB.*cache_dir"):
        opened(folder, table)
    assert table.reader.count() == 0


def test_a_disk_that_fills_up(folder, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *args: 3)
    with pytest.raises(UserError, match="No space left"):
        opened(folder, workers=2)
    assert not files(folder)


@pytest.mark.parametrize("where", ["/proc/no/such", "{folder}/log/below"])
def test_a_folder_that_cannot_be_written(folder, where):
    (folder / "log").touch()
    with pytest.raises(UserError, match=r"cannot be .*cache_dir"):
        opened(folder, cache_dir=Path(where.format(folder=folder)))


def test_broken_images_are_named_or_left_out(folder):
    for item in ("image 3", "image 299"):
        (folder / f"broken {item}").touch()
    with pytest.raises(UserError, match=r"2 of 300.*image 3 \(OSError: image file is truncated\).*image 299"):
        opened(folder)
    table = make_table(folder)
    before = table.reader.count()
    pixels = opened(folder, table, skip_broken=True)
    assert table.reader.count() == before + 2  # only the broken ones are tried again
    assert np.flatnonzero(~pixels.valid).tolist() == [3, 299]
    assert not pixels[[3, 299]].any()
    (folder / "broken image 3").unlink()
    assert np.flatnonzero(~opened(folder, skip_broken=True).valid).tolist() == [299]
    (folder / "broken image 299").unlink()
    assert opened(folder).valid.all()


def test_nothing_is_kept_if_no_image_can_be_read(folder):
    for i in range(20):
        (folder / f"broken image {i}").touch()
    (folder / "broken image 7").touch()
    table = make_table(folder, count=7)
    with pytest.raises(UserError, match=r"7 of 7.*and 2 more"):
        opened(folder, table, skip_broken=True)
    assert not files(folder)


@pytest.mark.parametrize("damage", ["zero", "cut", "text"])
def test_damaged_files(folder, damage):
    file = folder / "an image ü.jpg"
    Image.effect_noise((64, 64), 80).save(file)
    data = file.read_bytes()
    file.write_bytes({"zero": b"", "cut": data[: len(data) // 2], "text": b"<html>not found</html>"}[damage])
    good = folder / "good.png"
    Image.new("RGB", (8, 8)).save(good)
    table = ImageTable(
        "photos", np.array([0, 1]), ["a", "b"], np.array([0]), np.array([1]), [str(file), str(good)],
        Image.open, "photos",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"1 of 2 images cannot be decoded: .*an image ü\.jpg"):
        opened(folder, table)


@pytest.mark.parametrize(("size", "options"), [(0, {}), (4, {"mode": "stretch"}), (4, {"channels": 4})])
def test_wrong_settings(folder, size, options):
    with pytest.raises(UserError, match="pixel cache size"):
        open_pixels(make_table(folder), size, cache_dir=folder / "cache", **options)


def test_batches(folder):
    table = make_table(folder)
    pixels = opened(folder, table)
    rows = PixelRows(pixels, table.labels, table.test)
    batch = rows.__getitems__([5, 0, 0])
    assert batch["indices"].tolist() == table.test[[5, 0, 0]].tolist()
    assert batch["labels"].tolist() == table.labels[table.test[[5, 0, 0]]].tolist()
    images = batch["images"]
    assert images.shape == (3, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels[table.test[[5, 0, 0]]])
    assert torch.equal(rows[5]["images"], images[:1])
    assert len(rows) == len(table.test)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(folder, start):
    table = make_table(folder)
    rows = PixelRows(opened(folder, table), table.labels, table.test)
    expected = list(DataLoader(rows, batch_size=64, collate_fn=as_batch))
    loader = DataLoader(rows, batch_size=64, collate_fn=as_batch, num_workers=2, multiprocessing_context=start)
    for batch, wanted in zip(loader, expected, strict=True):
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_another_process_is_sent_no_pixels(folder):
    table = make_table(folder, count=5000)
    rows = PixelRows(open_pixels(table, 32, cache_dir=folder / "cache"), table.labels, table.test[:10])
    rows.labels = rows.labels[:0]
    sent = pickle.dumps(rows)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).pixels[4999], rows.pixels[4999])


def test_small_sets_start_no_process(folder, monkeypatch):
    monkeypatch.setattr(decode, "spread", None)
    assert opened(folder, make_table(folder, count=200), workers=8).valid.all()
