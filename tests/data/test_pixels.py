"""The pixel cache: decoded once, found again, rebuilt when damaged, and safe among processes."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from lifted_lightning.data import pixels as module
from lifted_lightning.data.images import Size, normalized, to_pixels
from lifted_lightning.data.loading import PixelRows, as_batch
from lifted_lightning.data.pixels import BLOCK, Decoding, Pixels, open_pixels, verified_caches
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError
from tests.helpers.drawn import COUNT, make_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the small sets of tests are decoded by processes."""
    monkeypatch.setattr(module, "SMALL", 0)


def opened(
    folder: Path,
    table: ImageTable | None = None,
    size: Size = 4,
    workers: int | None = None,
    skip_broken: bool = False,
    **how: Any,
) -> Pixels:
    return open_pixels(Decoding(table or make_table(folder), size, **how), folder / "cache", workers, skip_broken)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.npy"))


@pytest.mark.parametrize(("workers", "channels"), [(1, 3), (2, 1), (3, 3), (None, 3)])
def test_each_image_is_decoded_once_into_its_row(folder, processes, workers, channels):
    table = make_table(folder)
    pixels = opened(folder, table, workers=workers, channels=channels)
    assert table.reader.count() == COUNT
    wanted = [to_pixels(normalized(table.read(row), channels), 4, "squash") for row in range(COUNT)]
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
    assert np.array_equal(np.load(files(folder)[0], mmap_mode="r", allow_pickle=False), first[:]), "as anybody may"


def test_one_file_for_each_key_size_mode_and_channels(folder):
    table = make_table(folder)
    other = make_table(folder, key="two")
    for t, options in [(table, {}), (other, {}), (table, {"mode": "pad"}), (table, {"channels": 1})]:
        opened(folder, t, **options)
    opened(folder, table, 5)
    opened(folder, table, (5, 3))
    assert len(files(folder)) == 6
    opened(folder, table, (5, 5))
    assert len(files(folder)) == 6, "a square is one, however it is given"
    before = table.reader.count()
    opened(folder, table)
    assert table.reader.count() == before


def edit(file: Path, **entries: object) -> None:
    text = file.with_suffix(".json")
    text.write_text(json.dumps(json.loads(text.read_text()) | entries))


