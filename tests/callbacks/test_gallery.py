"""The retrieval gallery and the per-class table, against brute force and by the pixels of the picture."""

import csv
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lifted_lightning.callbacks.gallery import RetrievalGallery, choose_queries, confused_pairs
from lifted_lightning.callbacks.tables import COLUMNS, PerClassTable
from lifted_lightning.metrics import EmbeddingSet
from lifted_lightning.pictures.gallery import (
    _CELL,
    _FRAME,
    _GAP,
    _HEADING,
    _LINE,
    _TITLE,
    ABSENT,
    FRAMES,
    RIGHT,
    UNKNOWN,
    WRONG,
    cell_left,
    draw_gallery,
)
from lifted_lightning.pictures.style import DPI, INK, fit_name, shrink
from tests.helpers.evaluations import Data, Model, clusters, evaluated, fit

NAMES = tuple(f"class {c}" for c in range(12))


def overlapping(n: int = 120, seed: int = 0) -> EmbeddingSet:
    """Twelve classes that overlap; the last has one image. Rows are every second row from 10."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 11, n))
    labels[-1] = 11
    points = rng.normal(size=(12, 4))[labels] + 0.8 * rng.normal(size=(n, 4))
    return EmbeddingSet(10 + 2 * torch.arange(n), torch.from_numpy(points).float(), torch.from_numpy(labels))


def apart(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a query and of a gallery set: every third item is a query."""
    rows = 10 + 2 * np.arange(n)
    return rows[::3], np.delete(rows, np.s_[::3])


def brute_force(embedding_set: EmbeddingSet, data: Data) -> tuple[list[int], dict[int, list[int]], dict[int, int]]:
    """The queries that have an answer; for each the gallery in order of distance; and its answer's rank."""
    points, labels = embedding_set.embeddings.double().numpy(), embedding_set.labels.tolist()
    rows = embedding_set.indices.tolist()
    query, gallery = data.query_gallery("test")
    answerable, order, rank = [], {}, {}
    for q in range(len(rows)):
        if query is not None and rows[q] not in query:
            continue
        others = [g for g in range(len(rows)) if g != q and (gallery is None or rows[g] in gallery)]
        order[q] = sorted(others, key=lambda g: float(np.linalg.norm(points[g] - points[q])))
        ranks = [r for r, g in enumerate(order[q], start=1) if labels[g] == labels[q]]
        if ranks:
            answerable.append(q)
            rank[q] = ranks[0]
    return answerable, order, rank


@pytest.mark.parametrize("separate", [False, True], ids=["one set", "query and gallery apart"])
class TestAgainstBruteForce:
    def test_gallery(self, tmp_path: Path, separate: bool) -> None:
        items, data = overlapping(), Data(NAMES)
        if separate:
            data.apart = apart(len(items))
        trainer = evaluated(tmp_path, items, data)
        inputs = RetrievalGallery(neighbours=5, rows=4).inputs(trainer, "test", items)
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
            for kind in ("Random", "Worst", "Most confused")
        }
        assert [len(group) for group in groups.values()] == [4, 4, 4]
        self.check_worst(groups, inputs["headings"][4], labels, rank)
        self.check_confused(groups["Most confused"], labels, answerable, order)
        assert str(inputs["title"]).startswith("Clusters · test · step 0 · Recall@1 0.")

    @staticmethod
    def check_worst(groups: dict[str, list[int]], heading: str, labels: np.ndarray, rank: dict[int, int]) -> None:
        elsewhere = {*groups["Random"], *groups["Most confused"]}
        by_class: dict[int, int] = {}
        for q, r in rank.items():
            if q not in elsewhere:
                by_class[labels[q]] = max(by_class.get(labels[q], 0), r)
        worst = [rank[q] for q in groups["Worst"]]
        assert worst == sorted(by_class.values(), reverse=True)[:4]
        assert len({labels[q] for q in groups["Worst"]}) == 4
        assert heading.endswith("rank " + ", ".join(map(str, worst)))

    @staticmethod
    def check_confused(
        confused: list[int], labels: np.ndarray, answerable: list[int], order: dict[int, list[int]]
    ) -> None:
        times: dict[frozenset[int], int] = {}
        for q in answerable:
            pair = frozenset((labels[q], labels[order[q][0]]))
            if len(pair) == 2:
                times[pair] = times.get(pair, 0) + 1
        chosen = [times[frozenset((labels[q], labels[order[q][0]]))] for q in confused]
        assert chosen == sorted(times.values(), reverse=True)[:4]

    def test_per_class_table(self, tmp_path: Path, separate: bool) -> None:
        items, data = overlapping(), Data(NAMES)
        if separate:
            data.apart = apart(len(items))
        trainer = evaluated(tmp_path, items, data, step=7)
        PerClassTable().on_embedding_set(trainer, Model(items), "test", items)
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


