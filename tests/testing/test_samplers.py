"""The contract of samplers: each planted fault is found by its question, and ours and sound ones have none."""

import numpy as np
import pytest

from experiments.own.my_sampler import ShuffledImages
from lifted_lightning.data.batches import GlobalBatchSampler, PositivePairs, ReleasedPairs
from lifted_lightning.testing import check_sampler


class AnyImages(GlobalBatchSampler):
    """Sound; the faulty ones differ from it by one thing each."""

    def draw(self, random, number):
        return random.choice(self.rows, self.batch_size)


class Counts(AnyImages):
    def prepare(self):
        self.batches = 0

    def draw(self, random, number):
        self.batches += 1
        return np.random.default_rng(self.batches).choice(self.rows, self.batch_size)


class ForgetsWhatWasSeen(AnyImages):
    def prepare(self):
        self.seen = 0

    def record(self, rows, embeddings):
        self.seen += int(rows.sum())

    def draw(self, random, number):
        return np.roll(random.permutation(self.rows)[: self.batch_size], self.seen if number > 60 else 0)


def faulty(base=AnyImages, **members):
    """A sound sampler but for a method or an attribute."""
    return type("Faulty", (base,), members)()


def seeded(self, *seed):
    return np.random.default_rng(seed).choice(self.rows, self.batch_size)


def interleaved(self, random, number):
    return PositivePairs.draw(self, random, number).reshape(-1, self.samples_per_class).T.ravel()


def at_rank(self, random, number):
    return np.roll(AnyImages.draw(self, random, number), self.rank)


ITSELF = "a batch depends on seed, epoch and step alone"
OTHERS = "other epochs and seeds have other batches"
ROWS = "draws as many rows that train as a batch has"
BALANCE = "classes are balanced as promised"
FAULTS = {
    "looks at the rank": (faulty(draw=at_rank), "the slices of the ranks are the global batch"),
    "draws by itself": (faulty(draw=lambda self, *_: np.random.choice(self.rows, self.batch_size)), ITSELF),
    "counts": (Counts(), ITSELF),
    "forgets what was seen": (ForgetsWhatWasSeen(), "an interrupted run goes on with the same batches"),
    "the same each epoch": (faulty(draw=lambda self, _, number: seeded(self, self.seed, number % len(self))), OTHERS),
    "the same all epoch": (faulty(draw=lambda self, _, number: seeded(self, self.seed, number // len(self))), OTHERS),
    "the same for each seed": (faulty(draw=lambda self, _, number: seeded(self, number)), OTHERS),
    "rows that do not train": (faulty(draw=lambda self, r, _: r.choice(len(self.labels), self.batch_size)), ROWS),
    "cannot prepare": (faulty(prepare=lambda self: 1 / len(self.rows[:0])), ROWS),
    "short": (faulty(draw=lambda self, *told: AnyImages.draw(self, *told)[1:]), ROWS),
    "unbalanced": (faulty(samples_per_class=4), BALANCE),
    "interleaved": (faulty(PositivePairs, draw=interleaved), BALANCE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name):
    sampler, question = FAULTS[name]
    assert question in [finding.question for finding in check_sampler(sampler).failed]


SOUND = {
    "any images": AnyImages,
    "pairs": lambda: PositivePairs(neighbours=0),
    "neighbours": lambda: PositivePairs(3, neighbours=0.5, refresh_interval=5),
    "pairs by size": lambda: PositivePairs(2, class_weights="size"),
    "released": ReleasedPairs,
    "own": ShuffledImages,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_samplers_pass(name):
    assert not check_sampler(SOUND[name]()).failed


def test_of_labels_of_one_s_own():
    findings = check_sampler(PositivePairs(4, 0.5), labels=np.repeat(np.arange(20), 6), batch_size=32)
    assert not findings.failed
    assert findings[-1].detail == "8 classes, 3 positives to an anchor, 0% images repeated"
