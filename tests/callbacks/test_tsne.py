"""The t-SNE plot: what is on it, and that its background process never harms the run."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning import Callback, Trainer

from lifted_lightning.callbacks import pictures
from lifted_lightning.callbacks.tsne import TSNEPlot
from lifted_lightning.errors import UserError
from lifted_lightning.pictures.style import PALETTE, far_apart_colours
from lifted_lightning.pictures.tsne_map import class_centres, draw_map, place_without_overlap, stratified_sample, tsne
from tests.helpers.evaluations import CLASSES, Model, N, clusters, evaluated, fit


def sleeper(job: Any) -> None:
    """A worker that never ends."""
    job.log.touch()
    job.process = subprocess.Popen(["sleep", "60"])


KEY = "plots/tsne_validation"


class TestBackground:
    def test_drawn_one_at_a_time_and_logged_after_training_with_their_own_steps(self, tmp_path: Path) -> None:
        """Validations at 2, 4, 6 outrun the drawing: 2 is drawn, 4 waits and is overtaken by 6."""
        _, recorder = fit(tmp_path, TSNEPlot())
        assert recorder.images == [(KEY, "tsne_2.png", 2), (KEY, "tsne_6.png", 6)]
        assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["tsne_2.png", "tsne_6.png"]

    def test_a_killed_worker_is_a_warning(self, tmp_path: Path) -> None:
        plot = TSNEPlot(every_n=2)

        class Kill(Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                if plot._running is not None:
                    process = plot._running.process
                    assert process is not None
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()

        with pytest.warns(UserWarning, match=r"tsne_4\.png was not drawn: .*killed by SIGKILL"):
            model, recorder = fit(tmp_path, Kill(), plot)
        assert model.steps == 6
        assert recorder.images == []

    def test_a_raising_worker_is_a_warning_with_its_last_line(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"tsne_6\.png was not drawn: ValueError: .* of 3 points .*needs 4"):
            model, recorder = fit(tmp_path, TSNEPlot(every_n=3), embedding_set=clusters(3))
        assert model.steps == 6
        assert recorder.images == []
        assert "Traceback" in (tmp_path / "plots" / "tsne_6.log").read_text()

    def test_the_end_of_training_waits_no_longer_than_the_timeout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pictures._Job, "start", sleeper)
        start = time.monotonic()
        with pytest.warns(UserWarning, match=r"tsne_2\.png was not drawn: it was not finished 0\.2 s"):
            model, _ = fit(tmp_path, TSNEPlot(timeout=0.2))
        assert model.steps == 6
        assert time.monotonic() - start < 20
        assert [p.suffix for p in (tmp_path / "plots").iterdir()] == [".log"] * 2

    def test_an_error_in_training_leaves_the_picture_to_be_finished(self, tmp_path: Path) -> None:
        class Fail(Callback):
            def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
                if trainer.global_step == 3:
                    raise RuntimeError("out of luck")

        plot = TSNEPlot()
        with pytest.raises(RuntimeError, match="out of luck"):
            fit(tmp_path, Fail(), plot)
        assert plot._running is not None
        process = plot._running.process
        assert process is not None
        assert process.wait(60) == 0
        assert (tmp_path / "plots" / "tsne_2.png").exists()

    def test_only_rank_zero_draws_and_never_in_the_sanity_check(self, tmp_path: Path) -> None:
        for change in ({"is_global_zero": False}, {"sanity_checking": True}):
            trainer = evaluated(tmp_path, clusters())
            vars(trainer).update(change)
            TSNEPlot().on_embedding_set(trainer, Model(clusters()), "validation", clusters())
        assert list(tmp_path.iterdir()) == []

    def test_interval_counts_validations_through_resuming_and_the_test_is_always_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[str] = []
        monkeypatch.setattr(pictures._Job, "start", lambda job: started.append(job.picture.name))
        plot = TSNEPlot(every_n=2)
        plot.on_embedding_set(evaluated(tmp_path, clusters(), step=10), Model(clusters()), "validation", clusters())
        resumed = TSNEPlot(every_n=2)
        resumed.load_state_dict(plot.state_dict())
        resumed.on_embedding_set(evaluated(tmp_path, clusters(), step=20), Model(clusters()), "validation", clusters())
        tested = TSNEPlot(every_n=2)
        tested.on_embedding_set(evaluated(tmp_path, clusters(), step=20), Model(clusters()), "test", clusters())
        assert started == ["tsne_20.png", "tsne_test.png"]

    def test_the_worker_needs_no_torch(self) -> None:
        check = (
            "import sys, lifted_lightning.pictures.worker, sklearn.manifold, matplotlib.figure;"
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0

    def test_interval_below_zero(self) -> None:
        with pytest.raises(UserError, match="every_n"):
            TSNEPlot(every_n=-1)


class TestSample:
    @given(
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), points=st.integers(1, 200),
        seed=st.integers(0, 9),
    )  # fmt: skip
    def test_classes_keep_their_shares(self, sizes: list[int], points: int, seed: int) -> None:
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
        rows = stratified_sample(labels, points, seed, per_class=5)
        assert (np.diff(rows) > 0).all()
        assert np.array_equal(rows, stratified_sample(labels, points, seed, per_class=5))
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

    @pytest.mark.parametrize(
        "points",
        [
            np.ones((20, 4)),
            np.arange(20.0)[:, None],
            np.eye(4),
            1e20 * np.eye(20),
            np.repeat(np.eye(4), 5, axis=0),
        ],
        ids=["collapsed", "one dimension", "four points", "huge", "duplicates"],
    )
    def test_degenerate_embeddings(self, points: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
        taken = np.array([[0.4, 0.4, 0.6, 0.5]])
        laid = place_without_overlap(centres, 0.06, 0.04, taken)

        def overlap(i: int, j: int) -> bool:
            return bool((np.abs(centres[i] - centres[j]) < [0.06, 0.04]).all())

        def covers_taken(i: int) -> bool:
            return bool((np.abs(centres[i] - [0.5, 0.45]) < [0.13, 0.07]).all())

        assert not any(overlap(i, j) for i in laid for j in laid if i < j)
        for i in range(200):
            free = not covers_taken(i) and not any(overlap(i, j) for j in laid if j < i)
            assert free == (i in laid)

    def test_few_classes_have_a_colour_each_and_of_many_neighbours_differ(self) -> None:
        centres = np.random.default_rng(0).normal(size=(300, 2))
        assert len(set(far_apart_colours(centres[: len(PALETTE)]))) == len(PALETTE)
        colours = far_apart_colours(centres)
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        np.fill_diagonal(apart, np.inf)
        assert np.mean(colours[apart.argmin(axis=1)] != colours) > 0.99

    def test_class_centres_are_points_of_their_class(self) -> None:
        coordinates = np.array([[0.0, 0], [1, 0], [9, 0], [5, 5], [7, 7.1], [6, 6]])
        classes, centres = class_centres(coordinates, np.array([4, 4, 4, 2, 2, 2]))
        assert classes.tolist() == [2, 4]
        assert centres.tolist() == [[6, 6], [1, 0]]

    @pytest.mark.parametrize("classes", [3, 40])
    def test_shows_the_pictures_it_says_and_colours_points_by_class(self, tmp_path: Path, classes: int) -> None:
        rng = np.random.default_rng(0)
        labels = np.arange(80) % classes
        pictured = rng.permutation(80)[:30]
        shades = np.arange(30, dtype=np.uint8)[:, None] * [8, 0, 0] + [
            0,
            3,
            251,
        ]  # no two alike, none in the palette
        thumbnails = np.broadcast_to(shades[:, None, None], (30, 16, 16, 3)).astype(np.uint8)
        names = [f"class $x_{c}$" for c in range(classes)]
        shown = draw_map(
            tmp_path / "map.png",
            rng.normal(size=(80, 2)),
            labels,
            names,
            thumbnails,
            pictured,
            "title",
            "below",
        )
        pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int) @ [65536, 256, 1]
        area = dict(zip(*(column.tolist() for column in np.unique(pixels, return_counts=True)), strict=True))
        inside = [area.get(shade, 0) for shade in (shades.astype(int) @ [65536, 256, 1]).tolist()]
        assert len(shown) >= 8
        for i, row in enumerate(pictured):
            assert (inside[i] > 80**2) == (row in shown)  # 0.4 inches at least, at 200 dots an inch
            assert inside[i] == 0 or row in shown
        framed = [colour for colour in PALETTE if int(colour[1:], 16) in area]
        assert framed == list(PALETTE[:3]) if classes == 3 else len(framed) > 3

    def test_points_at_one_place(self, tmp_path: Path) -> None:
        shown = draw_map(
            tmp_path / "map.png", np.zeros((5, 2)), np.zeros(5, dtype=int), ["only"],
            np.zeros((5, 8, 8, 1), dtype=np.uint8), np.arange(5), "t", "s",
        )  # fmt: skip
        assert len(shown) <= 1
        assert Image.open(tmp_path / "map.png").size[0] == 2000