class TestChoice:
    def test_pairs_count_both_ways_and_the_nearest_stands_for_them(self) -> None:
        own = np.array([0, 1, 2, 3, 0, 4])
        nearest = np.array([1, 0, 3, 3, 1, 5])
        assert confused_pairs(own, nearest, np.array([3.0, 1, 2, 0, 2, 0.5]), 9).tolist() == [1, 2, 5]

    def test_no_mistakes_no_groups_of_mistakes(self) -> None:
        groups = choose_queries(np.arange(9), np.ones(9, dtype=int), np.array([], dtype=int), 4)
        assert [(heading, rows.tolist()) for heading, rows in groups] == [("Random queries", [0, 1, 2, 3])]

    def test_nothing_to_show(self, tmp_path: Path) -> None:
        items = EmbeddingSet(torch.arange(3), torch.eye(3), torch.arange(3))
        trainer = evaluated(tmp_path, items)
        RetrievalGallery().on_embedding_set(trainer, Model(items), "test", items)
        PerClassTable().on_embedding_set(trainer, Model(items), "test", items)
        assert [path.name for path in tmp_path.iterdir()] == ["per_class.csv"]

    def test_fewer_items_than_neighbours(self, tmp_path: Path) -> None:
        items = clusters(6)
        inputs = RetrievalGallery().inputs(evaluated(tmp_path, items), "test", items)
        assert inputs is not None
        assert (inputs["status"][:, 5:] == ABSENT).all()
        assert (inputs["status"][:, :5] != ABSENT).all()

    def test_collapsed_embeddings(self, tmp_path: Path) -> None:
        labels = torch.arange(30) % 3
        items = EmbeddingSet(torch.arange(30), torch.ones(30, 4), labels)
        trainer = evaluated(tmp_path, items)
        PerClassTable().on_embedding_set(trainer, Model(items), "test", items)
        assert [row[2] for row in trainer.loggers[0].tables["plots/per_class_test"][1]] == [0.0] * 3
        assert RetrievalGallery().inputs(trainer, "test", items) is not None

    def test_the_table_is_of_the_test_and_of_rank_zero(self, tmp_path: Path) -> None:
        trainer = evaluated(tmp_path, clusters())
        PerClassTable().on_embedding_set(trainer, Model(clusters()), "validation", clusters())
        trainer.is_global_zero = False
        PerClassTable().on_embedding_set(trainer, Model(clusters()), "test", clusters())
        assert list(tmp_path.iterdir()) == []


