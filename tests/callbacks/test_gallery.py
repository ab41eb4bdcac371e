"""The retrieval gallery: which queries it shows and what beside them, against brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lifted_lightning.callbacks.gallery import RetrievalGallery, choose_queries
from lifted_lightning.callbacks.pictures import picture_title
from lifted_lightning.metrics.collection import EmbeddingSet
from lifted_lightning.pictures.gallery import ABSENT, RIGHT, WRONG
from tests.helpers.tiny_evaluation import NAMES, Data, Model, apart, brute_force, clusters, evaluated, overlapping


@pytest.mark.parametrize("separate", [False, True], ids=["one set", "query and gallery apart"])
class TestAgainstBruteForce:
    def test_gallery(self, tmp_path: Path, separate: bool) -> None:
        items, data = overlapping(), Data(NAMES)
        if separate:
            data.apart = apart(len(items))
        trainer, evaluation = evaluated(tmp_path, items, data)
        inputs = RetrievalGallery(neighbours=5, rows=4).inputs(trainer, evaluation)
        assert inputs is not None
        answerable, order, rank = brute_force(items, data)
        labels = items.labels.numpy()
        shown = [(int(value) - 10) // 2 for value in inputs["images"][:, 0, 0, 0, 0]]
        assert len(set(shown)) == len(shown)
        assert set(shown) <= set(answerable)
        for row, q in enumerate(shown):
            cells = [q, *order[q][:5]]
            assert (inputs["images"][row, :, 0, 0, 0] == 10 + 2 * np.array(cells)).all()
            assert inputs["names"][row].tolist() == [NAMES[labels[c]] for c in cells]
            assert inputs["status"][row].tolist() == [RIGHT if labels[c] == labels[q] else WRONG for c in cells[1:]]
        groups = {
            kind: [q for q, heading in zip(shown, inputs["headings"], strict=True) if heading.startswith(kind)]
            for kind in ("Random", "Worst")
        }
        assert [len(group) for group in groups.values()] == [4, 4]
        self.check_worst(groups, inputs["headings"][4], labels, rank)
        assert picture_title(trainer, evaluation).startswith("Clusters · test · step 0 · Recall@1 0.")

    @staticmethod
    def check_worst(groups: dict[str, list[int]], heading: str, labels: np.ndarray, rank: dict[int, int]) -> None:
        elsewhere = groups["Random"]
        by_class: dict[int, int] = {}
        for q, r in rank.items():
            if q not in elsewhere:
                by_class[labels[q]] = max(by_class.get(labels[q], 0), r)
        worst = [rank[q] for q in groups["Worst"]]
        assert worst == sorted(by_class.values(), reverse=True)[:4]
        assert len({labels[q] for q in groups["Worst"]}) == 4
        assert heading.endswith("rank " + ", ".join(map(str, worst)))


class TestChoice:
    def test_no_mistakes_no_groups_of_mistakes(self) -> None:
        groups = choose_queries(np.arange(9), np.ones(9, dtype=int), 4)
        assert [(heading, rows.tolist()) for heading, rows in groups] == [("Random queries", [0, 1, 2, 3])]

    def test_nothing_to_show(self, tmp_path: Path) -> None:
        items = EmbeddingSet(torch.arange(3), torch.eye(3), torch.arange(3))
        trainer, evaluation = evaluated(tmp_path, items)
        RetrievalGallery().on_evaluation(trainer, Model(items), evaluation)
        assert list(tmp_path.iterdir()) == []

    def test_fewer_items_than_neighbours(self, tmp_path: Path) -> None:
        items = clusters(6)
        inputs = RetrievalGallery().inputs(*evaluated(tmp_path, items))
        assert inputs is not None
        assert (inputs["status"][:, 5:] == ABSENT).all()
        assert (inputs["status"][:, :5] != ABSENT).all()

    def test_collapsed_embeddings(self, tmp_path: Path) -> None:
        labels = torch.arange(30) % 3
        items = EmbeddingSet(torch.arange(30), torch.ones(30, 4), labels)
        assert RetrievalGallery().inputs(*evaluated(tmp_path, items)) is not None