DAMAGES = {
    "cut short": lambda file: os.truncate(file, file.stat().st_size - 1),
    "pickled": lambda file: np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "other shape": lambda file: np.save(file, np.zeros((COUNT, 4, 2, 6), dtype=np.uint8)),
    "header": lambda file: file.write_bytes(file.read_bytes().replace(b"}", b"]", 1)),
    "damaged JSON": lambda file: file.with_suffix(".json").write_text("[1, 2"),
    "sums out of range": lambda file: edit(file, crc32=[-1]),
    "other JSON": lambda file: file.with_suffix(".json").write_text('{"broken": [9999], "crc32": []}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_what_they_should_be_are_built_again(folder, damage):
    wanted = opened(folder)[:]
    DAMAGES[damage](files(folder)[0])
    assert np.array_equal(opened(folder)[:], wanted)


# Damage to the body, which only the checksums tell

SIDE = 96  # 40 images of 27 KB: two blocks


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)


def zero(file: Path) -> None:
    size = file.stat().st_size
    os.truncate(file, 128)
    os.truncate(file, size)


def big(folder: Path) -> Pixels:
    return opened(folder, make_table(folder, count=40), SIDE)


@pytest.mark.parametrize("damage", [flip_a_bit, zero])
def test_damage_is_found_when_its_block_is_first_read(folder, damage, capsys):
    wanted = big(folder)[:]
    assert wanted.nbytes > BLOCK
    damage(files(folder)[0])
    pixels, other = big(folder), big(folder)
    if damage is flip_a_bit:
        assert np.array_equal(pixels[3], wanted[3])  # the first block is whole, and the last one not looked at
        assert "damaged" not in capsys.readouterr().err
    assert np.array_equal(pixels.take(np.array([39, 0])), wanted[[39, 0]])
    assert capsys.readouterr().err.count("is damaged; its images are decoded again") == 1
    assert np.array_equal(other[39], wanted[39])  # which maps the old file, finds the damage, then the new one
    assert np.array_equal(big(folder)[:], wanted)
    assert "damaged" not in capsys.readouterr().err


def test_a_block_is_checked_once(folder, monkeypatch):
    asked = []
    big(folder)
    checksums = module.checksums
    monkeypatch.setattr(module, "checksums", lambda array, blocks: asked.extend(blocks) or checksums(array, blocks))
    pixels = big(folder)
    for rows, checked in (([0, 1], [0]), ([37], [0, 1]), ([38, 0], [0, 1]), (range(40), [0, 1])):  # row 37 is in both
        assert np.array_equal(pixels.take(np.array(rows)), pixels.array[np.array(rows)])
        assert asked == checked


def test_images_larger_than_a_block(folder):
    table = make_table(folder, count=3)
    pixels = opened(folder, table, 700)
    assert pixels[2].shape == (700, 700, 3)
    file = files(folder)[0]
    with file.open("r+b") as stream:
        stream.seek(128 + 3 * 700 * 700 * 3 - 9)  # near the end of image 2, which lies in three blocks
        stream.write(b"x")
    assert (opened(folder, table, 700)[2] == (2, 0, 77)).all()


def test_damage_and_sources_that_are_gone(folder):
    big(folder)
    flip_a_bit(files(folder)[0])
    pixels = opened(folder, make_table(folder, count=40), SIDE, skip_broken=True)
    (folder / "broken image 3").touch()
    with pytest.raises(UserError, match=r"1 of 40 images cannot be decoded: image 3"):
        pixels.take(np.array([39]))


def test_all_caches_of_a_table_are_verified(folder, capsys, monkeypatch):
    table = make_table(folder)
    opened(folder, table)
    opened(folder, table, (4, 6), channels=1, mode="pad")
    opened(folder, make_table(folder, key="other"))
    flip_a_bit(sorted(files(folder))[0])
    found = list(verified_caches(table, folder / "cache"))
    assert [pixels.shape for pixels in found] == [(COUNT, 4, 4, 3), (COUNT, 4, 6, 1)]
    assert all(pixels.intact() for pixels in found)
    assert capsys.readouterr().err.count("is damaged") == 1
    monkeypatch.setattr(module, "lock", lambda *args, **kwargs: pytest.fail("writes"))
    assert len(list(verified_caches(table, folder / "cache"))) == 2


def test_another_interpolation_is_another_cache(folder):
    """And the first keeps the name that it has always had."""
    table = make_table(folder)
    first, other = opened(folder, table), opened(folder, table, interpolation="bicubic")
    wanted = [to_pixels(normalized(table.read(row), 3), 4, "squash", "bicubic") for row in range(COUNT)]
    assert np.array_equal(other[:], np.stack(wanted))
    names = [pixels.path.name.split("-")[2] for pixels in (first, other)]
    assert names == ["squash", "squash+bicubic"]
    found = [pixels.decoding.how for pixels in verified_caches(table, folder / "cache")]
    assert sorted(found) == ["squash", "squash+bicubic"]
    other.path.with_suffix(".json").write_text(first.path.with_suffix(".json").read_text())
    assert opened(folder, table, interpolation="bicubic").decoding.how == "squash+bicubic"


def test_other_items_are_decoded_anew(folder):
    opened(folder)
    table = make_table(folder)
    swapped = ImageTable(**(vars(table) | {"items": list(table.items)[::-1]}))
    assert opened(folder, swapped)[0][0, 0, 0] == (COUNT - 1) % 256
    assert len(files(folder)) == 1


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


def open_interruptibly(folder: Path, table: ImageTable) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    opened(folder, table, workers=2)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_builder_which_blocks_nobody(folder, processes, how):
    context = multiprocessing.get_context("fork")
    slow = make_table(folder, pause=0.02)
    process = context.Process(target=open_interruptibly, args=(folder, slow))
    process.start()
    while slow.reader.count() < 10:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    for who in (process.pid, *(worker.pid for worker in workers if how == signal.SIGINT)):  # as a terminal does
        os.kill(who, how)
    process.join(10)
    assert workers
    _gone, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    assert process.exitcode
    assert bool(list((folder / "cache").glob("*.tmp"))) == (how != signal.SIGINT)
    assert opened(folder, workers=1).valid.all()
    assert not list((folder / "cache").glob("*.tmp"))


def test_a_killed_worker_is_an_error(folder, processes):
    (folder / "deadly image 100").touch()
    with pytest.raises(UserError, match="toy set: a decoding process was killed"):
        opened(folder, workers=2)
    assert not files(folder)
    assert not list((folder / "cache").glob("*.tmp"))


def test_too_little_disk_is_said_first(folder, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    table = make_table(folder)
    with pytest.raises(UserError, match=r"needs 0\.0 GB and cannot be written \(No space left.*cache_dir"):
        opened(folder, table)
    assert table.reader.count() == 0
    assert not list((folder / "cache").glob("*.npy")) + list((folder / "cache").glob("*.tmp"))


@pytest.mark.parametrize("where", ["/proc/no/such", "{folder}/log/below"])
def test_a_folder_that_cannot_be_written(folder, where):
    (folder / "log").touch()
    with pytest.raises(UserError, match=r"cannot be .*cache_dir"):
        open_pixels(Decoding(make_table(folder), 4), Path(where.format(folder=folder)))


def test_broken_images_are_named_or_left_out(folder):
    for item in ("image 3", "image 299"):
        (folder / f"broken {item}").touch()
    with pytest.raises(UserError, match=r"2 of 300.*image 3: cannot be read \(image file is truncated\).*image 299"):
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
    for i in range(7):
        (folder / f"broken image {i}").touch()
    table = make_table(folder, count=7)
    with pytest.raises(UserError, match=r"7 of 7.*and 2 more"):
        opened(folder, table, skip_broken=True)
    assert not files(folder)


def test_batches(folder):
    table = make_table(folder)
    pixels = opened(folder, table)
    rows = PixelRows(pixels, table.labels)
    batch = rows.__getitems__([255, 250, 250])
    assert batch["indices"].tolist() == [255, 250, 250]
    assert batch["labels"].tolist() == table.labels[[255, 250, 250]].tolist()
    images = batch["images"]
    assert images.shape == (3, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels[[255, 250, 250]])
    assert torch.equal(rows[255]["images"], images[:1])
    assert len(rows) == len(table)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(folder, start):
    table = make_table(folder)
    rows = PixelRows(opened(folder, table), table.labels)
    expected = list(DataLoader(rows, batch_size=64, collate_fn=as_batch))
    loader = DataLoader(rows, batch_size=64, collate_fn=as_batch, num_workers=2, multiprocessing_context=start)
    for batch, wanted in zip(loader, expected, strict=True):
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_another_process_is_sent_no_pixels(folder):
    table = make_table(folder, count=5000)
    rows = PixelRows(opened(folder, table, 32), table.labels)
    sent = pickle.dumps(rows)
    assert len(sent) < 500_000 < rows.pixels.array.nbytes / 30  # the table, not the pixels
    assert np.array_equal(pickle.loads(sent).pixels[4999], rows.pixels[4999])


def test_a_reader_that_no_other_process_can_have(folder, processes):
    table = make_table(folder)
    local = ImageTable(**(vars(table) | {"reader": lambda item: table.reader(item)}))
    assert np.array_equal(opened(folder, local, workers=2)[:], opened(folder)[:])


def test_a_script_without_a_guard_runs_once(folder):
    """Decoding processes do not run it again, and so does a class of its own not reach them."""
    (folder / "script.py").write_text(
        "import pathlib, sys\n"
        "from lifted_lightning.data import pixels\n"
        "from tests.helpers.drawn import Reader, make_table\n"
        "pixels.SMALL = 0\n"
        "print('run')\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print(pixels.open_pixels(pixels.Decoding(make_table(folder), 4), folder, workers=2).valid.all())\n"
        "class Mine(Reader): pass\n"
        "table = make_table(folder, key='two')\n"
        "object.__setattr__(table, 'reader', Mine(folder / 'log'))\n"
        "print(pixels.open_pixels(pixels.Decoding(table, 4), folder, workers=2).valid.all())\n"
    )
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == ["run", "True", "True"], done.stderr
