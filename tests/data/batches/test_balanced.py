"""Balanced global batches: their laws over many class sizes, ranks, epochs, chance, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare
from torch.utils.data import DataLoader

from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.errors import UserError

CUB_LIKE = st.lists(st.integers(40, 60), min_size=6, max_size=20)
SOP_LIKE = st.lists(st.integers(2, 12), min_size=6, max_size=120)
ONE_GIANT = st.lists(st.integers(1, 4), min_size=10, max_size=40).map(lambda sizes: [*sizes, 3000])
CLASS_SIZES = st.one_of(CUB_LIKE, SOP_LIKE, ONE_GIANT)


def labels_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Shuffled labels, neither dense nor sorted, of classes of the given sizes."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(sizes)) + 5, sizes))


def pairs(labels, batch_size: int, samples_per_class: int = 4, neighbours: float = 0.0, **settings) -> PositivePairs:
    """A sampler of these images: its own options, and what the data module says of the run."""
    own = {key: settings.pop(key) for key in ("refresh_interval", "class_weights") if key in settings}
    return PositivePairs(samples_per_class, neighbours, **own).bind(labels, batch_size=batch_size, **settings)


def check_balance(batch: np.ndarray, labels: np.ndarray, samples_per_class: int) -> None:
    """Every class once, with M images, none twice while the class has enough and else only as needed."""
    rows = batch.reshape(-1, samples_per_class)
    of_class = labels[rows]
    assert (of_class == of_class[:, :1]).all()
    assert len(set(of_class[:, 0].tolist())) == len(rows)
    for row, label in zip(rows.tolist(), of_class[:, 0], strict=True):
        size = int((labels == label).sum())
        assert size >= 2
        uses = Counter(row).values()
        assert len(uses) == min(size, samples_per_class)
        assert max(uses) - min(uses) <= 1
        assert row[0] != row[1], "a seed pair is of two images"


def build(sizes: list[int], classes: int = 6, samples: int = 4, **settings) -> PositivePairs:
    return pairs(labels_of(sizes), classes * samples, samples, **settings)


@pytest.mark.filterwarnings("ignore:.*single image")
@given(CLASS_SIZES, st.integers(2, 7), st.integers(0, 2**40), st.sampled_from(["uniform", "size"]))
def test_batches_are_balanced(sizes, samples, seed, weights):
    assume(sum(n > 1 for n in sizes) >= 5)
    labels = labels_of(sizes)
    sampler = pairs(labels, 5 * samples, samples, seed=seed, class_weights=weights)
    for step in range(4):
        check_balance(sampler.global_batch(1, step), labels, samples)


@pytest.mark.filterwarnings("ignore:.*single image")
@given(CLASS_SIZES, st.integers(1, 6).filter(lambda w: 12 % w == 0), st.integers(0, 3))
def test_ranks_joined_are_one_process(sizes, ranks, epoch):
    assume(sum(n > 1 for n in sizes) >= 12)
    whole = build(sizes, 12, samples=3, batches_per_epoch=3)
    parts = [build(sizes, 12, samples=3, batches_per_epoch=3, rank=r, world_size=ranks) for r in range(ranks)]
    for sampler in (whole, *parts):
        sampler.set_epoch(epoch)
    for batch, *slices in zip(whole, *parts, strict=True):
        assert [row for part in slices for row in part] == batch
        assert len(set.union(*map(set, slices))) == sum(len(set(part)) for part in slices), "ranks are disjoint"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_loader_draws_the_epoch_it_is_told_and_a_resumed_run_begins_at_its_position(workers, resumed):
    sampler = build([7] * 30, batches_per_epoch=5)
    loader = DataLoader(range(210), batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    if resumed:
        sampler.start_at(2 * 5 + 3)
        first = iter(loader)  # Lightning iterates a loader before it tells the epoch
        sampler.set_epoch(2)
        assert [b.tolist() for b in first] == [sampler.global_batch(2, s).tolist() for s in (3, 4)]
    for epoch in (3, 4, 7) if resumed else (0, 1, 4):
        loader.batch_sampler.sampler.set_epoch(epoch)  # what Lightning calls
        assert [b.tolist() for b in loader] == [sampler.global_batch(epoch, step).tolist() for step in range(5)]


def test_an_epoch_is_one_pass_of_images_unless_given():
    with pytest.warns(UserWarning, match="single"):
        assert len(build([10] * 11 + [1] * 50)) == 110 // 24
    assert len(build([2] * 6)) == 1
    assert len(build([10] * 11, batches_per_epoch=77)) == 77


# Chance. Seeds are fixed, so these cannot fail by bad luck from one run to the next.


def drawn_rows(sampler: PositivePairs, batches: int) -> np.ndarray:
    return np.stack([sampler.global_batch(0, step) for step in range(batches)]).reshape(batches, -1, 4)


def test_classes_are_drawn_uniformly():
    sizes = [2, 3, 50, 5, 400] * 8
    labels = labels_of(sizes)
    batches, classes, drawn = 3000, len(sizes), 6
    rows = drawn_rows(build(sizes, drawn), batches)
    counts = np.array(list(Counter(labels[rows[..., 0]].ravel().tolist()).values()))
    assert len(counts) == classes
    # Without replacement in a batch, counts vary less than a multinomial's by this factor.
    share = drawn / classes
    statistic = ((counts - batches * share) ** 2 / (batches * share)).sum() / (1 - share) * (1 - 1 / classes)
    assert 1e-3 < chi2.sf(statistic, classes - 1) < 1 - 1e-3


def test_classes_are_drawn_by_size():
    sizes = [5, 10, 20, 40, 25] * 3
    labels = labels_of(sizes)
    rows = drawn_rows(build(sizes, class_weights="size"), 3000)
    first = np.unique(labels[rows[:, 0, 0]], return_counts=True)[1]
    assert chisquare(first, 3000 * np.array(sizes) / sum(sizes)).pvalue > 1e-3


def test_seed_pairs_of_a_class_are_drawn_uniformly():
    sizes = [6] * 8
    labels = labels_of(sizes)
    rows = drawn_rows(build(sizes), 3000)
    seeds = rows[labels[rows[..., 0]] == 5][:, :2]
    counts = np.array(list(Counter(map(tuple, seeds.tolist())).values()))
    assert len(counts) == 6 * 5
    assert chisquare(counts).pvalue > 1e-3


# What is left out, and what is refused


def test_one_warning_of_the_first_rank_counts_and_names_classes_with_one_image(recwarn):
    labels, names = [0, 0, 1, 2, 2, 3, 4, 4], ["auk", "dodo", "emu", "kakapo", "rhea"]
    pairs(labels, 6, 2, rank=1, world_size=3)
    assert not recwarn
    with pytest.warns(UserWarning, match="2 classes of a single image: dodo, kakapo") as caught:
        sampler = pairs(labels, 6, 2, class_names=names, batches_per_epoch=20)
    assert len(caught) == 1
    assert {labels[p] for batch in sampler for p in batch} == {0, 2, 4}
    with pytest.warns(UserWarning, match=r"30 classes .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more"):
        pairs([*range(30), 30, 30, 31, 31], 4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 50}, r"batch_size 50 .* nearest that does is 48 or 52"),
        ({"batch_size": 56, "world_size": 3}, r"nearest that does is 48 or 60"),
        ({"batch_size": 2}, r"nearest that does is 4"),
        ({"batch_size": 4}, r"batch_size 4 with 4 images a class is one class, .* raise it to 8"),
        ({"samples_per_class": 1}, r"samples_per_class 1"),
        ({"neighbours": 1.5}, r"neighbours 1.5"),
        ({"neighbours": float("nan")}, r"neighbours nan"),
        ({"class_weights": "heavy"}, r"class_weights 'heavy'"),
        ({"refresh_interval": 0}, r"refresh_interval 0"),
    ],
)
def test_a_wrong_value_is_one_clear_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        pairs(labels_of([5] * 40), **({"batch_size": 48} | settings))
    assert "\n" not in str(caught.value)


def test_a_batch_shrinks_to_the_classes_that_there_are():
    labels = labels_of([6] * 5)
    with pytest.warns(UserWarning, match=r"batch_size 64: only 5 classes .* so a batch has 20 images of 5 classes"):
        sampler = pairs(labels, 64)
    assert Counter(labels[sampler.global_batch(0, 0)].tolist()) == dict.fromkeys(labels.tolist(), 4)
    with pytest.warns(UserWarning, match="16 images of 4 classes") as told:
        halves = [pairs(labels, 64, rank=rank, world_size=2, batches_per_epoch=1) for rank in range(2)]
    assert len(told) == 1
    rows = [row for half in halves for row in next(iter(half))]
    assert rows == halves[0].global_batch(0, 0).tolist()
    assert len(rows) == 16
    with pytest.raises(UserError, match="1 classes that train have two images or more, and 2 are needed"):
        pairs(labels_of([6, 1]), 8)
