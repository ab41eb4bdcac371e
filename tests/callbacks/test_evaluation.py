"""An embedding beside its baseline: the same images without training, in the same geometry; what is said below it."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lifted_lightning.callbacks.baseline import have_one_length
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.losses import ContrastiveLoss
from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.reference.retrieval import retrieval_metrics
from tests.helpers.tiny import TinyNetwork, silent_trainer
from tests.helpers.tiny_training import Case, blobs


class Stretched(nn.Module):
    """Gives each image's features a length of its own, so that only unit length makes neighbours of its class."""

    def forward(self, features: Tensor) -> Tensor:
        return features * (1 + 50 * features[:, :1].abs())


class Pretrained(TinyNetwork):
    """A network whose trunk came with weights."""

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.trunk.append(Stretched())
        self.normalize = normalize
        self._first = deepcopy(self.trunk)

    def initial_trunk(self) -> nn.Module:
        return deepcopy(self._first).eval()


def frozen_recall(data: RetrievalDataModule, module: EmbeddingModule, rows: np.ndarray, unit: bool) -> float:
    assert data.pixels is not None
    images = torch.from_numpy(np.asarray(data.pixels[rows])).permute(0, 3, 1, 2)
    with torch.no_grad():
        points = module.network.initial_trunk()(module.augment(images, None)).double().numpy()
    lengths = np.linalg.norm(points, axis=1, keepdims=True) if unit else 1.0
    return retrieval_metrics(points / lengths, data.table.labels[rows], (1,))["recall@1"]


@pytest.mark.parametrize("unit", [True, False], ids=["unit length", "any length"])
def test_the_frozen_trunk_is_ranked_as_the_embeddings_are_and_stands_beside_them(tmp_path: Path, unit: bool) -> None:
    torch.manual_seed(0)
    evaluation = RetrievalEvaluation(clustering="none")
    module = EmbeddingModule(
        Pretrained(unit), ContrastiveLoss(), CropMirror(size=12), lambda groups: torch.optim.SGD(groups, lr=1e-3)
    )
    data = blobs(Case(validate=True), tmp_path)
    trainer = silent_trainer(max_steps=20, callbacks=[evaluation], logger=MetricsFile(tmp_path), log_every_n_steps=5)
    trainer.fit(module, datamodule=data)
    at_validation, other = (frozen_recall(data, module, data.validation_rows, u) for u in (unit, not unit))
    assert at_validation != other, "or the test tells nothing"
    trainer.test(module, datamodule=data, verbose=False)
    at_test = frozen_recall(data, module, data.table.test, unit)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [float(row["baseline/recall@1"]) for row in rows if row["validation/recall@1"]] == pytest.approx(
        [at_validation] * 2
    )
    assert [float(row["baseline/test/recall@1"]) for row in rows if row["test/recall@1"]] == pytest.approx([at_test])
    assert evaluation.results["baseline"]["recall@1"] == pytest.approx(at_test)
    assert (evaluation.baseline_name, evaluation.baseline_unit_length) == ("frozen trunk", unit)


def told(evaluations: Sequence[tuple[str, float]], name: str = "frozen trunk") -> list[str]:
    """What is said of evaluations, each of a stage and a Recall@1, where the baseline has 0.3."""
    callback = RetrievalEvaluation()
    callback.baseline_name, callback.results["baseline"] = name, {"recall@1": 0.3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, (stage, recall) in enumerate(evaluations, start=1):
            made: Any = SimpleNamespace(stage=stage, step=step, values={"recall@1": recall})
            callback._tell_below(made)
    return [str(warning.message) for warning in caught]


def test_what_to_try_is_said_at_first_and_at_the_end_and_else_that_it_still_is_below() -> None:
    first, still, above, last = told(
        [("validation", 0.1), ("validation", 0.2), ("validation", 0.4), ("validation", 0.4), ("test", 0.2)]
    )
    assert first.startswith("validation at step 1: recall@1 0.100 is below the 0.300 of the frozen trunk; try")
    assert first.index("normalize=true") < first.index("model.optimizer.lr") < first.index("more steps")
    assert still == "validation at step 2: recall@1 0.200 is still below the 0.300 of the frozen trunk"
    assert above == "validation at step 3: recall@1 0.400 is no longer below the 0.300 of the frozen trunk"
    assert last.startswith("test at step 5: recall@1 0.200 is below the 0.300 of the frozen trunk; try")


def test_raw_pixels_are_a_matter_of_the_test_and_an_equal_or_missing_figure_of_none() -> None:
    assert told([("validation", 0.1), ("test", 0.3), ("test", float("nan"))], "raw pixels") == []
    (line,) = told([("test", 0.1)], "raw pixels")
    assert "pretrained trunk" in line


def test_embeddings_of_one_length() -> None:
    points, own = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), nn.Identity()
    assert not have_one_length(own, points)
    assert have_one_length(own, 14 * torch.nn.functional.normalize(points).bfloat16())
    assert not have_one_length(own, points[:0])
    assert not have_one_length(TinyNetwork(), torch.ones(20, 4)), "it has collapsed"
