"""The contract of samplers: each planted fault is found by its question, and ours and sound ones have none."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from lifted_lightning.data.batches import GlobalBatchSampler, PositivePairs, ReleasedPairs
from lifted_lightning.testing import check_sampler

OWN = Path(__file__).parents[2] / "experiments" / "own"


class AnyImages(GlobalBatchSampler):
    """Sound; the faulty ones differ from it by one thing each."""

    def draw(self, random, number):
        return random.choice(self.rows, self.batch_size)


class LooksAtTheRank(AnyImages):
    def draw(self, random, number):
        return np.roll(super().draw(random, number), self.rank)


class DrawsByItself(AnyImages):
    def draw(self, random, number):
        return np.random.choice(self.rows, self.batch_size)


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


class SameEachEpoch(AnyImages):
    def draw(self, random, number):
        return np.random.default_rng((self.seed, number % len(self))).choice(self.rows, self.batch_size)


class SameForEachSeed(AnyImages):
    def draw(self, random, number):
        return np.random.default_rng(number).choice(self.rows, self.batch_size)


class RowsThatDoNotTrain(AnyImages):
    def draw(self, random, number):
        return random.choice(len(self.labels), self.batch_size)


class Short(AnyImages):
    def draw(self, random, number):
        return super().draw(random, number)[1:]


class CannotPrepare(AnyImages):
    def prepare(self):
        self.share = 1 / len(self.rows[:0])


class Unbalanced(AnyImages):
    samples_per_class = 4


class Interleaved(PositivePairs):
    def draw(self, random, number):
        return super().draw(random, number).reshape(-1, self.samples_per_class).T.ravel()


FAULTS = {
    LooksAtTheRank: "the slices of the ranks are the global batch",
    DrawsByItself: "a batch depends on seed, epoch and step alone",
    Counts: "a batch depends on seed, epoch and step alone",
    ForgetsWhatWasSeen: "an interrupted run goes on with the same batches",
    SameEachEpoch: "other epochs and seeds have other batches",
    SameForEachSeed: "other epochs and seeds have other batches",
    RowsThatDoNotTrain: "draws as many rows that train as a batch has",
    CannotPrepare: "draws as many rows that train as a batch has",
    Short: "draws as many rows that train as a batch has",
    Unbalanced: "classes are balanced as promised",
    Interleaved: "classes are balanced as promised",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault):
    assert FAULTS[fault] in [finding.question for finding in check_sampler(fault()).failed]


SOUND = {
    "any images": AnyImages,
    "pairs": lambda: PositivePairs(neighbours=0),
    "neighbours": lambda: PositivePairs(3, neighbours=0.5, refresh_interval=5),
    "pairs by size": lambda: PositivePairs(2, class_weights="size"),
    "released": ReleasedPairs,
    "own": lambda: import_module("my_sampler").ShuffledImages(),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_samplers_pass(name, monkeypatch):
    monkeypatch.syspath_prepend(str(OWN))
    assert not check_sampler(SOUND[name]()).failed
    sys.modules.pop("my_sampler", None)


def test_of_labels_of_one_s_own():
    findings = check_sampler(PositivePairs(4, 0.5), labels=np.repeat(np.arange(20), 6), batch_size=32)
    assert not findings.failed
    assert findings[-1].detail == "8 classes, 3 positives to an anchor, 0% images repeated"
