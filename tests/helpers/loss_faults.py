"""Losses with a fault each, of the kinds that people's own losses have."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifted_lightning.distributed import gather_rows, rank, world_size


def terms(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances (B, B), and which pairs are positive and which negative."""
    squares = (x[:, None] - x).square().sum(2)
    same = labels[:, None] == labels
    return squares, same & ~torch.eye(len(labels), dtype=torch.bool, device=x.device), ~same


def sound(x: Tensor, labels: Tensor) -> Tensor:
    """A loss without a fault."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, positive, negative = terms(x, labels)
    pull = torch.where(positive, squares, 0).sum() / positive.sum().clamp_min(1)
    return pull + torch.where(negative, (1.5 - squares).relu(), 0).sum() / negative.sum().clamp_min(1)


class Loss(nn.Module):
    """A loss that is a function of its batch."""

    def __init__(self, value: Callable[[Tensor, Tensor], Tensor | float]) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, labels: Tensor) -> Tensor | float:
        return self.value(x, labels)


def detached_term(x: Tensor, labels: Tensor) -> Tensor:
    squares, positive, _ = terms(x.float() if x.dtype != torch.float64 else x, labels)
    return sound(x, labels) + (squares * positive).sum().detach()


def number_in_place_of_tensor(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) * (1 + x.square().sum().item())


class WrongBackward(nn.Module):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return sound(self.Function.apply(x), labels)


def times_ranks(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) * world_size()


def gathers_again(x: Tensor, labels: Tensor) -> Tensor:
    if dist.is_initialized() and rank() == 0:  # its own rows only, as if they were a part
        x, labels = x[: len(x) // 2], labels[: len(labels) // 2]
    gather_rows(labels)
    return sound(x, labels)


def mean_over_none(x: Tensor, labels: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, _, negative = terms(x, labels)
    hinges = (1.5 - squares)[negative].relu()
    return sound(x, labels) + hinges[hinges > 0].mean()


def root_at_zero(x: Tensor, labels: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, positive, _ = terms(x, labels)
    first, second = positive.nonzero(as_tuple=True)
    return sound(x, labels) + squares[first, second].sqrt().sum()


def pairs_of_one(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) / (len(x) * (len(x) - 1))


def label_by_value(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x * (1 + (labels > 1))[:, None], labels)


def loop_over_rows(x: Tensor, labels: Tensor) -> Tensor:
    total = 0 * x.sum().float()
    for row in range(len(x)):
        others = (x - x[row]).float().square().sum(1)
        total = total + torch.where(labels == labels[row], others, (1 - others).relu()).mean()
    return total


def cube_of_rows(x: Tensor, labels: Tensor) -> Tensor:
    squares, positive, negative = terms(x, labels)
    hinges = (squares[:, :, None] - squares[:, None] + 0.2).relu()
    return torch.where(positive[:, :, None] & negative[:, None], hinges, 0).sum() / len(x) ** 2


class PrivateQueue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._queue: list[Tensor] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        past = torch.stack(self._queue[-20:]) if self._queue else x[:0].detach()
        self._queue += list(x.detach())
        return sound(x, labels) + (x[:, None] - past).square().sum().to(x.dtype) / 100


class UnsavedBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.steps += 1
        return sound(x, labels) * float(self.steps)


class PlainAttribute(nn.Module):
    """No fault: a run saves it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.steps += 1
        return sound(x, labels) * (1 + self.steps / 10)


CALLS = [0]


def global_count(x: Tensor, labels: Tensor) -> Tensor:
    CALLS[0] += 1
    return sound(x, labels) * CALLS[0]


def numpy_draw(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) * float(np.random.rand())


def python_draw(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) * random.random()


def torch_draw(x: Tensor, labels: Tensor) -> Tensor:
    """No fault: each step seeds it, alike on every rank."""
    return sound(x, labels) * torch.rand(()).to(x.device)


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return sound(x, labels) * torch.rand((), generator=self.generator)


def half_overflow(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) + (12 * (x @ x.T).clamp(-1, 1)).exp().sum().log()


def far_overflow(x: Tensor, labels: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x @ x.T).exp().mean().log() + sound(x, labels)


