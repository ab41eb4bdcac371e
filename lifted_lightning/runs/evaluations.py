"""``evaluations.csv`` in a run's folder: a line for each time that its checkpoints were evaluated."""

import csv
from datetime import UTC, datetime
from pathlib import Path

from lifted_lightning.files import csv_text
from lifted_lightning.runs.checkpoint import folder_of

EVALUATIONS = "evaluations.csv"
COLUMNS = ("time", "stage", "dataset", "checkpoint", "step")


def note_evaluation(checkpoint: Path, stage: str, dataset: str, step: int) -> int | None:
    """Add a line on an evaluation of a checkpoint to its run's record, or say why there is none.

    Args:
        checkpoint: the file.
        stage: ``test`` or ``validation``, whose classes were seen.
        dataset: the data set's name.
        step: the checkpoint's.

    Returns:
        How often the run's checkpoints were evaluated on the test classes of this data set, this time included; None if
        nobody counts.
    """
    folder = folder_of(checkpoint)
    missed = f"this evaluation of the {stage} classes is not counted in the record of the run"
    if folder is None:
        print(f"{checkpoint}: lies in no run's folder, so {missed}")
        return None
    path = folder / EVALUATIONS
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not file.tell():
                writer.writerow(COLUMNS)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            writer.writerow(map(csv_text, (now, stage, dataset, checkpoint.name, step)))
    except OSError as error:
        print(f"{path}: cannot be written ({error.strerror}), so {missed}")
        return None
    return looks_at_test(folder, dataset)


def looks_at_test(folder: Path, dataset: str) -> int:
    """How often the checkpoints of a run were evaluated on a data set's test classes, by its record; 0 without one."""
    try:
        with open(folder / EVALUATIONS, newline="", encoding="utf-8", errors="replace") as file:
            return sum(row["stage"] == "test" and row["dataset"] == csv_text(dataset) for row in csv.DictReader(file))
    except (OSError, KeyError, csv.Error):
        return 0
