"""Whether a gradient is that of finite differences, and if it is not, what in the code has cut it."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUTS = (  # what gives a value that no gradient goes through
    Tensor.detach, torch.detach, Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.__int__,
    Tensor.__array__, Tensor.data.__get__,  # type: ignore[attr-defined]
)  # fmt: skip
DIRECTIONS = 4
# Lengths of the differences, in the unit of the points, and how much of a slope may be wrong; of a hinge that is met on
# the way at one length, another is free.
EXACT = ((1e-6, 1e-5, 1e-4), 1e-4)
SINGLE = ((1e-2, 3e-3, 1e-3), 3e-2)  # of a value that is float32 though points are float64
Value = Callable[[Sequence[Tensor]], Tensor]  # of leaves


class Cut(NamedTuple):
    """A place in the code where a value lost its gradient."""

    what: str
    where: str
    value: Tensor


class Constants(TorchFunctionMode):
    """Notes the values that lose their gradient in a computation; or, given such, has them as they were."""

    def __init__(self, noted: Sequence[Cut] = ()) -> None:
        super().__init__()
        self.cuts: list[Cut] = []
        self._noted = list(noted)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (function in CUTS or not torch.is_grad_enabled()) and (place := _place()):
            what = "no_grad" if function not in CUTS else f".{getattr(function, '__name__', 'data')}"
            what = what.replace(".__get__", ".data").replace("__", "")
            args = tuple(self._constant(arg, what, place) for arg in args)
        return function(*args, **(kwargs or {}))

    def _constant(self, value: Any, what: str, place: str) -> Any:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value
        if self._noted:
            return self._noted.pop(0).value
        if not value.is_leaf:
            value.retain_grad()
        self.cuts.append(Cut(what, place, value))
        return value


def _place() -> str:
    """The user's line that is being run; nothing inside of an autograd function, which has a gradient of its own."""
    frame, place = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.endswith("torch/autograd/function.py"):
            return ""
        if not place and "/torch/" not in name:
            place = f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return place


def slopes_agree(value: Value, leaves: Sequence[Tensor]) -> tuple[str, list[Cut]]:
    """Compare the gradient with central differences along random directions.

    Args:
        value: the function, which gives the same for the same leaves.
        leaves: float64.

    Returns:
        What is wrong, empty where they agree; and the cuts that explain it: as constants they make it right.
    """
    watch = Constants()
    with watch:
        at = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        result = value(at)
    result.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in at]
    lengths, wrong = EXACT if result.dtype == torch.float64 else SINGLE
    generator = torch.Generator().manual_seed(1)
    length = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
    said, explained = "", bool(watch.cuts)
    for _ in range(DIRECTIONS):
        ways = [torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in leaves]
        size = sum(float(way.square().sum()) for way in ways) ** 0.5
        ways = [way / size for way in ways]
        slope = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, ways, strict=True))

        def differences(constants: Sequence[Cut], ways: Sequence[Tensor] = ways) -> list[float]:
            found = []
            for h in lengths:
                ends = []
                for sign in (h, -h):
                    with Constants(constants):
                        points = [leaf + sign * way for leaf, way in zip(leaves, ways, strict=True)]
                        ends.append(float(value([point.detach().requires_grad_() for point in points]).detach()))
                found.append((ends[0] - ends[1]) / (2 * h))
            return found

        def agrees(found: Sequence[float], slope: float = slope) -> bool:
            return any(abs(slope - f) <= wrong * max(abs(slope), abs(f), 0.01 * length, 1e-8) for f in found)

        if agrees(plain := differences(())):
            continue
        said = said or f"slope {slope:.6g} along a direction, by finite differences {plain[1]:.6g}"
        explained = explained and agrees(differences(watch.cuts))
    return said, watch.cuts if said and explained else []
