"""Difficult neighbours: the search against brute force, the table's snapshots, runs killed and resumed."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.batches.neighbours import EmbeddingTable, nearest_of_other_classes
from lifted_lightning.data.loading import PrefetchLoader, drawn_ahead
from lifted_lightning.errors import UserError
from tests.data.batches.test_balanced import check_balance, labels_of, pairs

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])

# The search


def distances_to_pair(table: torch.Tensor, pair: list[int]) -> torch.Tensor:
    """(N,) distance to the nearer end in float64; NaN where the image, or both ends, are unseen."""
    exact = table.double()
    to_ends = torch.stack([(exact - exact[end]).norm(dim=1) for end in pair])
    nearer = to_ends.nan_to_num(nan=torch.inf).amin(0)
    return nearer.where(nearer.isfinite(), torch.nan)


def brute_force(table, pair, classes, number_of_classes, count) -> list[int]:
    """One loop over the images, nearest first, that takes each class once."""
    distance = distances_to_pair(table, pair)
    found, taken = [], {int(classes[pair[0]]), number_of_classes}
    for row in distance.argsort(stable=True).tolist():
        if not distance[row].isnan() and int(classes[row]) not in taken:
            taken.add(int(classes[row]))
            found.append(row)
    return found[:count]


@DEVICES
@given(
    st.integers(0, 2**32), st.integers(2, 200), st.integers(1, 40), st.sampled_from([0.0, 0.3, 0.9]),
    st.sampled_from([1, 7, 64, 4096]), st.integers(1, 30), st.sampled_from([0.0, 20.0]),
)  # fmt: skip
def test_the_search_is_exact(device, seed, images, number_of_classes, unseen, block, count, offset):
    random = torch.Generator().manual_seed(seed)
    table = (torch.randn(images, 6, generator=random) + offset).half()
    table[torch.rand(images, generator=random) < unseen] = torch.nan
    classes = torch.randint(0, number_of_classes + 1, (images,), generator=random)
    ends = torch.randint(0, images, (4, 2), generator=random)
    ends = ends[classes[ends[:, 0]] < number_of_classes]
    on_device = (t.to(device) for t in (table, ends, classes))
    found = nearest_of_other_classes(*on_device, number_of_classes, count, block)
    for pair, rows in zip(ends.tolist(), found, strict=True):
        expected = brute_force(table, pair, classes, number_of_classes, count)
        of_class = classes[rows].tolist()
        assert len(rows) == len(expected)
        assert len(set(of_class)) == len(rows)
        assert not {int(classes[pair[0]]), number_of_classes} & set(of_class)
        # By distance, because images at one distance may stand in either order.
        distance = distances_to_pair(table, pair)
        torch.testing.assert_close(distance[rows], distance[expected], rtol=1e-5, atol=1e-5)


# The table


@DEVICES
def test_the_last_embedding_of_an_image_counts(device):
    table = EmbeddingTable(np.array([3, 5, 6, 9]), refresh_interval=10, device=device)
    assert table.values.shape == (4, 0)
    assert table.places(torch.tensor([[9, 3], [5, 6]])).tolist() == [[3, 0], [1, 2]]
    table.record(torch.tensor([6, 3, 6, 6, 3]), torch.arange(5.0)[:, None].expand(5, 3))
    assert table.values.dtype == torch.float16
    assert table.values.isfinite().all(1).tolist() == [True, False, True, False]
    assert table.values[[0, 2]].tolist() == [[4.0] * 3, [3.0] * 3]
    table.record(torch.tensor([3]), torch.full((1, 3), 1e6))
    assert table.values.isfinite().all(1).tolist() == [False, False, True, False], "beyond float16's range"


def test_batches_of_an_interval_see_the_start_of_the_one_before():
    table = EmbeddingTable(np.arange(1), refresh_interval=3)
    for step in range(20):
        for ahead in range(step, step + 4):
            interval = ahead // 3
            snapshot = table.snapshot(ahead)
            start = 3 * (interval - 1)
            assert (snapshot is None) == (start <= 0)
            if snapshot is not None:
                assert snapshot.item() == start - 1, "the last value recorded before the interval's start"
        table.record(torch.tensor([0]), torch.tensor([[float(step)]]))


def test_what_a_table_refuses():
    table = EmbeddingTable(np.arange(4), refresh_interval=3)
    table.record(torch.tensor([0, 1]), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="size 6, and of size 5"):
        table.record(torch.tensor([0, 1]), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="rows"):
        table.record(torch.tensor([0, 1]), torch.zeros(3, 5))
    with pytest.raises(UserError, match="refresh_interval 3 must not be less than what is drawn ahead"):
        table.snapshot(6)
    for images, interval, message in ((5, 3, "has 4 images, the training set 5"), (4, 2, "the checkpoint's, 3")):
        with pytest.raises(UserError, match=message):
            EmbeddingTable(np.arange(images), interval).load_state_dict(table.state_dict())


# Batches with neighbours


def embeddings_at(step: int, rows: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """What a network in training might give: loose clusters that drift from step to step."""
    random = torch.Generator().manual_seed(step // 5)
    centres = torch.randn(int(labels.max()) + 1, 5, generator=random)
    noise = torch.randn(len(labels), 5, generator=random)
    return (centres[torch.from_numpy(labels)] + noise)[rows] + 0.01 * step


def train(sampler, labels, steps, workers=0, kind=DataLoader) -> list[list[int]]:
    """Go on from the sampler's start for so many steps as Lightning does; returns the batches trained on."""
    loader = kind(range(len(labels)), batch_sampler=sampler, num_workers=workers)
    epoch, step = sampler.start
    done = epoch * len(sampler) + step
    batches, fetched = [], iter(loader)  # iterated before the epoch is told
    while len(batches) < steps:
        sampler.set_epoch(epoch)
        for batch in itertools.islice(fetched, steps - len(batches)):
            sampler.record(batch, embeddings_at(done, batch, labels))
            batches.append(batch.tolist())
            done += 1
        epoch += 1
        if len(batches) < steps:
            sampler.set_epoch(epoch)
            fetched = iter(loader)
    return batches


