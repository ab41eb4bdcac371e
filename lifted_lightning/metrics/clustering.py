"""NMI, AMI and F1 of a clustering of the embeddings into as many clusters as there are classes."""

import math
import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lifted_lightning.distributed import rank, sum_over_ranks
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.distances import Array, Distance, points_of

Method = Literal["k-means", "affinity propagation"]
Start = Literal["k-means++", "random"]
FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

AFFINITY_LIMIT = 10_000  # items; N x N similarities, several times over: 3 GB and an hour or so at that size
_BISECTIONS = 20


def clustering_metrics(
    embeddings: Array,
    labels: Array,
    method: Method = "k-means",
    start: Start = "k-means++",
    distance: Distance = "euclidean",
    seed: int = 0,
) -> dict[str, float]:
    """Cluster the embeddings into as many clusters as there are classes, and compare the two.

    Oh Song et al., *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016, report NMI and
    F1; AMI is NMI corrected for chance, which many clusters need. Within a process group, where every rank
    must call it, rank zero clusters and all get the result.

    Args:
        embeddings: (N, D) floating point.
        labels: (N,) int64.
        method: ``"k-means"``, or ``"affinity propagation"`` as the paper has it on CUB-200-2011 and Cars-196,
            bisecting the preference until the number of clusters is met, or nearly. That is meant for sets of
            their size, up to ten thousand items: it takes N x N similarities, and minutes. Ranks wait for rank zero
            as long as for any other collective: raise their timeout where it takes longer.
        start: where k-means starts: ``"k-means++"``, or ``"random"`` data points as in the paper's code.
        distance: ``"cosine"`` clusters the embeddings scaled to length one.
        seed: of the start.

    Returns:
        ``nmi`` = 2I/(H_clusters + H_classes), ``ami``, and ``f1`` over pairs of items.

    Raises:
        ValueError: if shapes do not match, or there is nothing to cluster.
        UserError: if affinity propagation is asked for more items than it is meant for, or embeddings are not finite.
    """
    points = points_of(embeddings, distance)
    classes = torch.as_tensor(labels).cpu().numpy()
    if classes.shape != points.shape[:1] or not len(classes):
        raise ValueError(f"labels have shape {classes.shape}, embeddings {tuple(points.shape)}")
    if method not in ("k-means", "affinity propagation"):
        raise ValueError(f"method is {method!r}, not 'k-means' or 'affinity propagation'")
    if method == "affinity propagation" and len(classes) > AFFINITY_LIMIT:
        raise UserError(
            f"affinity propagation is meant for up to {AFFINITY_LIMIT} items, not {len(classes)}: use k-means"
        )
    scores = torch.zeros(3, dtype=torch.float64)
    if rank() == 0:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        count, matrix = len(np.unique(classes)), points.float().cpu().numpy()
        # Embeddings collapsed, say, to fewer points than clusters: the scores tell.
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            if method == "k-means":
                model = KMeans(count, init=start, n_init=1, max_iter=100, random_state=seed)
                assigned = model.fit_predict(matrix)
            else:
                assigned = _affinity_propagation(matrix, count, seed)
        scores += torch.tensor(agreement(classes, assigned), dtype=torch.float64)
    nmi, ami, f1 = sum_over_ranks(scores.to(points.device)).tolist()
    return {"nmi": nmi, "ami": ami, "f1": f1}


def agreement(classes: IntArray, assigned: IntArray) -> tuple[float, float, float]:
    """NMI (arithmetic), AMI (arithmetic) and F1 over pairs of a clustering (N,) of items of classes (N,)."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    nmi = normalized_mutual_info_score(classes, assigned)
    ami = adjusted_mutual_info_score(classes, assigned)
    (_, wrong), (missed, together) = pair_confusion_matrix(classes, assigned).tolist()
    pairs = 2 * together + wrong + missed
    return float(nmi), float(ami), 2 * together / pairs if pairs else 1.0  # perfect where there is no pair at all


def _affinity_propagation(points: FloatArray, clusters: int, seed: int) -> IntArray:
    """Frey & Dueck, *Clustering by Passing Messages Between Data Points*, Science 2007."""
    from sklearn.cluster import AffinityPropagation
    from sklearn.metrics import euclidean_distances

    similarities = -euclidean_distances(points, squared=True)
    # By magnitude: from about each item a cluster of its own, to about one cluster.
    scale = float(-similarities.min()) or 1.0
    many, few = math.log(1e-6 * scale), math.log(4 * scale)
    tried: list[IntArray] = []
    for _ in range(_BISECTIONS):
        middle = (many + few) / 2
        model = AffinityPropagation(
            affinity="precomputed", preference=-math.exp(middle), damping=0.9, max_iter=500, convergence_iter=30,
            random_state=seed,
        )  # fmt: skip
        tried.append(model.fit_predict(similarities))
        found = len(np.unique(tried[-1]))
        if found == clusters:
            break
        many, few = (many, middle) if found < clusters else (middle, few)
    return min(tried, key=lambda assigned: abs(len(np.unique(assigned)) - clusters))
