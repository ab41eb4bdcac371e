"""A check that the loss is finite, which does not make the host wait for the device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lifted_lightning.errors import RunError


class FiniteLoss:
    """Asks whether a loss is finite when it is computed, and reads the answer before the optimiser's step.

    On CUDA the answer is copied while the backward pass is queued, so reading it costs no idle time.
    """

    def __init__(self) -> None:
        self._flag: Tensor | None = None
        self._event: torch.cuda.Event | None = None
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None

    def ask(self, loss: Tensor, embeddings: Tensor, indices: Tensor) -> None:
        """Note the loss (scalar), and embeddings (B, D) and indices (B,) to name the images by if it is not finite."""
        finite = torch.isfinite(loss.detach())
        self._batch = (loss.detach(), embeddings.detach(), indices)
        if not finite.is_cuda:
            self._flag = finite
            return
        if self._flag is None:
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._flag.copy_(finite, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def check(self, step: int, name: Callable[[Sequence[int]], Sequence[str]]) -> None:
        """Raise if the loss noted last is not finite.

        Args:
            step: the optimiser step, for the message.
            name: from rows of the image table to the names of the images.

        Raises:
            RunError: naming the rows and images whose embeddings are not finite.
        """
        if self._batch is None or self._flag is None:
            return
        if self._event is not None:
            self._event.synchronize()
        batch, self._batch = self._batch, None
        if bool(self._flag):
            return
        loss, embeddings, indices = batch
        rows = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
        message = f"the loss is {loss.item()} at step {step}: "
        if not rows:
            message += (
                "all embeddings are finite, so it arises in the loss; try a lower learning rate or clipping"
            )
        else:
            shown = rows[:3]
            names = ", ".join(name([int(indices[row]) for row in shown]))
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            are = "embedding is" if len(rows) == 1 else "embeddings are"
            message += f"{len(rows)} {are} not finite (batch rows {shown}: {names}{more})"
        raise RunError(message)
