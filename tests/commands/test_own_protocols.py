"""What people's own tables ask for, from the command line: validation classes, cameras, rectangles, single images."""

import json
from pathlib import Path

import numpy as np
import pytest

import lifted_lightning
from lifted_lightning.cli import main
from tests.helpers.reference.retrieval import retrieval_metrics as brute_force
from tests.helpers.tiny import blob

FIT = [
    "fit", "--data.dataset=TableFile", "--data.dataset.path=people.csv", "--data.size=[16, 12]", "--data.channels=1",
    "--model.network=ConvNet", "--model.network.width=2", "--model.loss=ContrastiveLoss", "--model.augment=CropMirror",
    "--model.augment.size=[14, 10]", "--model.optimizer=SGD", "--model.optimizer.lr=0.01", "--data.batch_size=8",
    "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--trainer.check_val_every_n_epoch=1", "--data.batches_per_epoch=1", "--evaluation.clustering=none",
    "--tsne.points=20", "--gallery.rows=1", "--experiment=e", "--name=run",
]  # fmt: skip


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, str, str]]:
    """Six classes train and two validate; of five that test, one is seen by a single camera. Seven lines each."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lines = []
    for c in range(13):
        split = "train" if c < 6 else "val" if c < 8 else ""
        Path(f"p{c:02}").mkdir()
        for i in range(7):
            blob(f"{c}/{i}").save(f"p{c:02}/{i}.png")
            part = split or ("query", "gallery", "query+gallery")[i % 3]
            lines.append((f"p{c:02}/{i}.png", f"p{c:02}", part, f"camera {0 if c == 12 else i // 2}"))
    Path("people.csv").write_text("\n".join(map(",".join, [("path", "label", "split", "camera"), *lines])))
    return lines


def test_a_table_with_all_that_protocols_have(
    people: list[tuple[str, str, str, str]], capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert main(FIT) == 0
    assert "people: its own classes validate; data.validation_share is not used" in capsys.readouterr().out
    told = "people: 5 of 25 queries of the test have no image of their class from another camera, and are left out"
    assert told in [str(warning.message) for warning in recwarn]
    result = json.loads(Path("runs/e/run/result.json").read_text())
    paths, classes, splits, cameras = (np.array(column) for column in zip(*people, strict=True))
    model = lifted_lightning.load("runs/e/run/checkpoints/best.ckpt", "cpu")
    embeddings = model.embed(paths.tolist())
    labels, taken_by = (np.unique(names, return_inverse=True)[1] for names in (classes, cameras))
    for stage, query, gallery in (
        ("validation", splits == "val", splits == "val"),
        ("test", np.char.startswith(splits, "query"), np.char.endswith(splits, "gallery")),
    ):
        expected = brute_force(
            embeddings, labels, (1, 2, 4, 8), query.nonzero()[0], gallery.nonzero()[0], cameras=taken_by
        )
        assert result[stage] == pytest.approx(expected, abs=1e-3), stage
    assert main(["embed", "p00", "p01", "--ckpt", "runs/e/run/checkpoints/best.ckpt"]) == 0
    assert main(["search", "p00/0.png", "--index", "embeddings.npz", "--gallery", "found.png"]) == 0
    with np.load("embeddings.npz") as index:
        assert index["size"].tolist() == [16, 12]
    assert main(["report", "runs/e", "--out", "report"]) == 0


def test_queries_of_one_camera_only_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("people.csv").read_text()
    for camera in range(1, 4):
        text = text.replace(f"camera {camera}", "camera 0")
    Path("people.csv").write_text(text)
    assert main(FIT) == 2
    assert (
        "14 of 14 queries of the validation have no image of their class from another camera" in capsys.readouterr().err
    )
