"""Run folders and result.json."""

import json
import math
import multiprocessing
from pathlib import Path

import pytest

from lifted_lightning import runs
from lifted_lightning.errors import UserError


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = [runs.new_folder(tmp_path / "quickstart", "lifted-64d-seed0").name for _ in range(3)]
    assert names == ["lifted-64d-seed0", "lifted-64d-seed0-2", "lifted-64d-seed0-3"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LiftedStructure", "lifted-structure"),
        ("Triplet", "triplet"),
        ("CUB-200-2011", "cub-200-2011"),
        ("my data/Set", "my-data-set"),
        ("///", "run"),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert runs.slug(text) == expected


def _try_lock(folder: str, queue: "multiprocessing.Queue[str]") -> None:
    try:
        runs.lock(Path(folder))
        queue.put("held")
    except UserError as error:
        queue.put(str(error))


def test_a_second_process_cannot_write_the_same_run(tmp_path: Path) -> None:
    runs.lock(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_try_lock, args=(str(tmp_path), queue))
    process.start()
    message = queue.get(timeout=60)
    process.join()
    assert "another process is writing this run" in message


def test_json_is_whole_and_has_no_nan(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "result.json", {"test": {"nmi": math.nan, "recall@1": 0.5}, "ks": (1, 2)})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "test": {"nmi": None, "recall@1": 0.5},
        "ks": [1, 2],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_folder_of_checkpoint(tmp_path: Path) -> None:
    assert runs.folder_of_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt") == tmp_path / "run"
    assert runs.folder_of_checkpoint(tmp_path / "elsewhere" / "last.ckpt") is None


def test_flatten() -> None:
    assert runs.flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


def test_results_tell_nothing_of_the_machine(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "runs" / "a"
    config = {
        "data": {"root": str(data / "cub"), "size": 256},
        "weights": "/home/someone/w.pth",
        "out": [str(run / "x")],
    }
    assert runs.relative_paths(config, data, run) == {
        "data": {"root": "<data>/cub", "size": 256},
        "weights": "<elsewhere>/w.pth",
        "out": ["<run>/x"],
    }