def build(labels, **settings) -> PositivePairs:
    settings = {"neighbours": 0.5, "refresh_interval": 5, "batches_per_epoch": 8} | settings
    return pairs(labels, 24, 3, seed=11, **settings)


@pytest.mark.parametrize("sizes", [[30] * 12, [2, 3, 4, 6, 9] * 6, [*([2] * 12), 500]])
@pytest.mark.parametrize("neighbours", [0.25, 0.5, 1.0])
def test_neighbours_are_those_of_brute_force(sizes, neighbours):
    labels = labels_of(sizes)
    sampler = build(labels, neighbours=neighbours)
    wanted = min(round(8 * neighbours), 7)
    classes = torch.from_numpy(labels)
    tables, table = [], torch.full((len(labels), 5), torch.nan).half()
    for number, batch in enumerate(train(sampler, labels, 40)):
        tables.append(table.clone())  # before the batch
        table[batch] = embeddings_at(number, torch.tensor(batch), labels).half()
        check_balance(np.array(batch), labels, 3)
        rows = torch.tensor(batch).view(8, 3)
        seeds, others = rows[: 8 - wanted], rows[8 - wanted :]
        interval = number // 5
        expected: list[int] = []
        if interval >= 2:
            known = tables[5 * (interval - 1)]
            queues = [brute_force(known, pair[:2].tolist(), classes, -1, 10**6) for pair in seeds]
            taken = set(classes[seeds[:, 0]].tolist())
            for queue in itertools.cycle(queues):  # the pairs choose in turn
                queue[:] = [row for row in queue if int(classes[row]) not in taken]
                if len(expected) == wanted or not any(queues):
                    break
                if queue:
                    expected.append(queue[0])
                    taken.add(int(classes[queue[0]]))
        assert others[: len(expected), 0].tolist() == expected
        assert sampler.diagnostics(number) == {"neighbour_share": len(expected) / 8}
    assert len(expected) == wanted


@given(st.integers(0, 2**32), st.floats(0, 1), st.sampled_from(["uniform", "size"]))
def test_batches_stay_balanced_while_little_has_been_seen(seed, seen, weights):
    labels = labels_of([2, 3, 4, 9] * 3)
    random = np.random.default_rng(seed)
    sampler = build(labels, neighbours=0.75, refresh_interval=1, class_weights=weights)
    known = torch.from_numpy(np.flatnonzero(random.random(len(labels)) < seen))
    sampler.record(known, torch.from_numpy(random.normal(size=(len(known), 5))))
    batch = sampler.global_batch(0, 2)
    check_balance(batch, labels, 3)
    images = batch.reshape(8, 3)
    came = round(8 * sampler.diagnostics(2)["neighbour_share"])
    assert set(images[2 : 2 + came, 0].tolist()) <= set(known.tolist()), "unseen is no neighbour"


def through_a_file(state: dict) -> dict:
    torch.save(state, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("workers", "kind", "kills"),
    [(0, DataLoader, range(1, 30)), (0, PrefetchLoader, range(1, 30)), (2, DataLoader, [10, 14])],
)
def test_a_killed_run_resumes_with_the_very_batches(workers, kind, kills):
    labels = labels_of([2, 3, 4, 6, 9] * 6)
    unbroken = train(build(labels), labels, 32)
    assert train(build(labels), labels, 32, workers, kind) == unbroken
    for kill in kills:
        first = build(labels)
        assert train(first, labels, kill, workers, kind) == unbroken[:kill]
        second = build(labels)
        second.load_state_dict(through_a_file(first.state_dict()))
        second.start_at(kill)
        assert train(second, labels, 32 - kill, workers, kind) == unbroken[kill:], f"killed after {kill}"


def test_a_run_resumed_at_another_place_than_recorded_is_refused():
    labels = labels_of([4] * 30)
    first, second = build(labels), build(labels)
    train(first, labels, 10)
    second.load_state_dict(first.state_dict())
    with pytest.raises(UserError, match="recorded over 10 batches, and training continues at batch 12"):
        second.start_at(12)


def test_the_interval_must_cover_what_a_loader_draws_ahead():
    labels = labels_of([4] * 30)
    assert [drawn_ahead(workers) for workers in (0, 1, 2, 3)] == [3, 3, 5, 7]
    build(labels, drawn_ahead=5)
    build(labels, neighbours=0, drawn_ahead=129)
    with pytest.raises(UserError, match=r"refresh_interval 5 is shorter than the 7 batches .* raise it to 7"):
        build(labels, drawn_ahead=7)
