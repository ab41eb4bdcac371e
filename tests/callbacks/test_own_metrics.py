"""Metrics of one's own: where what they give stands, what of it is refused. (That ranks agree is in test_ranks.py.)"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.own_metrics import EvaluationMetric, own_values, rehearse
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.tiny import TinyNetwork, silent_trainer
from tests.helpers.tiny_evaluation import clusters, evaluated
from tests.helpers.tiny_training import Case, blobs


class Gives(EvaluationMetric):
    """What it is told to give; an exception is raised."""

    def __init__(self, given: Any, neighbours: int = 1) -> None:
        self.given = given
        self.neighbours = neighbours

    def compute(self, evaluation: Evaluation) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given(evaluation) if callable(self.given) else self.given


def third(evaluation: Evaluation) -> dict[str, float]:
    """The mean distance to the third neighbour, the number of images, and what stands there before."""
    third = evaluation.ranking.distances[:, 2].mean().item()
    return {"third": third, "images": len(evaluation), "before": evaluation.values["recall@1"]}


def test_what_it_gives_stands_beside_our_metrics_wherever_they_go(tmp_path: Path) -> None:
    evaluation = RetrievalEvaluation(clustering="none", metrics=[Gives(third, neighbours=3)])
    trainer = silent_trainer(
        max_steps=6, callbacks=[evaluation], logger=MetricsFile(tmp_path), log_every_n_steps=3,
        check_val_every_n_epoch=None, val_check_interval=3,
    )  # fmt: skip
    module = EmbeddingModule(TinyNetwork(), ContrastiveLoss(), CropMirror(size=12))
    data = blobs(Case(validate=True), tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    results, rows = evaluation.results, read_metrics(tmp_path / "metrics.csv")
    assert results["baseline"]["before"] == results["baseline"]["recall@1"] != results["test"]["recall@1"]
    assert results["baseline"]["third"] > 2 * results["test"]["third"], "of raw pixels"
    for stage, images in (("validation", 32), ("test", 160)):
        values = results[stage]
        assert values["images"] == images
        assert values["before"] == values["recall@1"]
        assert 0 < values["third"] < 100
        logged = [row for row in rows if row[f"{stage}/third"]]
        assert len(logged) == (2 if stage == "validation" else 1)
        assert float(logged[-1][f"{stage}/third"]) == pytest.approx(values["third"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([0.5], "gave list; compute gives numbers by name"),
        (None, "gave NoneType"),
        ({"a b": 1.0}, "gave the name 'a b'; make it of letters"),
        ({"a/b": 1.0}, "gave the name 'a/b'"),
        ({"": 1.0}, "gave the name ''"),
        ({3: 1.0}, "gave the name 3"),
        ({"recall@1": 1.0}, "gave recall@1, a name that a metric of ours has"),
        ({"nmi": 1.0}, "gave nmi, a name"),
        ({"taken": 1.0}, "gave taken, a name that another"),
        ({"x": "0.5"}, "x is str; give a number"),
        ({"x": True}, "x is bool"),
        ({"x": None}, "x is NoneType"),
        ({"x": torch.ones(2)}, "x is Tensor"),
    ],
)
def test_what_is_no_metric_is_refused_by_name(tmp_path: Path, given: Any, words: str) -> None:
    _, evaluation = evaluated(tmp_path, clusters())
    with pytest.raises(UserError, match=f"^evaluation.metrics Gives: {words}"):
        own_values([Gives({"taken": 1}), Gives(given)], evaluation)


def test_numbers_of_other_kinds_are_numbers(tmp_path: Path) -> None:
    _, evaluation = evaluated(tmp_path, clusters())
    given = {"a": 1, "b": np.float32(0.5), "c": torch.tensor(2), "d": np.array(3.0), "e@2": np.int64(4)}
    found = own_values([Gives(given)], evaluation)
    assert found == {"a": 1.0, "b": 0.5, "c": 2.0, "d": 3.0, "e@2": 4.0}
    assert all(type(value) is float for value in found.values())


def test_what_is_not_finite_is_told_and_kept(tmp_path: Path) -> None:
    _, evaluation = evaluated(tmp_path, clusters())
    with pytest.warns(UserWarning, match="Gives: x is nan in the test"):
        assert np.isnan(own_values([Gives({"x": float("nan")})], evaluation)["x"])


def test_what_it_raises_names_it(tmp_path: Path) -> None:
    _, evaluation = evaluated(tmp_path, clusters())
    with pytest.raises(ValueError, match="mine") as caught:
        own_values([Gives(ValueError("mine"))], evaluation)
    assert caught.value.__notes__ == ["evaluation.metrics Gives"]


def test_a_rehearsal_finds_names_and_what_is_wrong_before_training(tmp_path: Path) -> None:
    data = blobs(Case(validate=True), tmp_path)
    seen: list[Evaluation] = []

    def looks(evaluation: Evaluation) -> dict[str, float]:
        seen.append(evaluation)
        return {"x": 1.0, "y": 2.0}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rehearse([Gives(looks, neighbours=5), Gives({"z": 3})], data, 6) == ["x", "y", "z"]
    assert seen[0].embeddings.shape == (32, 6)
    assert seen[0].ranking.nearest.shape == (32, 5)
    assert bool(seen[0].ranking.answerable.all())
    np.testing.assert_array_equal(seen[0].rows, data.validation_rows)
    np.testing.assert_array_equal(seen[0].labels, data.table.labels[data.validation_rows])
    without = blobs(Case(), tmp_path)
    assert rehearse([Gives(third, neighbours=3)], without, 6) == ["third", "images", "before"]
    with pytest.raises(UserError, match="Gives: gave NoneType"):
        rehearse([Gives(None)], data, 6)


def test_a_probe_is_trained_on_clones(tmp_path: Path) -> None:
    def probe(evaluation: Evaluation, clone: bool) -> dict[str, float]:
        with torch.inference_mode(not clone):
            given = evaluation.embeddings.clone()
            weight = torch.zeros(given.shape[1], requires_grad=True)
            (given @ weight).square().sum().backward()
            return {"probe": 1.0}

    data = blobs(Case(), tmp_path)
    assert rehearse([Gives(lambda evaluation: probe(evaluation, True))], data, 6) == ["probe"]
    with pytest.raises(RuntimeError) as caught:
        rehearse([Gives(lambda evaluation: probe(evaluation, False))], data, 6)
    assert caught.value.__notes__ == ["evaluation.metrics Gives"], "said before training, not at the first validation"
