"""Learning rates: a schedule as long as the run, groups with rates of their own, and what resuming makes of both."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, PolynomialLR, ReduceLROnPlateau

from lifted_lightning.distributed import rank
from lifted_lightning.errors import UserError

LENGTHS = ("steps", "T_max", "total_steps")  # attributes that say after how many steps a schedule is at its end
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class WarmupCosine(LambdaLR):
    """Multiplies every group's learning rate by a factor that rises linearly to 1, then falls to 0 by a cosine.

    Unlike OneCycleLR it keeps the groups' different rates (``head_lr_factor``, ``loss_lr_factor``). Step k of
    ``steps``, counted from 0, trains at a rate above 0.

    Args:
        optimizer: whose groups' rates are the highest ones.
        steps: training steps in all; None takes those of the run (``trainer.max_steps``, or what its epochs come to).
        warmup: the share of them in which the rate rises; 0 is a plain cosine.

    Raises:
        UserError: for fewer than one step, or a warmup outside [0, 1).
    """

    def __init__(self, optimizer: Optimizer, steps: int | None = None, warmup: float = 0.15) -> None:
        if (steps is not None and steps < 1) or not 0 <= warmup < 1:
            raise UserError(
                f"WarmupCosine steps={steps}, warmup={warmup}: give at least 1 step, or none for the run's, and a "
                "share from 0 to below 1"
            )
        self.steps = steps
        self.warmup = warmup
        super().__init__(optimizer, lambda step: self.factor(step))

    def factor(self, step: int) -> float:
        """What rates are multiplied by at this step, counted from 0; 1 while the length is unknown."""
        if self.steps is None:
            return 1.0
        rising = self.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / (self.steps - rising))))

    def begin(self, steps: int) -> None:
        """Take the run's length, before the first step."""
        self.steps = steps
        self._last_lr = [rate * self.factor(0) for rate in self.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def fit_to_run(scheduler: LRScheduler, length: float) -> str | None:
    """Give a schedule the run's length if it takes it from there; else compare the two.

    Args:
        scheduler: newly made.
        length: steps of the run, infinite for no limit.

    Returns:
        What is to be said of a length given by hand that is not the run's.

    Raises:
        UserError: if it needs a length and the run has none, or would fail before the run's end.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, WarmupCosine) and scheduler.steps is None:
        if math.isinf(length):
            raise UserError(f"{name} ends with the run, which has no length: give trainer.max_steps")
        scheduler.begin(int(length))
    names = ("total_iters",) if isinstance(scheduler, PolynomialLR) else LENGTHS
    own, setting = next(((getattr(scheduler, key), key) for key in names if hasattr(scheduler, key)), (length, ""))
    if own == length:
        return None
    told = f"{name}'s {setting} is {own}, and the run has {length} steps"
    if isinstance(scheduler, OneCycleLR) and own < length:
        raise UserError(f"{told}: it takes no more; make the two agree")
    return f"{told}: the schedule does not end with the run; make the two agree, or use WarmupCosine"


def keep_factors(scheduler: LRScheduler, factors: Sequence[float]) -> bool:
    """Have parameter groups keep the ratio of their rates under schedules that set one rate for all of them.

    Returns:
        Whether they have it.
    """
    groups = scheduler.optimizer.param_groups
    if isinstance(scheduler, OneCycleLR | CyclicLR):
        for i, (group, factor) in enumerate(zip(groups, factors, strict=True)):
            for name in {"lr", "initial_lr", "max_lr", "min_lr"} & group.keys():
                group[name] *= factor
            for rates in (getattr(scheduler, name, ()) for name in ("base_lrs", "max_lrs")):
                if rates:
                    rates[i] *= factor
        scheduler._last_lr = [group["lr"] for group in groups]
    scaled = [group["lr"] / factor for group, factor in zip(groups, factors, strict=True) if factor]
    return all(math.isclose(rate, scaled[0], rel_tol=1e-6) for rate in scaled)


# Going on with other settings


def describe(optimizer: Optimizer) -> dict[str, Any]:
    """Class and groups' options of a new optimiser, as plain values; take it before a schedule changes them."""
    groups = [
        {k: v for k, v in group.items() if isinstance(v, PLAIN) and k != "params"} for group in optimizer.param_groups
    ]
    return {"optimizer": type(optimizer).__name__, "groups": groups, "scheduler": None, "schedule": {}}


def describe_schedule(scheduler: LRScheduler) -> dict[str, Any]:
    """Class and settings of a new schedule, as plain values."""
    settings = {k: v for k, v in scheduler.state_dict().items() if isinstance(v, PLAIN) and not k.endswith("_lr")}
    return {"scheduler": type(scheduler).__name__, "schedule": settings}


def go_on(
    checkpoint: dict[str, Any],
    saved: dict[str, Any],
    now: dict[str, Any],
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
) -> None:
    """Change a checkpoint's state of optimiser and schedule where these have other settings now.

    What has not changed goes on to the last bit. A schedule of steps, or its highest rate, that has changed goes on
    as if it had been the present one from the start; ReduceLROnPlateau keeps what it has counted.

    Args:
        checkpoint: of Lightning, changed in place.
        saved: what :func:`describe` and :func:`describe_schedule` said when the checkpoint's run began.
        now: what they say now.
        optimizer: newly made, of the same parameters; used up.
        scheduler: its schedule, newly made; used up.

    Raises:
        UserError: if the optimiser is another one, whose state says nothing to this one.
    """
    if (saved["optimizer"], len(saved["groups"])) != (now["optimizer"], len(now["groups"])):
        kinds = [f"{d['optimizer']} of {len(d['groups'])} parameter groups" for d in (saved, now)]
        raise UserError(
            f"the checkpoint's optimizer is {kinds[0]}, and here it is {kinds[1]}: give the run's own, or begin anew "
            "from its weights with model.network.weights_file"
        )
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    step, rates = checkpoint["global_step"], [group["lr"] for group in groups]
    same_schedule = (saved["scheduler"], saved["schedule"]) == (now["scheduler"], now["schedule"])
    same_rates = [g["lr"] for g in saved["groups"]] == [g["lr"] for g in now["groups"]]
    for group, before, after in zip(groups, saved["groups"], now["groups"], strict=True):
        group.update({k: v for k, v in after.items() if k != "lr" and v != before.get(k)})
    if same_schedule and same_rates:
        return
    states = checkpoint["lr_schedulers"]
    if isinstance(scheduler, ReduceLROnPlateau) and saved["scheduler"] == now["scheduler"]:
        states[0] |= {k: v for k, v in now["schedule"].items() if v != saved["schedule"].get(k)}
        for group, before, after in zip(groups, saved["groups"], now["groups"], strict=True):
            group["lr"] *= after["lr"] / before["lr"] if before["lr"] else 0.0
    else:
        if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a schedule's step without the optimiser's
                for _ in range(step):
                    scheduler.step()
        for group, present in zip(groups, optimizer.param_groups, strict=True):
            group.update({k: v for k, v in present.items() if k != "params"})
        states[:] = [] if scheduler is None else [scheduler.state_dict()]
    told = [", ".join(f"{rate:.3g}" for rate in dict.fromkeys(r)) for r in (rates, [g["lr"] for g in groups])]
    if rank() == 0:
        print(f"learning rate from step {step} on: {told[1]}, no longer {told[0]}")
