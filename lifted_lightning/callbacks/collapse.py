"""Whether an embedding has collapsed to a point or a line, from which training seldom comes back by itself."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

PATIENCE = 200  # steps for which it must last: what trains well may pass through it, in 140 steps in our trials
CLOSE = 0.15  # distances of different classes, as a share of the embeddings' length or of what they first were
OPENING = 1.3  # times the least distance so far: what is further apart may be coming out of it
BETTER = 0.01  # by this share a loss is lower than that of equal points, if anything was learnt
ONE_DIRECTION = 1.05  # an effective rank below this


class CollapseWatch:
    """Says once that an embedding has collapsed, with what to try.

    It has where, for ``PATIENCE`` steps, images of different classes lie close together and the loss is no lower than
    that of equal points, which is the margin for hard triplets, say; or where all lie far apart, but on one line. What
    is close is for the loss to say, so distances alone alarm nobody; nor does a spread that is growing.
    """

    def __init__(self) -> None:
        # Kept in checkpoints: since which step, and the least distance since; the run's first distance; whether told.
        self.state: dict[str, Any] = {"since": None, "first": None, "told": False}

    def look(
        self, step: int, figures: dict[str, Tensor], network: nn.Module, loss: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> str | None:
        """Look at a batch that was trained on.

        Args:
            step: of the run.
            figures: what ``batch_figures`` found of the batch; they are read, which waits for the device.
            network: what made the embeddings.
            loss: what was taken of them.
            batch: embeddings (B, D) and labels (B,).

        Returns:
            The line to be told, if it is time.
        """
        if self.state["told"]:
            return None
        names = ("negative_distance", "norm_mean", "effective_rank")
        distance, length, rank = torch.stack([figures[name] for name in names]).tolist()
        first = self.state["first"] = self.state["first"] or distance
        if distance <= CLOSE * max(length, first):
            own, equal = losses_of_batch_and_point(loss, *batch)
            where, collapsed = "at nearly one point", own >= equal - BETTER * abs(equal)
            why = f"the loss, {own:.3g}, is no lower than that of equal points, {equal:.3g}"
        else:
            where, collapsed = "on one line", rank < ONE_DIRECTION and min(*batch[0].shape, int(figures["classes"])) > 2
            why = "one number is left to tell classes apart"
        if not collapsed:
            self.state["since"] = None
            return None
        began, least = self.state["since"] or (step, distance)
        self.state["since"] = [began, min(least, distance)]
        if step - began < PATIENCE or distance > OPENING * least:
            return None
        self.state["told"] = True
        found = f"{distance:.2g} apart at a length of {length:.2g}, effective rank {rank:.2f}"
        return (
            f"the embedding has collapsed: since step {began} all images lie {where} (different classes {found}), and "
            f"{why}; begin anew and try, the likeliest first: {', '.join(what_to_try(network, loss))}"
        )


@torch.no_grad()
def losses_of_batch_and_point(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """The loss of embeddings (B, D), and of as many points that are all their mean; NaN where it takes more than these.

    A copy of the loss is asked, in evaluation, so that it remembers nothing.
    """
    point = embeddings.mean(dim=0).repeat(len(embeddings), 1)
    try:
        with torch.random.fork_rng(devices=[]):
            own, equal = (float(deepcopy(loss).eval()(rows, labels)) for rows in (embeddings, point))
    except Exception:  # whatever a loss of somebody else's does that a paper's own module calls in its own way
        return torch.nan, torch.nan
    return own, equal


def what_to_try(network: nn.Module, loss: nn.Module) -> list[str]:
    """What leads away from a collapse, the likeliest first, of what these leave to be changed."""
    tried = {
        "--model.network.normalize=true": getattr(network, "normalize", None) is False,
        "--model.loss.mining=semihard": getattr(loss, "mining", None) == "hard",
        "--model.loss.squared=false": getattr(loss, "squared", None) is True,
        "a third of --model.optimizer.lr": True,
        "a smaller --model.loss.margin": hasattr(loss, "margin"),
        "the loss's own defaults": True,
    }
    return [remedy for remedy, applies in tried.items() if applies]
