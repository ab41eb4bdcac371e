"""Run folders and result.json."""

import json
import math
import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import (
    CONFIG,
    checkpoints_beside,
    claim_folder,
    folder_of_checkpoint,
    lock,
    read_metrics,
    remove_unfinished,
    write_json,
)


def _claim(parent: str, queue: "multiprocessing.Queue[str]", leave: "multiprocessing.synchronize.Event") -> None:
    queue.put(claim_folder(Path(parent), "run")[0].name)
    leave.wait(30)


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()  # made ready for the run, by a sweep: not taken
    (tmp_path / "run" / "log.txt").touch()
    context = multiprocessing.get_context("spawn")
    queue, leave = context.Queue(), context.Event()
    processes = [context.Process(target=_claim, args=(str(tmp_path), queue, leave)) for _ in range(3)]
    for process in processes:
        process.start()
    assert {queue.get(timeout=60) for _ in processes} == {"run", "run-2", "run-3"}  # held by living processes
    leave.set()
    for process in processes:
        process.join()
    (tmp_path / "run" / CONFIG).touch()
    (tmp_path / "run-3" / CONFIG).touch()
    assert claim_folder(tmp_path, "run")[0].name == "run-2"  # its process died before it began


def _try_lock(folder: str, queue: "multiprocessing.Queue[str]") -> None:
    try:
        lock(Path(folder))
        queue.put("held")
    except UserError as error:
        queue.put(str(error))


def test_a_second_process_cannot_write_the_same_run(tmp_path: Path) -> None:
    lock(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_try_lock, args=(str(tmp_path), queue))
    process.start()
    message = queue.get(timeout=60)
    process.join()
    assert "another process is writing this run" in message


def test_json_is_whole_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"test": {"nmi": math.nan, "recall@1": 0.5}, "ks": (1, 2)})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "test": {"nmi": None, "recall@1": 0.5},
        "ks": [1, 2],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_half_written_files_are_cleared_away(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".lock", "notes.tmp", "wandb/.x.1.tmp", "checkpoints/last.ckpt")]
    left = [tmp_path / f"{part}.name.1.tmp" for part in ("", "checkpoints/", "plots/")]
    for path in (*kept, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_unfinished(tmp_path)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(kept)


def test_a_missing_checkpoint_s_neighbours_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "best.ckpt"
    assert checkpoints_beside(missing) == checkpoints_beside(tmp_path / "none" / "best.ckpt") == ""
    (tmp_path / "last.ckpt").touch()
    assert checkpoints_beside(missing) == " (last.ckpt is there)"


def test_a_line_of_metrics_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == []
    for last, rows in (("9,0.25\n", 2), ("9,0.2", 1), ("9", 1), ("", 1)):
        path.write_text(f"step,train/loss\n4,0.5\n{last}")
        assert len(read_metrics(path)) == rows


def test_folder_of_checkpoint(tmp_path: Path) -> None:
    assert folder_of_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt") == tmp_path / "run"
    assert folder_of_checkpoint(tmp_path / "elsewhere" / "last.ckpt") is None
