"""The per-class table, against brute force."""

import csv
from pathlib import Path

import pytest
import torch

from lifted_lightning.callbacks.tables import COLUMNS, TablesOfTest
from lifted_lightning.metrics.collection import EmbeddingSet
from tests.helpers.tiny_evaluation import NAMES, Data, Model, apart, brute_force, clusters, evaluated, overlapping


@pytest.mark.parametrize("separate", [False, True], ids=["one set", "query and gallery apart"])
def test_per_class_table(tmp_path: Path, separate: bool) -> None:
    items, data = overlapping(), Data(NAMES)
    if separate:
        data.apart = apart(len(items))
    trainer, evaluation = evaluated(tmp_path, items, data, step=7)
    table = TablesOfTest()
    table.on_evaluation(trainer, Model(items), evaluation)
    assert not trainer.loggers[0].tables, "loggers are asked when all is written"
    table.on_test_end(trainer, Model(items))
    with open(tmp_path / "per_class.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    answerable, order, _ = brute_force(items, data)
    labels = items.labels.numpy()
    assert sorted(row[0] for row in rows) == sorted({NAMES[labels[q]] for q in answerable})
    for name, queries, recall, confused, times in rows:
        nearest = [NAMES[labels[order[q][0]]] for q in answerable if NAMES[labels[q]] == name]
        wrong = [other for other in nearest if other != name]
        assert int(queries) == len(nearest)
        assert float(recall) == pytest.approx(nearest.count(name) / len(nearest), abs=1e-12)
        assert int(times) == max(map(wrong.count, wrong), default=0)
        assert (wrong.count(confused) == int(times)) if wrong else confused == ""
    keys = [(float(row[2]), -int(row[1])) for row in rows]
    assert keys == sorted(keys)
    columns, data_logged, step = trainer.loggers[0].tables["plots/per_class_test"]
    assert (columns, step) == (list(COLUMNS), 7)
    assert [[str(value) for value in row] for row in data_logged] == rows


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    items = clusters()
    trainer, evaluation = evaluated(tmp_path, items, Data(("=1+1", "-5", "@x")))
    TablesOfTest().on_evaluation(trainer, Model(items), evaluation)
    with open(tmp_path / "per_class.csv", newline="", encoding="utf-8") as file:
        assert {row[0] for row in csv.reader(file)} == {"class", "'=1+1", "-5", "'@x"}


def test_a_collapsed_network_finds_nothing(tmp_path: Path) -> None:
    labels = torch.arange(30) % 3
    items = EmbeddingSet(torch.arange(30), torch.ones(30, 4), labels)
    trainer, evaluation = evaluated(tmp_path, items)
    table = TablesOfTest()
    table.on_evaluation(trainer, Model(items), evaluation)
    table.on_test_end(trainer, Model(items))
    assert [row[2] for row in trainer.loggers[0].tables["plots/per_class_test"][1]] == [0.0] * 3


def test_the_table_is_of_the_test_and_of_rank_zero(tmp_path: Path) -> None:
    trainer, evaluation = evaluated(tmp_path, clusters(), stage="validation")
    TablesOfTest().on_evaluation(trainer, Model(clusters()), evaluation)
    trainer, evaluation = evaluated(tmp_path, clusters())
    trainer.is_global_zero = False
    TablesOfTest().on_evaluation(trainer, Model(clusters()), evaluation)
    assert list(tmp_path.iterdir()) == []
