"""The paper's losses as plain float64 loops over pairs and triplets, to be read beside the formulas.

Distances come from explicit differences; nothing here is shared with the package.
"""

from math import exp, inf, log

import numpy as np


def distance(x: np.ndarray, i: int, j: int) -> float:
    """Euclidean distance of rows i and j."""
    return float(np.sqrt(np.sum((x[i] - x[j]) ** 2)))


def positive_pairs(labels: np.ndarray) -> list[tuple[int, int]]:
    """Unordered pairs of different rows of one class."""
    n = len(labels)
    return [(i, j) for i in range(n) for j in range(i + 1, n) if labels[i] == labels[j]]


def negative_pairs(labels: np.ndarray) -> list[tuple[int, int]]:
    """Unordered pairs of rows of two classes."""
    n = len(labels)
    return [(i, j) for i in range(n) for j in range(i + 1, n) if labels[i] != labels[j]]


def contrastive_given(x: np.ndarray, labels: np.ndarray, margin: float, squared: bool) -> float:
    """The paper's contrastive loss on the given pairs, rows 2i and 2i+1."""
    x = x.astype(np.float64)
    count, total = len(labels) // 2, 0.0
    for p in range(count):
        i, j = 2 * p, 2 * p + 1
        d = distance(x, i, j)
        term = d if labels[i] == labels[j] else max(0.0, margin - d)
        total += term**2 if squared else term
    return total / (2 * count) if count else 0.0


def contrastive_all(x: np.ndarray, labels: np.ndarray, margin: float, average: str, squared: bool) -> float:
    """Contrastive loss on all pairs: half of (mean over positives + mean over the active or all negatives)."""
    x = x.astype(np.float64)
    power = 2 if squared else 1
    pull = [distance(x, i, j) ** power for i, j in positive_pairs(labels)]
    push = [max(0.0, margin - distance(x, i, j)) ** power for i, j in negative_pairs(labels)]
    if average == "active":
        push = [term for term in push if term > 0]
    return 0.5 * (sum(pull) / max(len(pull), 1) + sum(push) / max(len(push), 1))


def lifted_terms(x: np.ndarray, labels: np.ndarray, margin: float, smooth: float) -> list[float]:
    """J_ij of every positive pair: eq. 4 at the temperature smooth, eq. 3 at 0; minus infinity without negatives."""
    x = x.astype(np.float64)
    n, terms = len(labels), []
    for i, j in positive_pairs(labels):
        lifts = [margin - distance(x, i, k) for k in range(n) if labels[k] != labels[i]]
        lifts += [margin - distance(x, j, k) for k in range(n) if labels[k] != labels[j]]
        if not lifts:
            terms.append(-inf)
            continue
        top = max(lifts)
        spread = smooth * log(sum(exp((v - top) / smooth) for v in lifts)) if smooth else 0.0
        terms.append(top + spread + distance(x, i, j))
    return terms


def lifted(x: np.ndarray, labels: np.ndarray, margin: float, smooth: float) -> float:
    """J = 1/(2|P|) sum over the unordered positive pairs of max(0, J_ij)^2."""
    terms = lifted_terms(x, labels, margin, smooth)
    return sum(max(0.0, t) ** 2 for t in terms) / (2 * len(terms)) if terms else 0.0


def triplet_terms(x: np.ndarray, labels: np.ndarray, margin: float, squared: bool, mining: str) -> list[float]:
    """D_ap - D_an + margin (D squared if told) of every triplet that the mining rule keeps."""
    x = x.astype(np.float64)
    n, terms, power = len(labels), [], 2 if squared else 1
    for a in range(n):
        near = [distance(x, a, p) ** power for p in range(n) if labels[p] == labels[a] and p != a]
        far = [distance(x, a, k) ** power for k in range(n) if labels[k] != labels[a]]
        if mining == "hard":
            terms += [max(near) - min(far) + margin] if near and far else []
        elif mining == "semihard":
            for d in near:
                band = [e for e in far if d < e < d + margin]
                terms += [d - min(band) + margin] if band else []
        else:
            terms += [d - e + margin for d in near for e in far]
    return terms


def triplet(x: np.ndarray, labels: np.ndarray, margin: float, squared: bool, mining: str, average: str) -> float:
    """1/(2 count) of the sum of the hinges, over all kept triplets or over those above zero."""
    hinges = [max(0.0, t) for t in triplet_terms(x, labels, margin, squared, mining)]
    count = sum(h > 0 for h in hinges) if average == "active" else len(hinges)
    return sum(hinges) / (2 * count) if count else 0.0
