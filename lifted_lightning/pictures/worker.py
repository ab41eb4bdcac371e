"""Draws one picture, beside training: ``python -m lifted_lightning.pictures.worker KIND OUT PARENT < IN``.

IN is an ``.npz`` without pickled objects, as ``lifted_lightning.callbacks.pictures`` writes it. OUT is the PNG, which
appears whole or not at all. PARENT is the number of the process that it ends with. No torch is imported.
"""

import os
import sys
from pathlib import Path

import numpy as np

from lifted_lightning.pictures.confusions import draw_confusions
from lifted_lightning.pictures.gallery import draw_gallery
from lifted_lightning.pictures.tsne_map import draw_map, tsne
from lifted_lightning.processes import end_with_parent


def main(kind: str, target: Path) -> None:
    """Draw the picture that standard input describes."""
    with np.load(sys.stdin.buffer, allow_pickle=False) as file:
        inputs = {name: array if array.ndim else array.item() for name, array in file.items()}
    if kind == "tsne":
        coordinates = tsne(inputs.pop("embeddings"), inputs.pop("seed"), inputs.pop("perplexity"))
        draw_map(target, coordinates, **inputs)
    else:
        draw = draw_confusions if kind == "confusions" else draw_gallery
        draw(target, **inputs)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[3]))
    os.nice(10)  # training goes first
    main(sys.argv[1], Path(sys.argv[2]))
