"""Retrieval metrics as plain loops over float64 distances, with ties counted against."""

import numpy as np


def ranks_of_positives(
    embeddings: np.ndarray, labels: np.ndarray, query: int, gallery: np.ndarray, cosine: bool, cameras: np.ndarray
) -> list[int]:
    """Ranks, ascending, of the items of the query's class: every negative as near ranks before a positive.

    Items of the query's class and camera are left out, unless the camera is -1.
    """
    x = embeddings.astype(np.float64)
    if cosine:
        norms = np.sqrt((x**2).sum(1, keepdims=True))
        x = x / np.where(norms == 0, 1, norms)
    others = []
    for i in gallery:
        if i == query or (labels[i] == labels[query] and cameras[i] == cameras[query] != -1):
            continue
        others.append(i)
    distance = {i: ((x[query] - x[i]) ** 2).sum() for i in others}
    ordered = sorted(others, key=lambda i: (distance[i], labels[i] == labels[query]))
    return [rank for rank, i in enumerate(ordered, start=1) if labels[i] == labels[query]]


def retrieval_metrics(
    embeddings: np.ndarray,
    labels: np.ndarray,
    ks: tuple[int, ...],
    query: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    cosine: bool = False,
    cameras: np.ndarray | None = None,
) -> dict[str, float]:
    everything = np.arange(len(labels))
    cameras = np.full(len(labels), -1) if cameras is None else cameras
    query = everything if query is None else query
    gallery = everything if gallery is None else gallery
    recalls, precisions, averages = [], [], []
    for q in query:
        ranks = ranks_of_positives(embeddings, labels, q, gallery, cosine, cameras)
        if not ranks:
            continue
        total = len(ranks)
        hits = [rank for rank in ranks if rank <= total]
        recalls.append([ranks[0] <= k for k in ks])
        precisions.append(len(hits) / total)
        averages.append(sum(j / rank for j, rank in enumerate(hits, start=1)) / total)
    if not recalls:
        nan = float("nan")
        result = {**{f"recall@{k}": nan for k in ks}, "r_precision": nan, "map@r": nan}
    else:
        result = {f"recall@{k}": float(np.mean(r)) for k, r in zip(ks, np.transpose(recalls), strict=True)}
        result |= {"r_precision": float(np.mean(precisions)), "map@r": float(np.mean(averages))}
    return {**result, "queries_without_positive": float(len(query) - len(recalls))}
