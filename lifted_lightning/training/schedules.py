"""A learning rate that rises, then falls by a cosine, for each parameter group from its own rate."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lifted_lightning.errors import UserError


class WarmupCosine(LambdaLR):
    """Multiplies every group's learning rate by a factor that rises linearly to 1, then falls to 0 by a cosine.

    Unlike OneCycleLR it keeps the groups' different rates (``head_lr_factor``, ``loss_lr_factor``). Step k of
    ``steps``, counted from 0, trains at a rate above 0.

    Args:
        optimizer: whose groups' rates are the highest ones.
        steps: training steps in all, ``trainer.max_steps``.
        warmup: the share of them in which the rate rises.

    Raises:
        UserError: for fewer than one step, or a warmup outside [0, 1).
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: float = 0.15) -> None:
        if steps < 1 or not 0 <= warmup < 1:
            raise UserError(
                f"WarmupCosine steps={steps}, warmup={warmup}: give at least 1 step (trainer.max_steps) and a "
                "share from 0 to below 1"
            )
        rising = warmup * steps

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / (steps - rising))))

        super().__init__(optimizer, factor)
