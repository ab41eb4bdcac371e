"""A map of embeddings in the plane: scikit-learn's t-SNE, with the images' own pictures on it.

Imports no torch: the map is computed and drawn in a process of its own (``lifted_lightning.pictures.worker``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lifted_lightning.pictures.style import (
    FAINT,
    PALETTE,
    UInt8Array,
    as_rgb,
    boxes_overlap,
    far_apart_colours,
    fit_name,
    paper_style,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FloatArray = npt.NDArray[np.float64]


IntArray = npt.NDArray[np.int64]


LABELLED_CLASSES = 12  # up to so many, each class is named on the map


_WIDTH, _HEADER, _MARGIN = 10.0, 0.62, 0.12  # inches


def stratified_sample(labels: IntArray, points: int, seed: int, per_class: int = 5) -> IntArray:
    """Draw items so that the classes keep their shares.

    Where there are so many classes that they would be left with less than ``per_class`` items on average, so
    many classes are drawn first that they are not: two thousand points of two thousand classes show nothing.

    Args:
        labels: (N,) classes.
        points: how many items to draw at most.
        seed: of the choice; the same seed draws the same items.
        per_class: items a class, on average, below which classes are left out.

    Returns:
        (n,) positions, ascending; n is ``points``, or less where the drawn classes have no more items.
    """
    if len(labels) <= points:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))[: max(points // per_class, 1)]
    rows = rng.permutation(np.flatnonzero(np.isin(labels, classes)))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    # Evenly spaced in the list sorted by class: each class gets its share, rounded up or down.
    n = min(points, len(rows))
    return np.sort(rows[np.arange(n) * len(rows) // n])


def tsne(embeddings: npt.NDArray[np.floating], seed: int, perplexity: float = 30.0) -> FloatArray:
    """Project embeddings to the plane by t-SNE (van der Maaten and Hinton, JMLR 2008), started from PCA.

    Args:
        embeddings: (n, D).
        seed: for what is random in it.
        perplexity: lowered to (n - 1) / 3 where there are few points.

    Returns:
        (n, 2) coordinates.

    Raises:
        ValueError: fewer than four points, or embeddings that are not finite.
    """
    from sklearn.manifold import TSNE

    if len(embeddings) < 4:
        raise ValueError(f"a t-SNE plot of {len(embeddings)} points says nothing: it needs 4 or more")
    if not np.isfinite(embeddings).all():
        raise ValueError("some embeddings are not finite (NaN or infinity)")
    points = np.asarray(embeddings, dtype=np.float64)
    points = points - points.mean(axis=0)
    spread = points.std()
    # PCA has no two directions to start from where all embeddings coincide (scikit-learn then crashes) or
    # have one dimension.
    start = "pca" if points.shape[1] > 1 and spread > 0 else "random"
    points = (points / spread if spread > 0 else points).astype(np.float32)
    perplexity = min(perplexity, (len(points) - 1) / 3)
    projected = TSNE(init=start, perplexity=perplexity, random_state=seed).fit_transform(points)
    return np.asarray(projected, dtype=np.float64)


def place_without_overlap(centres: FloatArray, width: float, height: float, taken: FloatArray) -> IntArray:
    """Choose which pictures can be laid at their points with none covering another, first come, first served.

    Args:
        centres: (n, 2) where each would lie.
        width: of a picture, in the unit of ``centres``.
        height: of a picture.
        taken: (m, 4) boxes (x0, y0, x1, y1) that are to stay free.

    Returns:
        Positions into ``centres`` of those that are laid, ascending.
    """
    half = np.array([width, height]) / 2
    boxes = np.hstack([centres - half, centres + half])
    laid: list[int] = []
    for i, box in enumerate(boxes):
        if not boxes_overlap(box, boxes[laid]) and not boxes_overlap(box, taken):
            laid.append(i)
    return np.asarray(laid, dtype=np.int64)


def class_centres(coordinates: FloatArray, labels: IntArray) -> tuple[IntArray, FloatArray]:
    """The classes present, and for each the one of its points that lies nearest to the median of them all."""
    classes = np.unique(labels)
    centres = np.empty((len(classes), 2))
    for c, label in enumerate(classes):
        own = coordinates[labels == label]
        centres[c] = own[np.argmin(np.linalg.norm(own - np.median(own, axis=0), axis=1))]
    return classes, centres


def draw_map(
    path: Path,
    coordinates: FloatArray,
    labels: IntArray,
    class_names: Sequence[str],
    thumbnails: UInt8Array,
    pictured: IntArray,
    title: str,
    subtitle: str,
) -> IntArray:
    """Draw points coloured by class, the pictures of some of them in place, and the names of few classes.

    Args:
        path: the PNG to write.
        coordinates: (n, 2) of the points.
        labels: (n,) indices into ``class_names``.
        class_names: a name for each label.
        thumbnails: (t, H, W, C) uint8 images that may be shown; those that would overlap are left out.
        pictured: (t,) whose images those are, as rows of ``coordinates``.
        title: the first line.
        subtitle: the second line, set smaller.

    Returns:
        The rows of ``coordinates`` whose images are shown.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    room = _WIDTH - 2 * _MARGIN
    tall = room * float(np.clip(span[1] / span[0], 0.6, 1.2))
    side = float(np.clip(0.62 * room / np.sqrt(max(len(pictured), 1)), 0.30, 0.75))
    inset = side / 2 + 0.03
    inches = inset + (coordinates - low) / span * (np.array([room, tall]) - 2 * inset)
    classes, centres = class_centres(inches, labels)
    own = np.array(PALETTE)[far_apart_colours(centres)]
    colours = own[np.searchsorted(classes, labels)]
    with paper_style():
        height = tall + _HEADER + _MARGIN
        figure = Figure(figsize=(_WIDTH, height))
        frame = (_MARGIN / _WIDTH, _MARGIN / height, room / _WIDTH, tall / height)
        axes = figure.add_axes(frame, xlim=(0, room), ylim=(0, tall), xticks=[], yticks=[])
        axes.spines[:].set(color="#cccccc", linewidth=0.6)
        axes.scatter(inches[:, 0], inches[:, 1], s=13, c=colours, linewidths=0, alpha=0.85)
        names = [class_names[c] for c in classes] if len(classes) <= LABELLED_CLASSES else []
        taken = _draw_names(axes, centres, names, own)
        laid = place_without_overlap(inches[pictured], 1.07 * side, 1.07 * side, taken)
        for i in laid:
            x, y = inches[pictured[i]] - side / 2
            extent = (x, x + side, y, y + side)
            axes.imshow(as_rgb(thumbnails[i]), extent=extent, interpolation="antialiased", zorder=3)
        frames = [Rectangle(tuple(inches[pictured[i]] - side / 2), side, side) for i in laid]
        edges = colours[pictured[laid]]
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=edges, lw=1.3, zorder=4))
        axes.set(xlim=(0, room), ylim=(0, tall), aspect="auto")
        figure.text(frame[0], 1 - 0.26 / height, title, fontsize=13, weight="bold", va="center")
        figure.text(frame[0], 1 - 0.48 / height, subtitle, fontsize=9, color=FAINT, va="center")
        save(figure, path)
    return pictured[laid]


def _draw_names(axes: "Axes", centres: FloatArray, names: Sequence[str], colours: npt.NDArray[np.str_]) -> FloatArray:
    """Write class names at their centres, moved up where two would overlap; returns the boxes they take."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = np.empty((0, 4))
    for c in np.argsort(centres[:, 1]) if names else []:
        text = axes.text(
            centres[c, 0], centres[c, 1], fit_name(names[c], 28), fontsize=10, weight="bold",
            ha="center", va="center", zorder=6,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colours[c], "lw": 1.6},
        )  # fmt: skip
        corners = axes.transData.inverted().transform(text.get_window_extent(renderer))
        half = (corners[1] - corners[0]) / 2 + 0.07
        low, high = half, np.array([axes.get_xlim()[1], axes.get_ylim()[1]]) - half
        place = np.clip(centres[c], low, np.maximum(low, high))
        while boxes_overlap(box := np.concatenate([place - half, place + half]), boxes) and place[1] < high[1]:
            place[1] += 0.05
        text.set_position(tuple(place))
        boxes = np.vstack([boxes, box])
    return boxes
