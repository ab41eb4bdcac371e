"""What every batch sampler has, seen on the least that one of one's own can be."""

import hashlib

import numpy as np
import pytest

from lifted_lightning.data.batches import GlobalBatchSampler, PositivePairs, ReleasedPairs
from lifted_lightning.errors import UserError

LABELS = np.array([-1, 3, 3, -1, 4, 4, 4, -1, 9, 9])


class AnyImages(GlobalBatchSampler):
    """Rows at random."""

    def draw(self, random, number):
        return random.choice(self.rows, self.batch_size)


class Fixed(GlobalBatchSampler):
    """Always the same rows, right or wrong."""

    def __init__(self, *rows):
        self.given = rows

    def draw(self, random, number):
        return np.array(self.given)


def test_one_method_makes_a_sampler():
    sampler = AnyImages().bind(LABELS, batch_size=4, seed=2, batches_per_epoch=50)
    batches = [sampler.global_batch(0, step) for step in range(50)]
    assert set(np.concatenate(batches).tolist()) == {1, 2, 4, 5, 6, 8, 9}, "the rows that train, and no other"
    assert (batches[7] == np.random.default_rng((2, 0, 7)).choice([1, 2, 4, 5, 6, 8, 9], 4)).all()
    assert list(sampler) == [batch.tolist() for batch in batches]
    parts = [AnyImages().bind(LABELS, batch_size=4, seed=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [1, 1], "7 images // 4"
    assert [row for part in parts for batch in part for row in batch] == batches[0].tolist()


def test_binding_again_begins_anew():
    sampler = AnyImages().bind(LABELS, batch_size=4, batches_per_epoch=5)
    sampler.start_at(13)
    assert (sampler.epoch, sampler.steps()) == (2, range(3, 5))
    sampler.bind(LABELS[:7], batch_size=2)
    assert (sampler.epoch, sampler.steps(), sampler.rows.tolist()) == (0, range(2), [1, 2, 4, 5, 6])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((1, 2, 4), r"Fixed.draw gave int64 of shape \(3,\): give batch_size 4 row numbers"),
        ((1.0, 2.0, 4.0, 5.0), "Fixed.draw gave float64"),
        ((1, 2, 4, 3), "a row that does not train"),
        ((1, 2, 4, -1), "a row that does not train"),
        ((1, 2, 4, 10), "a row that does not train"),
    ],
)
def test_a_draw_that_cannot_be_trained_on_is_one_clear_line(rows, message):
    sampler = Fixed(*rows).bind(LABELS, batch_size=4)
    with pytest.raises(UserError, match=message):
        sampler.global_batch(0, 0)


@pytest.mark.parametrize("batch_size", [-4, 0, 3])
def test_a_batch_divides_among_the_ranks(batch_size):
    with pytest.raises(UserError, match=rf"batch_size {batch_size} does not divide .* nearest that does is"):
        AnyImages().bind(LABELS, batch_size=batch_size, world_size=2)


def test_the_batches_of_a_seed_stay_as_they_are():
    """A run repeats one of an earlier version: these are the batches that version 0.1.0 drew."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 6)) - 5  # five classes do not train
    samplers = (PositivePairs(4, 0.0), PositivePairs(3, 0.0, class_weights="size"), ReleasedPairs())
    for sampler, digest in zip(samplers, ("576c4c14", "fad6d076", "19c5ed62"), strict=True):
        sampler.bind(labels, batch_size=24, seed=7)
        batches = np.stack([sampler.global_batch(e, s) for e in (0, 3) for s in range(5)])
        assert hashlib.sha256(batches.tobytes()).hexdigest().startswith(digest)
