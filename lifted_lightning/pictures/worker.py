"""The process that draws one picture beside training: ``python -m lifted_lightning.pictures.worker IN OUT``.

IN is an ``.npz`` without pickled objects, as written by ``lifted_lightning.callbacks.pictures``; it is
removed once it has been read. OUT is the PNG, which appears whole or not at all. No torch is imported.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lifted_lightning.pictures.gallery import draw_gallery
from lifted_lightning.pictures.tsne_map import draw_map, tsne


def main(source: Path, target: Path) -> None:
    """Draw the picture that a file describes."""
    with np.load(source, allow_pickle=False) as file:
        inputs = dict(file)
    source.unlink()
    if inputs.pop("kind") == "tsne":
        _draw_tsne(target, inputs)
    else:
        inputs["title"] = str(inputs["title"])
        draw_gallery(target, **inputs)


def _draw_tsne(target: Path, inputs: dict[str, Any]) -> None:
    coordinates = tsne(inputs.pop("embeddings"), int(inputs.pop("seed")), float(inputs.pop("perplexity")))
    inputs.update(title=str(inputs["title"]), subtitle=str(inputs["subtitle"]))
    draw_map(target, coordinates, **inputs)


if __name__ == "__main__":
    os.nice(10)  # training goes first
    main(Path(sys.argv[1]), Path(sys.argv[2]))
