"""The released code's pair batches: what a pass holds, and the counts known of the real scheme."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifted_lightning.data.batches import ReleasedPairs
from lifted_lightning.errors import UserError


def released(labels, batch_size: int, seed: int = 0, **settings) -> ReleasedPairs:
    return ReleasedPairs().bind(labels, batch_size=batch_size, seed=seed, **settings)


def pairs_of_a_pass(sampler: ReleasedPairs, epoch: int = 0) -> np.ndarray:
    return np.concatenate([sampler.global_batch(epoch, s) for s in range(len(sampler))]).reshape(-1, 2)


@given(st.lists(st.integers(1, 7), min_size=2, max_size=8), st.integers(0, 99))
def test_a_pass_holds_every_positive_pair_once_and_as_many_negative_ones(sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    sampler = released(labels, 2, seed)  # a batch is one pair, so that a pass leaves none over
    pairs = pairs_of_a_pass(sampler)
    positive = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    listed = {frozenset((i, j)) for i in range(len(labels)) for j in range(i + 1) if labels[i] == labels[j]}
    assert Counter(map(frozenset, pairs[positive].tolist())) == Counter(listed)
    assert (~positive).sum() == positive.sum() == len(listed) == sampler.positive_pairs


def test_a_cub_like_batch_holds_the_known_counts():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), rng.integers(56, 61, 100))
    sampler = released(labels, 128)
    counts = np.stack([np.bincount(labels[sampler.global_batch(0, s)], minlength=100) for s in range(400)])
    assert (counts > 0).sum(1).mean() == pytest.approx(62, abs=1)
    assert (counts * (counts - 1) // 2).sum(1).mean() == pytest.approx(112, abs=3)


def test_negative_pairs_are_uniform_over_images():
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    pairs = np.concatenate([pairs_of_a_pass(released(labels, 4, seed)) for seed in range(30)])
    of_class = np.sort(labels[pairs], axis=1)
    negative = of_class[of_class[:, 0] != of_class[:, 1]]
    share = [(negative == pair).all(1).mean() for pair in ([0, 1], [0, 2], [1, 2])]
    assert share == pytest.approx([600 / 1100, 300 / 1100, 200 / 1100], abs=0.01)


def test_passes_go_on_across_epochs_of_another_length():
    labels = np.repeat([0, 1, 2], 5)
    whole = released(labels, 6)
    assert len(whole) == 2 * 45 // 3
    short = released(labels, 6, batches_per_epoch=len(whole) // 2)
    pairs = np.concatenate([pairs_of_a_pass(short, epoch) for epoch in (0, 1)])
    positive = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    assert len({frozenset(pair) for pair in pairs[positive].tolist()}) == positive.sum() == 45
    second = np.concatenate([pairs_of_a_pass(short, epoch) for epoch in (2, 3)])
    assert (second != pairs).any()


@pytest.mark.parametrize(
    ("sizes", "batch_size", "message"),
    [
        ([5, 5], 7, "nearest that does is 6 or 8"),
        ([5], 4, "two classes"),
        ([1, 1], 128, "needs 64 pairs, and there are 4"),
        ([20_000, 2], 4, "too many to shuffle"),
    ],
)
def test_what_cannot_be_is_one_clear_line(sizes, batch_size, message):
    with pytest.raises(UserError, match=message):
        released(np.repeat(np.arange(len(sizes)), sizes), batch_size)
