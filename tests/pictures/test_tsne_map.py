"""The t-SNE map: which points are drawn, where they lie, and what is on the picture."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image

from lifted_lightning.pictures.tsne_map import (
    FEW_COLOURS,
    MANY_COLOURS,
    draw_map,
    place_without_overlap,
    stratified_sample,
    tsne,
)
from tests.helpers.tiny_evaluation import CLASSES, N, clusters


class TestSample:
    @given(
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), points=st.integers(1, 200),
        seed=st.integers(0, 9),
    )  # fmt: skip
    def test_classes_keep_their_shares(self, sizes: list[int], points: int, seed: int) -> None:
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
        rows = stratified_sample(labels, points, seed)
        assert (np.diff(rows) > 0).all()
        assert np.array_equal(rows, stratified_sample(labels, points, seed))
        drawn, counts = np.unique(labels[rows], return_counts=True)
        available = sum(sizes[c] for c in drawn)
        assert len(rows) == min(points, available) or len(drawn) < len(sizes)
        if len(labels) > points >= 5 * len(sizes):
            assert len(rows) == points
            for c, count in zip(drawn, counts, strict=True):
                assert abs(count - points * sizes[c] / len(labels)) < 1

    def test_many_classes_are_thinned_so_that_clusters_can_show(self) -> None:
        labels = np.repeat(np.arange(1000), 6)
        rows = stratified_sample(labels, 500, 0)
        _, counts = np.unique(labels[rows], return_counts=True)
        assert len(rows) == 500
        assert len(counts) == 100
        assert counts.min() >= 5


class TestProjection:
    def test_separates_clusters(self) -> None:
        labels = np.arange(N) % CLASSES
        projected = tsne(clusters().embeddings.numpy(), seed=0)
        apart = np.linalg.norm(projected[:, None] - projected[None], axis=-1) + np.diag(np.full(N, np.inf))
        assert (labels[apart.argmin(axis=1)] == labels).all()
        assert np.array_equal(projected, tsne(clusters().embeddings.numpy(), seed=0))

    @pytest.mark.filterwarnings("ignore")
    def test_degenerate_embeddings(self) -> None:
        equal, line, huge, duplicates = np.ones((20, 4)), np.arange(20.0), 1e20 * np.eye(20), np.eye(4).repeat(5, 0)
        for points in (equal, line[:, None], np.eye(4), huge, duplicates):
            projected = tsne(points.astype(np.float32), seed=0)
            assert projected.shape == (len(points), 2)
            assert np.isfinite(projected).all()

    def test_too_few_points_and_nan(self) -> None:
        with pytest.raises(ValueError, match="needs 4"):
            tsne(np.eye(3), seed=0)
        with pytest.raises(ValueError, match="not finite"):
            tsne(np.full((9, 2), np.nan), seed=0)


class TestMap:
    def test_pictures_never_cover_one_another_and_none_is_left_out_without_need(self) -> None:
        centres = np.random.default_rng(0).uniform(size=(200, 2))
        laid = place_without_overlap(centres, 0.05)

        def overlap(i: int, j: int) -> bool:
            return bool((np.abs(centres[i] - centres[j]) < 0.05).all())

        assert not any(overlap(i, j) for i in laid for j in laid if i < j)
        for i in range(200):
            assert (i in laid) == (not any(overlap(i, j) for j in laid if j < i))

    @pytest.mark.parametrize("classes", [3, 40])
    def test_shows_the_pictures_it_says_and_colours_points_by_class(self, tmp_path: Path, classes: int) -> None:
        rng = np.random.default_rng(0)
        labels = np.arange(80) % classes
        pictured = rng.permutation(80)[:30]
        shades = np.arange(30, dtype=np.uint8)[:, None] * [8, 0, 0] + [0, 3, 251]  # no two alike, none in the palette
        thumbnails = np.broadcast_to(shades[:, None, None], (30, 16, 16, 3)).astype(np.uint8)
        names = [f"class $x_{c}$" for c in range(classes)]
        points = rng.normal(size=(80, 2))
        shown = draw_map(tmp_path / "map.png", points, labels, names, thumbnails, pictured, "title", "below")
        pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int) @ [65536, 256, 1]
        area = dict(zip(*(column.tolist() for column in np.unique(pixels, return_counts=True)), strict=True))
        inside = [area.get(shade, 0) for shade in (shades.astype(int) @ [65536, 256, 1]).tolist()]
        assert len(shown) >= 8
        for i, row in enumerate(pictured):
            assert (inside[i] > 80**2) == (row in shown)  # 0.4 inches at least, at 200 dots an inch
            assert inside[i] == 0 or row in shown
        few, many = (
            [int(to_hex(colour)[1:], 16) in area for colour in matplotlib.color_sequences[name]]
            for name in (FEW_COLOURS, MANY_COLOURS)
        )
        assert few == [True] * 3 + [False] * 7 if classes == 3 else sum(many) > 10

    def test_points_at_one_place(self, tmp_path: Path) -> None:
        shown = draw_map(
            tmp_path / "map.png", np.zeros((5, 2)), np.zeros(5, dtype=int), ["only"],
            np.zeros((5, 8, 8, 1), dtype=np.uint8), np.arange(5), "t", "s",
        )  # fmt: skip
        assert len(shown) <= 1
        assert Image.open(tmp_path / "map.png").size[0] == 2000
