"""A loss that compares a batch with the embeddings of earlier batches."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError, one_line
from lifted_lightning.losses.pairs import References


class CrossBatchMemory(nn.Module):
    r"""Cross-batch memory (XBM; Wang, Zhang, Huang, Scott, CVPR 2020) around a loss.

    Embeddings change slowly, so those of earlier batches still serve as negatives and positives: the last M that were
    trained on are remembered as constants. The loss is taken of the pairs of a row i of the batch, the anchor, and a
    row j of the memory, B M in place of B². The batch is remembered before, as in the paper's algorithm 1, so that its
    own pairs are among them; a row and its own copy are none. With D the distance of anchor and reference, P the
    positive and N the negative of these pairs, :class:`ContrastiveLoss`, the paper's, is

    .. math:: J = \frac{1}{2|P|} \sum_{P} D_{ij} + \frac{1}{2|N|} \sum_{N} \max(0, \alpha - D_{ij}) ,

    :class:`TripletLoss` has anchors of the batch, positives and negatives of the memory,

    .. math:: J = \frac{1}{2|T|} \sum_{(i,j) \in P,\, (i,k) \in N} \max(0, D_{ij} - D_{ik} + \alpha) ,

    and in :class:`LiftedStructureLoss` the negatives of an anchor are of the memory, those of a reference of the batch:

    .. math::
        J_{ij} = \tau \log\Big(\sum_{(i,k) \in N} e^{(\alpha - D_{ik}) / \tau}
                 + \sum_{(l,j) \in N} e^{(\alpha - D_{lj}) / \tau}\Big)
                 + D_{ij}, \qquad J = \frac{1}{2|P|} \sum_{(i,j) \in P} \max(0, J_{ij})^2 .

    With their options, each as without a memory. Where the memory holds the batch and no more, the value is that of the
    loss by itself; the gradient is that of the anchors alone. (The paper's released code adds the loss of the batch.) A
    loss of pytorch-metric-learning gets the memory as ``ref_emb``, and all those pairs.

    An image that comes again while an earlier embedding of it is remembered is a positive pair with that one, which
    other augmentations and an earlier network made. So a memory should hold at most as many as there are training
    images; beyond, it holds each image several times.

    Given the global batch every rank remembers the same, and nothing is communicated (with ``gather=false`` each its
    own, and a checkpoint has rank zero's). The memory is in the state, so that a run goes on from a checkpoint as if it
    had not been interrupted; no average of weights touches it.

    Time and memory O(B M), and whatever a loss of pytorch-metric-learning takes.

    Args:
        loss: what is taken of the pairs.
        size: M, the number of embeddings that are remembered, at least that of a batch. Until so many have been seen
            all are.
        start: before the memory is used, the number of batches on which the loss is taken by itself, for at first
            embeddings change fast; the paper has 1,000. They are remembered too.
        embedding_size: D; told by the command line.

    Raises:
        UserError: for a size below 1 or a start below 0; for a loss that does not take references; and, when called,
            for a batch that is larger than the memory.
    """

    STATE = ("embeddings", "labels")  # the buffers, of shape (M, D) and (M,)

    embeddings: Tensor
    labels: Tensor

    def __init__(self, loss: nn.Module, size: int = 8192, start: int = 0, *, embedding_size: int) -> None:
        super().__init__()
        if size < 1 or start < 0:
            raise UserError(f"size={size}, start={start}: give a memory of at least 1 and batches of at least 0")
        self.loss = loss
        self.size = size
        self.start = start
        self.batches = 0  # that have been remembered; a checkpoint has both (training/loss_state.py)
        self.seen = 0
        self.register_buffer("embeddings", torch.zeros(size, embedding_size))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        try:  # now, not when the memory is first used
            rows, labels = torch.eye(4, embedding_size), torch.tensor([0, 0, 1, 1])
            self._compared(rows, labels, References(rows, labels, torch.arange(4)))
        except Exception as error:
            raise UserError(
                f"CrossBatchMemory.loss {type(loss).__name__}: takes no references ({one_line(error)}); give "
                "ContrastiveLoss, TripletLoss, LiftedStructureLoss, or a loss of pytorch-metric-learning with ref_emb"
            ) from error

    def extra_repr(self) -> str:
        return f"size={self.size}, start={self.start}"

    @torch.compiler.disable(recursive=False)  # counts are numbers that change at each step; the loss is compiled
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer; remembers them, in training."""
        if not self.training:
            return self.loss(embeddings, labels)
        own = self._remember(embeddings.detach(), labels)
        if self.batches <= self.start:
            return self.loss(embeddings, labels)
        known = min(self.seen, self.size)
        return self._compared(embeddings, labels, References(self.embeddings[:known], self.labels[:known], own))

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the loss tells of the batch by itself."""
        of_loss = getattr(self.loss, "diagnostics", None)
        return of_loss(embeddings, labels) if of_loss else {}

    @torch.compiler.disable
    def _remember(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Put a batch in the place of what was remembered longest; returns where its rows are, (B,)."""
        count = len(labels)
        if count > self.size:
            raise UserError(f"size={self.size}: the memory is smaller than the batch of {count}; give at least that")
        place = torch.arange(self.seen, self.seen + count, device=labels.device) % self.size
        self.embeddings.index_copy_(0, place, embeddings.to(self.embeddings.dtype))
        self.labels.index_copy_(0, place, labels.to(self.labels.dtype))
        self.batches, self.seen = self.batches + 1, self.seen + count
        return place

    def _compared(self, embeddings: Tensor, labels: Tensor, references: References) -> Any:
        """The loss of the batch against references."""
        takes = inspect.signature(self.loss.forward).parameters
        if "references" in takes:
            return self.loss(embeddings, labels, references)
        same = labels[:, None] == references.labels
        pairs = same.scatter(1, references.own[:, None], False).nonzero(as_tuple=True), (~same).nonzero(as_tuple=True)
        constants = {"ref_emb": references.embeddings.clone(), "ref_labels": references.labels}  # kept until backward
        return self.loss(embeddings, labels, (*pairs[0], *pairs[1]), **constants)
