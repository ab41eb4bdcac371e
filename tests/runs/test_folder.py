"""Run folders and result.json."""

import json
import math
import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CONFIG, claim_folder, lock, read_metrics, remove_unfinished, write_json


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
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == {"test": {"nmi": None, "recall@1": 0.5}, "ks": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_half_written_files_are_cleared_away(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".lock", "notes.tmp", "wandb/.x.1.tmp", "checkpoints/last.ckpt")]
    left = [tmp_path / f"{part}.name.1.tmp" for part in ("", "checkpoints/", "plots/")]
    for path in (*kept, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_unfinished(tmp_path)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(kept)


def test_a_line_of_metrics_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == []
    for last, rows in (("9,0.25\n", 2), ("9,0.2", 1), ("9", 1), ("", 1)):
        path.write_text(f"step,train/loss\n4,0.5\n{last}")
        assert len(read_metrics(path)) == rows


def test_a_step_that_was_logged_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = "1,4.0,\n3,3.0,\n4,,0.25\n5,2.0,\n"
    path.write_text(f"step,train/loss,map\n{first}3,3.5,\n4,,0.5\n")  # from a checkpoint after step 2
    assert [tuple(row.values()) for row in read_metrics(path)] == [("1", "4.0", ""), ("3", "3.5", ""), ("4", "", "0.5")]


def test_two_lines_of_a_step_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,map\n3,3.0,\n3,,0.25\n3,2.5,\n")
    assert read_metrics(path) == [{"step": "3", "train/loss": "2.5", "map": "0.25"}]
