"""A map of embeddings in the plane: scikit-learn's t-SNE, with the images' own pictures on it.

Imports no torch: the map is computed and drawn in a process of its own (``lifted_lightning.pictures.worker``).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lifted_lightning.pictures.style import FAINT, UInt8Array, as_rgb, fitted, paper_style, save, wrapped

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FEW_COLOURS, MANY_COLOURS = "petroff10", "tab20"  # of matplotlib; the first are told apart by the colour-blind too
WIDTH = 10.0  # inches
PER_CLASS = 5  # items of a class, on average, below which classes are left out


def stratified_sample(labels: IntArray, points: int, seed: int) -> IntArray:
    """Draw items so that the classes keep their shares.

    Where there are so many classes that they would be left with less than five items on average, so many classes
    are drawn first that they are not: two thousand points of two thousand classes show nothing.

    Args:
        labels: (N,) classes.
        points: how many items to draw at most.
        seed: of the choice; the same seed draws the same items.

    Returns:
        (n,) positions, ascending; n is ``points``, or less where the drawn classes have no more items.
    """
    if len(labels) <= points:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))[: max(points // PER_CLASS, 1)]
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


def place_without_overlap(centres: FloatArray, side: float) -> IntArray:
    """Choose which pictures can be laid at their points with none covering another, first come, first served.

    Args:
        centres: (n, 2) where each would lie.
        side: of a picture, in the unit of ``centres``.

    Returns:
        Positions into ``centres`` of those that are laid, ascending.
    """
    laid: list[int] = []
    for i, centre in enumerate(centres):
        if (np.abs(centres[laid] - centre) >= side).any(axis=1).all():
            laid.append(i)
    return np.asarray(laid, dtype=np.int64)


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
    """Draw points coloured by class, the pictures of some of them in place, and the names of few classes below.

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
    import matplotlib
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch, Rectangle

    few = len(class_names) <= len(matplotlib.color_sequences[FEW_COLOURS])
    palette = np.array(matplotlib.color_sequences[FEW_COLOURS if few else MANY_COLOURS])
    if len(class_names) > len(palette):
        subtitle += "; colours repeat"
    colours = palette[labels % len(palette)]
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    tall = float(np.clip(span[1] / span[0], 0.6, 1.2))
    side = float(np.clip(0.62 / np.sqrt(max(len(pictured), 1)), 0.03, 0.075))  # of a map that is 1 wide
    inset = side / 2 + 0.005
    places = inset + (coordinates - low) / span * (np.array([1, tall]) - 2 * inset)
    laid = place_without_overlap(places[pictured], 1.07 * side)
    corners = places[pictured[laid]] - side / 2
    with paper_style():
        # Constrained layout leaves no room above a title: the area for it ends below the figure's edge.
        layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.975))
        figure = Figure(figsize=(WIDTH, WIDTH * tall + 0.6 + 0.3 * few), layout=layout)
        axes = figure.add_subplot(xticks=[], yticks=[])
        axes.spines[:].set(color="#cccccc", linewidth=0.6)
        axes.scatter(places[:, 0], places[:, 1], s=13, c=colours, linewidths=0, alpha=0.85)
        frames = []
        for image, (x, y) in zip(thumbnails[laid], corners, strict=True):
            left, right, bottom, top = extent = fitted(image, x, x + side, y, y + side)
            axes.imshow(as_rgb(image), extent=extent, interpolation="antialiased", zorder=3)
            frames.append(Rectangle((left, bottom), right - left, top - bottom))
        edges = colours[pictured[laid]]
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=edges, lw=1.3, zorder=4))
        axes.set(xlim=(0, 1), ylim=(0, tall), aspect="equal")
        axes.set_title(title, fontsize=13, weight="bold", loc="left", pad=21)
        axes.text(0, 1.012, subtitle, fontsize=9, color=FAINT, transform=axes.transAxes)
        if few:
            handles = [
                Patch(color=colour, label=wrapped(name, 24, 2))
                for name, colour in zip(class_names, palette, strict=False)
            ]
            figure.legend(handles=handles, loc="outside lower left", ncols=5, frameon=False, fontsize=9)
        save(figure, path)
    return pictured[laid]
