"""What training takes for granted of a batch sampler: ranks, resuming, and the balance that it promises."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lifted_lightning.data.batches.base import GlobalBatchSampler
from lifted_lightning.data.table import IntArray
from lifted_lightning.testing.findings import Answer, ContractError, Findings, copied

AHEAD = 3  # batches that a loader draws before the first of them is trained on
STEPS, EPOCHS = 40, 3
KILLS = (1, 7, 55, 80)  # batches after which a run is interrupted: within epochs and between them
RANKS = (2, 4)


def check_sampler(
    sampler: GlobalBatchSampler, labels: npt.ArrayLike | None = None, batch_size: int | None = None
) -> Findings:
    """Ask a batch sampler all that training expects of one; the sampler stays as it is.

    Args:
        sampler: with its own options, not bound.
        labels: (N,) of the rows that it draws from, negative where a row does not train; None: 50 classes or more of
            2 to 9 rows that do, and some that do not.
        batch_size: a multiple of 4 groups; None: 32, or the next that is one.

    Returns:
        A finding for each question; one only where it draws no batch.
    """
    tried = _Sampler(sampler, labels, batch_size)
    findings = Findings(type(sampler).__name__)
    if findings.ask("draws as many rows that train as a batch has", tried.draws):
        findings.ask("a batch depends on seed, epoch and step alone", tried.repeats)
        findings.ask("the slices of the ranks are the global batch", tried.slices)
        findings.ask("an interrupted run goes on with the same batches", tried.goes_on)
        findings.ask("other epochs and seeds have other batches", tried.varies)
        findings.ask("classes are balanced as promised", tried.is_balanced)
        findings.ask("what a batch holds", tried.holds)
    return findings


class _Sampler:
    """A sampler, copies of which draw for training in miniature."""

    def __init__(self, sampler: GlobalBatchSampler, labels: npt.ArrayLike | None, batch_size: int | None) -> None:
        random = np.random.default_rng(0)
        self.sampler = sampler
        self.batch_size = batch_size or -(-32 // (unit := 4 * sampler.group)) * unit
        kinds = np.arange(max(60, self.batch_size))
        drawn = random.permutation(np.repeat(np.where(kinds % 6, kinds, -1), random.integers(2, 10, len(kinds))))
        self.labels = drawn if labels is None else np.asarray(labels)
        self.embeddings = torch.from_numpy(random.normal(size=(len(self.labels), 8)))
        self.unbroken: list[IntArray] = []

    def bound(self, **settings: Any) -> GlobalBatchSampler:
        """A copy that begins a run."""
        usual = {"batch_size": self.batch_size, "batches_per_epoch": STEPS, "drawn_ahead": AHEAD}
        return copied(self.sampler).bind(self.labels, **(usual | settings))

    def train(self, *ranks: GlobalBatchSampler, start: int = 0, end: int = STEPS * EPOCHS) -> list[IntArray]:
        """The batches from number ``start`` to ``end``, the ranks' slices joined, drawn ahead as loaders do."""

        def slices(sampler: GlobalBatchSampler) -> Iterator[list[int]]:
            for epoch in range(sampler.epoch, EPOCHS):
                sampler.set_epoch(epoch)
                yield from sampler

        streams, batches = [slices(sampler) for sampler in ranks], list[IntArray]()
        for number in range(start, end + AHEAD):
            if number < end:
                batches.append(np.concatenate([next(stream) for stream in streams]))
            if start <= (trained := number - AHEAD):
                rows = torch.from_numpy(batches[trained - start])
                seen = self.embeddings[rows]
                for sampler in ranks:  # what a network might make of them, which changes from step to step
                    sampler.record(rows, seen + torch.sin(seen.roll(1, 1) * trained / 30))
        return batches

    def draws(self) -> str:
        self.batch_size = self.bound(world_size=max(RANKS)).batch_size  # which may be of fewer classes, if there are
        self.unbroken = self.train(sampler := self.bound())
        if (length := len(self.bound(batches_per_epoch=None))) < 1:
            raise ContractError(f"batches_in_a_pass gives {length}: an epoch has at least one batch")
        return f"{len(self.unbroken)} batches of {sampler.batch_size}, {length} in a pass"

    def repeats(self) -> None:
        _same(self.train(self.bound()), self.unbroken, "drawn once more")
        sampler = self.bound()
        drawn = [sampler.global_batch(0, step) for step in reversed(range(AHEAD))]
        _same(drawn[::-1], self.unbroken, "drawn in another order")

    def slices(self) -> str:
        for count in RANKS:
            ranks = [self.bound(rank=rank, world_size=count) for rank in range(count)]
            _same(self.train(*ranks), self.unbroken, f"{count} ranks")
        return f"of {' and '.join(map(str, RANKS))} ranks"

    def goes_on(self) -> str:
        for kill in KILLS:
            first, second = self.bound(), self.bound()
            self.train(first, end=kill)
            torch.save(first.state_dict(), file := io.BytesIO())
            file.seek(0)
            second.load_state_dict(torch.load(file, weights_only=True))
            second.start_at(kill)
            _same(self.train(second, start=kill), self.unbroken[kill:], f"interrupted after {kill} batches", kill)
        return f"after {', '.join(map(str, KILLS))} batches"

    def varies(self) -> None:
        first, second = (np.stack(self.unbroken[start : start + STEPS]) for start in (0, STEPS))
        if (same := (first[1:] == first[:-1]).all(1)).any():
            raise ContractError(f"batches {(number := int(same.argmax()))} and {number + 1} of an epoch are the same")
        for what, other in (("epochs", second), ("seeds", np.stack(self.train(self.bound(seed=1), end=STEPS)))):
            if (same := (first == other).all(1)).any():
                raise ContractError(f"batch {int(same.argmax())} of {what} 0 and 1 is the same")

    def is_balanced(self) -> Answer:
        images = getattr(self.sampler, "samples_per_class", None)
        if images is None:
            return "not asked", "it has no samples_per_class, which would promise so many"
        for number, batch in enumerate(self.unbroken):
            counts = np.unique(labels := self.labels[batch], return_counts=True)[1]
            if (counts != images).any():
                raise ContractError(f"batch {number}: {counts.min()} to {counts.max()} of a class, not {images}")
            if (labels.reshape(-1, images) != labels[::images, None]).any():
                raise ContractError(f"batch {number}: a class is not side by side, so that ranks take it apart")
        return f"{images} images of each class, side by side"

    def holds(self) -> Answer:
        counts = [np.unique(self.labels[batch], return_counts=True)[1] for batch in self.unbroken]
        classes, pairs = np.mean([len(c) for c in counts]), np.mean([(c * (c - 1)).sum() / c.sum() for c in counts])
        twice = 1 - np.mean([len(set(batch.tolist())) / len(batch) for batch in self.unbroken])
        return "told", f"{classes:.3g} classes, {pairs:.2g} positives to an anchor, {twice:.0%} images repeated"


def _same(found: list[IntArray], wanted: list[IntArray], what: str, first: int = 0) -> None:
    """Raise ContractError, with the batches, where one is another; ``first`` is the number of the first."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), first):
        if not np.array_equal(one, other):
            example = f"found = {one.tolist()}\nwanted = {other.tolist()}"
            raise ContractError(f"{what}: batch {number} is another", example)
