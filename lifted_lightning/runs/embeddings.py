"""The file of embedded images that ``lifted predict`` and ``lifted embed`` write and ``lifted search`` reads.

It is one ``.npz``, which ``numpy.load`` reads without pickle.
"""

import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic

ARRAYS = {"embeddings": "f", "paths": "U", "labels": "i", "class_names": "U"}  # and their kinds; the others are scalars


@dataclass(frozen=True)
class Embeddings:
    """Embedded images, and what it takes to embed queries alike. Each attribute is an array of the file.

    Attributes:
        embeddings: (N, D) float32.
        paths: (N,) str, of the images; relative ones are relative to ``folder``. Names, where images are drawn.
        labels: (N,) int64, indices into ``class_names``; -1 for an image that lies in no class folder.
        class_names: (C,) str.
        folder: the absolute folder that paths start from.
        checkpoint: of the network, absolute; empty where it is untrained.
        checkpoint_sha256: of that file, in hexadecimal.
        size: side in pixels that images are brought to.
        resize: how they become square.
        channels: 1 for grey, 3 for colour.
        distance: ``euclidean`` or ``cosine``.
    """

    embeddings: npt.NDArray[np.float32]
    paths: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    class_names: npt.NDArray[np.str_]
    folder: str
    checkpoint: str
    checkpoint_sha256: str
    size: int
    resize: str
    channels: int
    distance: str

    def __len__(self) -> int:
        return len(self.embeddings)

    def file(self, row: int) -> str:
        """Where the image of a row is."""
        return os.path.join(self.folder, str(self.paths[row]))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: if embeddings are not finite, with how many; or if the file cannot be written.
        """
        infinite = int((~np.isfinite(self.embeddings).all(axis=1)).sum())
        if infinite:
            raise UserError(
                f"{path}: {infinite} of {len(self)} embeddings are not finite (NaN or infinity), so nothing is written: "
                "the network has diverged; take another checkpoint"
            )
        try:
            with atomic(path) as file:
                np.savez(file, allow_pickle=False, **asdict(self))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def read_embeddings(path: Path) -> Embeddings:
    """Read a file of embeddings.

    Raises:
        UserError: if there is no such file, or it is damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            values: dict[str, Any] = {
                field.name: file[field.name] if field.name in ARRAYS else file[field.name].item()
                for field in fields(Embeddings)
            }
        index = Embeddings(**values)
        right = all(values[name].dtype.kind == kind for name, kind in ARRAYS.items())
        right &= all(isinstance(values[field.name], field.type) for field in fields(Embeddings) if field.type in (int, str))  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"{path}: no such index; make one with lifted embed IMAGES --ckpt C --out {path}") from None
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        raise UserError(f"{path}: is no index of lifted embed, or is damaged; make it again") from error
    shapes = [values[name].shape for name in ARRAYS]
    fits = len(shapes[0]) == 2 and shapes[1] == shapes[2] == shapes[0][:1] and len(shapes[3]) == 1 and len(index) > 0
    if not (right and fits and -1 <= index.labels.min() <= index.labels.max() < len(index.class_names)):
        raise UserError(f"{path}: is damaged: its arrays do not fit one another; make it again")
    infinite = int((~np.isfinite(index.embeddings).all(axis=1)).sum())
    if infinite:
        raise UserError(f"{path}: {infinite} of {len(index)} embeddings are not finite; embed the images again")
    return index
