"""The file of embedded images that ``lifted predict`` and ``lifted embed`` write and ``lifted search`` reads.

It is one ``.npz``, which ``numpy.load`` reads without pickle.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic, writing

# What the file holds: of each array numpy's kind (f: numbers, i: whole ones, U: text) and its dimensions, if they are
# not one's choice.
KINDS = {
    "embeddings": "f2", "paths": "U1", "labels": "i1", "class_names": "U1", "folder": "U0", "checkpoint": "U0",
    "checkpoint_sha256": "U0", "size": "i", "resize": "U0", "channels": "i0", "distance": "U0",
}  # fmt: skip


@dataclass(frozen=True)
class Embeddings:
    """Embedded images, and what it takes to embed queries alike. Each attribute is an array of the file.

    Attributes:
        embeddings: (N, D) float32.
        paths: (N,) str, of the images; relative ones are relative to ``folder``. Names, where images are drawn.
        labels: (N,) int64, indices into ``class_names``; -1 for an image that lies in no class folder.
        class_names: (C,) str.
        folder: the absolute folder that paths start from.
        checkpoint: of the network, relative to ``folder`` or absolute; empty where it is untrained.
        checkpoint_sha256: of that file, in hexadecimal.
        size: in pixels, that images are brought to: a side, or height and width.
        resize: how they come to that shape.
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
    size: int | tuple[int, int]
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
        if infinite := _count_infinite(self.embeddings):
            raise UserError(
                f"{path}: is not written: {infinite} of {len(self)} embeddings are not finite (NaN or infinity): the "
                "network has diverged, or its weights are damaged; take another checkpoint"
            )
        with writing(str(path)), atomic(path) as file:
            np.savez(file, allow_pickle=False, **asdict(self))


def read_embeddings(path: Path) -> Embeddings:
    """Read a file of embeddings.

    Raises:
        UserError: if there is no such file, or it is damaged, or something else.
    """
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for whoever writes into it
            raise ValueError("no file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in KINDS}
        if not all(f"{arrays[name].dtype.kind}{arrays[name].ndim}".startswith(kind) for name, kind in KINDS.items()):
            raise ValueError("other arrays")
        arrays["embeddings"] = arrays["embeddings"].astype(np.float32, copy=False)
        index = Embeddings(**{name: array if array.ndim else array.item() for name, array in arrays.items()})
        alike = 0 < len(index) == len(index.paths) == len(index.labels) and index.distance in ("euclidean", "cosine")
        if not alike or index.labels.min() < -1 or index.labels.max() >= len(index.class_names):
            raise ValueError("arrays that do not fit together")
    except FileNotFoundError:
        raise UserError(f"{path}: no such index; make one with lifted embed IMAGES --ckpt C --out {path}") from None
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        raise UserError(f"{path}: is no index of lifted embed, or is damaged; make it again") from error
    if infinite := _count_infinite(index.embeddings):
        raise UserError(f"{path}: {infinite} of {len(index)} embeddings are not finite; embed the images again")
    return index


def _count_infinite(embeddings: npt.NDArray[np.float32]) -> int:
    return int((~np.isfinite(embeddings).all(axis=1)).sum())