class TestPicture:
    def test_drawn_beside_training(self, tmp_path: Path) -> None:
        _, recorder = fit(tmp_path, RetrievalGallery(every_n=3))
        assert recorder.images == [("plots/gallery_validation", "gallery_6.png", 6)]
        assert [path.name for path in (tmp_path / "plots").iterdir()] == ["gallery_6.png"]

    def test_right_is_green_and_wrong_is_red(self) -> None:
        (red, green, _), (red_wrong, green_wrong, _) = (bytes.fromhex(FRAMES[kind][1:]) for kind in (RIGHT, WRONG))
        assert green > 2 * red
        assert red_wrong > 2 * green_wrong

    def test_frames_and_images_are_where_they_belong(self, tmp_path: Path) -> None:
        images = np.full((3, 4, 20, 20, 3), 90, dtype=np.uint8)
        images += np.arange(12, dtype=np.uint8).reshape(3, 4, 1, 1, 1)
        status = np.array([[RIGHT, WRONG, RIGHT], [WRONG, WRONG, ABSENT], [UNKNOWN, RIGHT, WRONG]])
        names = [["one line"] * 4] * 3
        draw_gallery(tmp_path / "g.png", images, names, status, ["a", "a", "b"], "title")
        picture = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
        tops = [_TITLE + _HEADING * (1 + (row == 2)) + row * (_CELL + _LINE + 0.07 + _GAP) for row in range(3)]
        for row, top in enumerate(tops):
            for column in range(4):
                left = cell_left(column)
                centre = picture[self.at(top + _CELL / 2), self.at(left + _CELL / 2)]
                edges = [
                    picture[self.at(top + dy), self.at(left + dx)]
                    for dy, dx in self.frame_points()
                ]  # fmt: skip
                kind = status[row, column - 1]
                absent = column > 0 and kind == ABSENT
                colour = INK if column == 0 else "#ffffff" if absent else FRAMES[kind]
                for edge in edges:
                    assert tuple(edge) == tuple(bytes.fromhex(colour[1:]))
                assert tuple(centre) == (255,) * 3 if absent else (90 + 4 * row + column,) * 3

    @staticmethod
    def at(inches: float) -> int:
        return int(inches * DPI)

    @staticmethod
    def frame_points() -> list[tuple[float, float]]:
        """The middle of each side of a frame, from a cell's upper left corner, in inches."""
        middle, thin = _CELL / 2, _FRAME / 2
        return [(thin, middle), (_CELL - thin, middle), (middle, thin), (middle, _CELL - thin)]

    def test_names_in_many_scripts(self, tmp_path: Path) -> None:
        """No character of these is missing from the fonts that matplotlib brings."""
        names = [["Ж щука", "Ωμέγα", "ⴲⵣ", "∯ ⨌", "𝔄 𝕭", "Ő ǅ ﬃ", "$x_1^{2}$ \\frac", "a\nb\tc", ""]]
        images = np.zeros((1, 9, 8, 8, 1), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw_gallery(tmp_path / "g.png", images, names, np.ones((1, 8), int), ["first"], "100 % of $5")
        assert (tmp_path / "g.png").exists()


class TestNames:
    @settings(max_examples=25)
    @given(st.text(max_size=40), st.integers(3, 20), st.integers(1, 3))
    def test_fit(self, name: str, columns: int, lines: int) -> None:
        broken = fit_name(name, columns, lines).split("\n")
        assert 1 <= len(broken) <= lines
        for line in broken:
            wide = sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in line)
            assert wide <= columns
        joined = re.sub(r"\s", "", "".join(broken))
        whole = re.sub(r"\s", "", name) or "(noname)"
        if "…" in joined and "…" not in whole:
            head, tail = joined.split("…")
            assert whole.startswith(head)
            assert whole.endswith(tail)
        else:
            assert joined == whole or "…" in whole

    def test_breaks_at_signs_and_keeps_both_ends(self) -> None:
        assert fit_name("001.Black_footed_Albatross", 17, lines=2) == "001.Black_\nfooted_Albatross"
        assert fit_name("Atemayar_Qelisayer/character26", 17, lines=1) == "Atemayar…acter26"
        assert fit_name("Atemayar_Qelisayer/character26", 17, lines=2) == "Atemayar_\n…character26"


def test_shrink_averages_blocks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 8, 1), dtype=np.uint8)
    small = shrink(images, 3)
    blocks = images.reshape(3, 3, 4, 2, 4, 1).mean(axis=(2, 4))
    assert small.shape == (3, 3, 2, 1)
    assert np.abs(small - blocks).max() <= 1
    assert shrink(images, 9) is images
    assert shrink(np.repeat(images, 3, axis=-1), 3).shape == (3, 3, 2, 3)
