"""The losses of a batch against references, for autograd in float64: all distances and triplets in memory.

Rows whose own copy is among the references name it; nothing here is shared with the package.
"""

import torch
from torch import Tensor


def pairs(x: Tensor, labels: Tensor, others: Tensor, names: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (B, N), with derivative 0 where one is 0, and the masks of positive and negative pairs."""
    squared = (x[:, None] - others.detach()[None]).square().sum(2)
    distances = torch.where(squared > 0, torch.where(squared > 0, squared, 1).sqrt(), squared)
    same = labels[:, None] == names[None]
    copies = torch.zeros_like(same)
    copies[torch.arange(len(x)), own] = True
    return distances, same & ~copies, ~same


def contrastive(found: tuple[Tensor, Tensor, Tensor], margin: float, average: str, squared: bool) -> Tensor:
    distances, positive, negative = found
    power = 2 if squared else 1
    hinges = (margin - distances[negative]).relu()
    count = (hinges > 0).sum() if average == "active" else negative.sum()
    pull = distances[positive].pow(power).sum() / positive.sum().clamp_min(1)
    return (pull + hinges.pow(power).sum() / count.clamp_min(1)) / 2


def triplet(found: tuple[Tensor, Tensor, Tensor], margin: float, squared: bool, mining: str, average: str) -> Tensor:
    distances, positive, negative = found
    hinges = []
    for row, near, far in zip(distances, positive, negative, strict=True):
        for d in [row[near].max()] if mining == "hard" and near.any() else row[near]:
            rest = row[far]
            if mining == "semihard":
                power = 2 if squared else 1
                rest = rest[(rest > d) & (rest**power < d**power + margin)]
            if mining != "all" and len(rest):
                rest = rest.min()[None]
            hinges.append((d**2 - rest**2 if squared else d - rest) + margin)
    terms = torch.cat([distances.new_zeros(0), *hinges]).relu()
    count = (terms > 0).sum() if average == "active" else len(terms)
    return terms.sum() / (2 * max(int(count), 1))


def lifted(found: tuple[Tensor, Tensor, Tensor], margin: float, smooth: float) -> Tensor:
    distances, positive, negative = found
    terms = []
    for i, j in positive.nonzero().tolist():
        lifts = margin - torch.cat([distances[i][negative[i]], distances[:, j][negative[:, j]]])
        if len(lifts):
            lift = smooth * (lifts / smooth).logsumexp(0) if smooth else lifts.max()
            terms.append((lift + distances[i, j]).relu() ** 2)
    return sum(terms, distances.new_zeros(())) / (2 * positive.sum().clamp_min(1))