def tiny_overflow(x: Tensor, labels: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return sound(x / x.square().sum(1, keepdim=True).square(), labels)


def vector(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels)[None]


def plain_zero(x: Tensor, labels: Tensor) -> Tensor | float:
    return sound(x, labels) if len(labels.unique()) < len(labels) else 0.0


def unconnected(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) if len(labels.unique()) > 1 else torch.zeros(())


def writes_labels(x: Tensor, labels: Tensor) -> Tensor:
    value = sound(x, labels)
    labels[labels == 3] = 2
    return value


def means_of_anchors(x: Tensor, labels: Tensor) -> Tensor:
    """Of no positives at all it is right, but not of one image that has none."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, positive, _ = terms(x, labels)
    if not positive.any():
        return sound(x, labels)
    return sound(x, labels) + ((squares * positive).sum(1) / positive.sum(1)).mean()


def mean_of_what_is_left(x: Tensor, labels: Tensor) -> Tensor:
    """The mean over active triplets, of which there are some until all is learnt."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, positive, negative = terms(x, labels)
    hinges = (squares[:, :, None] - squares[:, None] + 5)[positive[:, :, None] & negative[:, None]].relu()
    return sound(x, labels) + (hinges[hinges > 0].mean() if len(hinges) else 0)


def angle_beyond_one(x: Tensor, labels: Tensor) -> Tensor:
    """The cosine of an image with one that is equal may be above 1 by its last digit."""
    x = nn.functional.normalize(x.to(torch.promote_types(x.dtype, torch.float32)))
    first, second = terms(x, labels)[1].nonzero(as_tuple=True)
    return sound(x, labels) + (x @ x.T)[first, second].arccos().sum()


def labels_counted(x: Tensor, labels: Tensor) -> Tensor:
    """The classes of a batch are taken for 0, 1, 2 and so on."""
    of_classes = [x[labels == label] for label in range(len(labels.unique()))]
    return sound(x, labels) + sum((rows - rows.mean(0)).square().sum() for rows in of_classes if len(rows))


def pairs_counted(x: Tensor, labels: Tensor) -> Tensor:
    """It has a gradient, but nothing in it."""
    squares, positive, _ = terms(x, labels)
    return (squares[positive] > 1).sum() + 0 * x.sum()


def gradient_times_ranks(x: Tensor, labels: Tensor) -> Tensor:
    x = x.clone()
    x.register_hook(lambda gradient: gradient * world_size())
    return sound(x, labels)


def single_only(x: Tensor, labels: Tensor) -> Tensor:
    members = nn.functional.one_hot(labels).float()
    return (x - members @ members.T @ x).square().mean()


class OtherAttributes(nn.Module):
    """No fault: each is kept as what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.classes: set[int] = set()
        self.times: Counter[int] = Counter()
        self.sums: defaultdict[int, float] = defaultdict(float)
        self.last: deque[float] = deque(maxlen=2)
        self.mean = np.zeros(2)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        value = sound(x, labels)
        self.classes |= {len(self.classes)}
        self.times[len(self.times)] += 1
        self.sums[len(self.sums)] += 1.5
        self.last.append(value.item())
        self.mean = self.mean + 1
        kept = len(self.classes), sum(self.times.values()), sum(self.sums.values()), len(self.last), self.mean.sum()
        return value * sum(map(float, kept))


class MaskKept(nn.Module):
    """Which images are of one class is another in the next batch of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self._same = torch.zeros(0, 0, dtype=torch.bool)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if len(self._same) != len(labels):
            self._same = labels[:, None] == labels
        return sound(x, labels) + torch.where(self._same, terms(x, labels)[0], 0).sum()


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return sound(x, labels)


class RootOfOwn(nn.Module):
    """The gradient of its own parameter alone is not finite, where there is no negative."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return sound(x, labels) + (self.scale.square() * (labels != labels[0]).sum()).sqrt()


class StopGradientOfProxies(nn.Module):
    """No fault: it has parameters of its own beside such weights."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(20, 8))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scores = x.to(self.proxies.dtype) @ self.proxies.T
        terms = nn.functional.cross_entropy(scores, labels, reduction="none")
        return (terms * terms.detach()).mean()


def reads_a_number(x: Tensor, labels: Tensor) -> Tensor:
    return sound(x, labels) if (labels == labels[0]).sum().item() > 0 else x.sum()


def stop_gradient(x: Tensor, labels: Tensor) -> Tensor:
    """No fault: weights that are constants in the gradient, of values that have one."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares, positive, _ = terms(x, labels)
    return sound(x, labels) + (squares * squares.detach() * positive).sum()


class Queue(nn.Module):
    """No fault: what it remembers is constant, in buffers and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(24, 8))
        self.place = 0

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.no_grad():
            self.queue[(self.place + torch.arange(len(x))) % 24] = x.to(self.queue.dtype)
        self.place += len(x)
        return sound(x, labels) + (x @ self.queue.clone().to(x.dtype).T).logsumexp(1).mean()


def raises_in_a_library(x: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.linear(x, x.new_ones(2, x.shape[1] + 1)).sum()


def raises_on_a_rank(x: Tensor, labels: Tensor) -> Tensor:
    if rank() == 1:
        raise ValueError("my own words")
    return sound(x, labels)


class NamelessProxies(nn.Module):
    """No fault: it keeps for itself how many classes it knows."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(classes, 8))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x @ self.proxies.T, labels)
