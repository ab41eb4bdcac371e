"""The last embedding seen of every training image, and the exact search for difficult neighbours in it."""

from typing import Any

import torch
from torch import Tensor

from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

# A class of which no image can be a neighbour; above every distance, for these are minimised.
_NONE = torch.iinfo(torch.int64).max
# A search key is the bits of a float32 distance above 32 bits of place; infinite means unseen.
_PLACE = (1 << 32) - 1
_UNSEEN = 0x7F800000 << 32


class EmbeddingTable:
    """Embeddings (N, D) of N training images in float16, NaN until an image has been seen, and its snapshots.

    It is filled from the global batches of ordinary training steps, so it costs no forward pass, and as these
    are the same on every rank, so is the table, with no communication of its own. An embedding beyond
    float16's range becomes infinite, and its image no neighbour until it is seen again.

    Batches of refresh interval k are to use the table as it stood at the start of interval k - 1: then what a
    loader draws ahead does not depend on how far training has come, as long as it draws no further ahead than
    one interval.

    Args:
        rows: (N,) int64, the rows of the image table that train, ascending: image i here is row ``rows[i]`` there.
        refresh_interval: batches in an interval, at least 1.
        device: where the embeddings are kept.

    Attributes:
        values: (N, D) float16; D is 0 until the first batch is recorded.
        batches: how many batches have been trained on.
    """

    def __init__(self, rows: IntArray, refresh_interval: int, device: torch.device | str = "cpu") -> None:
        self.refresh_interval = refresh_interval
        self.values = torch.empty(len(rows), 0, dtype=torch.float16, device=device)
        self.batches = 0
        self._rows = torch.from_numpy(rows).to(device)
        self._origin = 0  # batches trained on before the first that was recorded
        self._snapshots: dict[int, Tensor] = {}

    def places(self, rows: Tensor) -> Tensor:
        """Where rows of the image table stand in this one: int64 of the same shape, on its device."""
        return torch.searchsorted(self._rows, rows.to(self._rows.device).contiguous())

    @torch.no_grad()
    def record(self, rows: Tensor, embeddings: Tensor) -> None:
        """Take in one global batch that has been trained on, on every rank alike.

        Args:
            rows: (B,) int64, of the image table; of a repeated one the last counts.
            embeddings: (B, D) floating point.

        Raises:
            ValueError: if the shapes disagree with each other or with earlier batches.
        """
        if embeddings.ndim != 2 or rows.shape != embeddings.shape[:1]:
            raise ValueError(f"rows {tuple(rows.shape)} for embeddings {tuple(embeddings.shape)}")
        images, dimension = self.values.shape
        if dimension == 0:
            self.values = self.values.new_full((images, embeddings.shape[1]), torch.nan)
        elif dimension != embeddings.shape[1]:
            raise ValueError(f"embeddings of size {embeddings.shape[1]}, and of size {dimension} before")
        places = self.places(rows)
        # Writing twice to a place leaves open which wins, so every copy is given the last one's embedding.
        ascending, order = places.sort(stable=True)
        last = order[torch.searchsorted(ascending, places, right=True) - 1]
        self.values[places] = embeddings.to(self.values)[last]
        self.batches += 1
        interval, within = divmod(self.batches, self.refresh_interval)
        if within == 0:
            self._snapshots[interval] = self.values.clone()
            self._snapshots.pop(interval - 2, None)

    def snapshot(self, batch: int) -> Tensor | None:
        """The table (N, D) in which batch number ``batch`` of the run seeks; None while nothing was recorded.

        Raises:
            UserError: if it is not there yet, for too much is drawn ahead, or no longer.
        """
        interval = batch // self.refresh_interval - 1
        needed = interval * self.refresh_interval
        if needed <= self._origin:
            return None
        if interval not in self._snapshots:
            raise UserError(
                f"batch {batch} seeks neighbours in the embeddings as of {needed} batches, but "
                f"{self.batches} are recorded: refresh_interval {self.refresh_interval} must not be less "
                f"than what is drawn ahead, and every training step must be recorded"
            )
        return self._snapshots[interval]

    def resume(self, batches: int) -> None:
        """Go on after ``batches`` batches of the run; an unused table begins there, unseen.

        Raises:
            UserError: if the table was recorded over another number of batches.
        """
        if self.batches == self._origin:
            self.batches = self._origin = batches
        elif self.batches != batches:
            raise UserError(
                f"the embedding table was recorded over {self.batches} batches, and training continues at "
                f"batch {batches}: resume with the batches_per_epoch of the checkpoint"
            )

    def state_dict(self) -> dict[str, Any]:
        """The live table, the snapshots in use and the counts: tensors and integers only."""
        return {
            "refresh_interval": self.refresh_interval,
            "batches": self.batches,
            "origin": self._origin,
            "values": self.values,
            "snapshots": dict(self._snapshots),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave.

        Raises:
            UserError: if it was of other images or another refresh interval.
        """
        if len(state["values"]) != len(self.values):
            raise UserError(
                f"the checkpoint's embedding table has {len(state['values'])} images, the training set "
                f"{len(self.values)}: resume with the data of the checkpoint"
            )
        if state["refresh_interval"] != self.refresh_interval:
            raise UserError(
                f"refresh_interval {self.refresh_interval}: resume with the checkpoint's, {state['refresh_interval']}"
            )
        self.batches, self._origin = state["batches"], state["origin"]
        device = self.values.device
        self.values = state["values"].to(device, copy=True)
        self._snapshots = {k: v.to(device, copy=True) for k, v in state["snapshots"].items()}


def nearest_of_other_classes(
    table: Tensor, pairs: Tensor, classes: Tensor, number_of_classes: int, count: int, block: int = 1 << 12
) -> list[list[int]]:
    """For each pair the nearest image of each of the ``count`` other classes nearest to either of its ends.

    Exact, by blocks of the table. Of images at one distance the first in the table counts.

    Args:
        table: (N, D) embeddings, NaN where unseen.
        pairs: (S, 2) int64 places in the table, the two of a pair of one class.
        classes: (N,) int64 in 0..C - 1; C for an image that is never sought.
        number_of_classes: C.
        count: how many classes to find for a pair, where so many have been seen.
        block: images that are searched at once.

    Returns:
        S lists of places in the table, nearest first, each of another class; shorter where fewer were seen.
    """
    ends = table[pairs.flatten()].float()  # (2S, D)
    # Distances by the product of matrices lose digits when all embeddings share a large part: taken off.
    centre = ends.where(ends.isfinite(), 0).mean(0)
    ends -= centre
    best = torch.full((len(pairs), number_of_classes + 1), _NONE, device=table.device)
    for start in range(0, len(table), block):
        rows = table[start : start + block] - centre  # (n, D) float32
        squared = torch.addmm(_squared_norm(rows), ends, rows.T, alpha=-2) + _squared_norm(ends)[:, None]
        nearer = squared.nan_to_num_(nan=torch.inf).clamp_(min=0).view(-1, 2, len(rows)).amin(1)  # (S, n)
        # Floats of one sign order as their bits do: distance and place make one integer, least when nearest.
        keys = nearer.view(torch.int32).long() << 32
        keys += torch.arange(start, start + len(rows), device=table.device)
        best.scatter_reduce_(1, classes[None, start : start + block].expand_as(keys), keys, "amin")
    best.scatter_(1, classes[pairs[:, :1]], _NONE)
    found = best[:, :-1].topk(min(count, number_of_classes), largest=False).values
    return [[key & _PLACE for key in row if key < _UNSEEN] for row in found.tolist()]


def _squared_norm(vectors: Tensor) -> Tensor:
    """(n,) of (n, D), without a temporary of that size."""
    return torch.linalg.vector_norm(vectors, dim=1).square()
