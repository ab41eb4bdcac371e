"""Run folders and result.json."""

import json
import math
import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CONFIG, claim_folder, lock, read_metrics, remove_unfinished, write_json

CONTEXT = multiprocessing.get_context("spawn")


def _claim(parent: str, queue: "multiprocessing.Queue[str]", leave: "multiprocessing.synchronize.Event") -> None:
    queue.put(claim_folder(Path(parent), "run")[0].name)
    leave.wait(30)


def test_a_taken_name_gets_a_number_and_a_run_one_writer(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()  # made ready for the run, by a sweep: not taken
    (tmp_path / "run" / "log.txt").touch()
    queue, leave = CONTEXT.Queue(), CONTEXT.Event()
    processes = [CONTEXT.Process(target=_claim, args=(str(tmp_path), queue, leave)) for _ in range(3)]
    for process in processes:
        process.start()
    assert {queue.get(timeout=60) for _ in processes} == {"run", "run-2", "run-3"}  # held by living processes
    with pytest.raises(UserError, match="another process is writing this run"):
        lock(tmp_path / "run")
    leave.set()
    for process in processes:
        process.join()
    (tmp_path / "run" / CONFIG).touch()
    (tmp_path / "run-3" / CONFIG).touch()
    assert claim_folder(tmp_path, "run")[0].name == "run-2"  # its process died before it began


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


CUT = "step,train/loss,map\n4,0.5,\n"
AGAIN = "1,4.0,\n3,3.0,\n4,,0.25\n5,2.0,\n3,3.5,\n4,,0.5\n"  # from a checkpoint after step 2


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"{CUT}9,0.25,\n", [("4", "0.5", ""), ("9", "0.25", "")]),
        *((CUT + cut, [("4", "0.5", "")]) for cut in ("9,0.25,", "9,0.2", "9", "")),
        (f"step,train/loss,map\n{AGAIN}", [("1", "4.0", ""), ("3", "3.5", ""), ("4", "", "0.5")]),
        ("step,train/loss,map\n3,3.0,\n3,,0.25\n3,2.5,\n", [("3", "2.5", "0.25")]),
    ],
)
def test_metrics_are_read_by_step_the_latest_counts_and_a_line_that_was_cut_does_not(
    tmp_path: Path, text: str, rows: list[tuple[str, ...]]
) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []
    (tmp_path / "metrics.csv").write_text(text)
    found = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], row["train/loss"], row["map"]) for row in found] == rows
