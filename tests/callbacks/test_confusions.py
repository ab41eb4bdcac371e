"""Pairs of classes that are taken for one another: the file and the picture, against brute force."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lifted_lightning.callbacks.confusions import ConfusedClasses
from lifted_lightning.callbacks.tables import CONFUSIONS, TablesOfTest
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import EmbeddingSet
from tests.helpers.tiny_evaluation import NAMES, Data, Model, apart, brute_force, evaluated, overlapping

separate = pytest.mark.parametrize("separate", [False, True], ids=["one set", "query and gallery apart"])


def made(separate: bool) -> tuple[EmbeddingSet, Data, Counter[tuple[int, int]], Counter[int]]:
    """A set of embeddings, how often each class is taken for each other, and the queries of each."""
    items, data = overlapping(), Data(NAMES)
    if separate:
        data.apart = apart(len(items))
    answerable, order, _ = brute_force(items, data)
    labels = items.labels.tolist()
    pairs = Counter((labels[q], labels[order[q][0]]) for q in answerable if labels[q] != labels[order[q][0]])
    return items, data, pairs, Counter(labels[q] for q in answerable)


@separate
def test_the_file_has_each_pair_and_its_rate_the_most_frequent_first(tmp_path: Path, separate: bool) -> None:
    items, data, pairs, queries = made(separate)
    trainer, evaluation = evaluated(tmp_path, items, data)
    table = TablesOfTest()
    table.on_evaluation(trainer, Model(items), evaluation)
    table.on_test_end(trainer, Model(items))
    with open(tmp_path / "confusions.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == CONFUSIONS
    assert {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows} == {
        (NAMES[own], NAMES[other]): (queries[own], times) for (own, other), times in pairs.items()
    }
    assert [float(row[4]) for row in rows] == pytest.approx([int(row[3]) / int(row[2]) for row in rows])
    keys = [(-int(row[3]), -float(row[4])) for row in rows]
    assert keys == sorted(keys)
    columns, logged, _ = trainer.loggers[0].tables["plots/confusions_table_test"]
    assert columns == list(CONFUSIONS)
    assert [[str(cell) for cell in row] for row in logged] == rows


@separate
def test_the_picture_has_both_ways_and_the_nearest_mistake(tmp_path: Path, separate: bool) -> None:
    items, data, pairs, queries = made(separate)
    inputs = ConfusedClasses(pairs=5).inputs(*evaluated(tmp_path, items, data))
    assert inputs is not None
    labels, points = items.labels.tolist(), items.embeddings.double()
    answerable, order, rank = brute_force(items, data)
    wrong = [q for q in answerable if rank[q] > 1]
    shown = (inputs["images"][:, :, 0, 0, 0].astype(int) - 10) // 2  # the items
    together = [pairs[labels[a], labels[b]] + pairs[labels[b], labels[a]] for a, b in shown]
    sums: Counter[frozenset[int]] = Counter()
    for pair, times in pairs.items():
        sums[frozenset(pair)] += times
    assert together == sorted(sums.values(), reverse=True)[:5]
    for i, (a, b) in enumerate(shown):
        of_pair = [q for q in wrong if {labels[q], labels[order[q][0]]} == {labels[a], labels[b]}]
        assert a == min(of_pair, key=lambda q: float((points[q] - points[order[q][0]]).norm()))
        assert b == order[a][0]
        assert inputs["names"][i].tolist() == [NAMES[labels[a]], NAMES[labels[b]]]
        assert inputs["times"][i].tolist() == [pairs[labels[a], labels[b]], pairs[labels[b], labels[a]]]
        assert inputs["queries"][i].tolist() == [queries[labels[a]], queries[labels[b]]]
    told = f"5 of {len(sums)} pairs of classes, with {sum(together)} of {sum(pairs.values())} mistakes"
    assert str(inputs["subtitle"]).endswith(told)


def test_a_class_that_is_searched_only_has_no_queries(tmp_path: Path) -> None:
    """Rows of a query set, two of one class and one of another; the gallery has a third class that is nearest."""
    points = torch.tensor([[0.0], [5.0], [0.1], [9.0]])
    items, data = EmbeddingSet(torch.arange(4), points, torch.tensor([0, 0, 1, 2])), Data()
    data.apart = np.array([0, 3]), np.array([1, 2])
    trainer, evaluation = evaluated(tmp_path, items, data)
    inputs = ConfusedClasses().inputs(trainer, evaluation)
    assert inputs is not None
    assert (inputs["times"].tolist(), inputs["queries"].tolist()) == ([[1, 0]], [[1, 0]])
    TablesOfTest().on_evaluation(trainer, Model(items), evaluation)
    assert (tmp_path / "confusions.csv").read_text().split()[1:] == ["alpha,beta,1,1,1.0"]


@pytest.mark.parametrize(
    ("points", "labels"), [([1, 5, 2], [0, 1, 2]), ([1, 5, 2], [0, 0, 0]), ([0, 1, -1], [0, 0, 1])],
    ids=["single images", "one class", "another exactly as near as the own"],
)  # fmt: skip
def test_nothing_is_taken_for_another(tmp_path: Path, points: list[float], labels: list[int]) -> None:
    items = EmbeddingSet(torch.arange(3), torch.tensor(points)[:, None].float(), torch.tensor(labels))
    trainer, evaluation = evaluated(tmp_path, items, Data(NAMES))
    table = TablesOfTest()
    for callback in (table, ConfusedClasses()):
        callback.on_evaluation(trainer, Model(items), evaluation)
    table.on_test_end(trainer, Model(items))
    assert not (tmp_path / "plots").exists()
    assert (tmp_path / "confusions.csv").read_text().splitlines() == [",".join(CONFUSIONS)]
    assert "plots/confusions_table_test" not in trainer.loggers[0].tables


def test_thousands_of_classes(tmp_path: Path) -> None:
    """Three thousand of two images: the file has all pairs, loggers a thousand, the picture twelve."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3000).repeat(2)
    items = EmbeddingSet(torch.arange(6000), torch.randn(6000, 2, generator=generator), labels)
    trainer, evaluation = evaluated(tmp_path, items, Data(tuple(map(str, range(3000)))))
    table = TablesOfTest()
    table.on_evaluation(trainer, Model(items), evaluation)
    table.on_test_end(trainer, Model(items))
    assert len((tmp_path / "confusions.csv").read_text().splitlines()) > 5000
    assert len(trainer.loggers[0].tables["plots/confusions_table_test"][1]) == 1000
    inputs = ConfusedClasses().inputs(trainer, evaluation)
    assert inputs is not None
    assert len(inputs["names"]) == 12


def test_at_least_one_pair() -> None:
    with pytest.raises(UserError, match=r"confusions\.pairs 0: give at least 1"):
        ConfusedClasses(pairs=0)
