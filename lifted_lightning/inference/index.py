"""The index of embedded images: one ``.npz`` that numpy reads without pickle."""

import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic


@dataclass(frozen=True)
class EmbeddingIndex:
    """Embedded images, and what it takes to embed queries alike. Each attribute is an array of the file.

    Attributes:
        embeddings: (N, D) float32.
        paths: (N,) str, as they were given; relative ones are relative to ``folder``.
        labels: (N,) int64, indices into ``class_names``; -1 for an image that lies in no class folder.
        class_names: (C,) str, names of the folders that images lie in.
        folder: the absolute folder in which ``lifted embed`` ran.
        checkpoint: of the network, relative to ``folder`` or absolute.
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
        """Write the file, whole or not at all."""
        try:
            with atomic(path) as file:
                np.savez(file, allow_pickle=False, **asdict(self))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from error


def read_index(path: Path) -> EmbeddingIndex:
    """Read an index that ``lifted embed`` wrote.

    Raises:
        UserError: if there is no such file, or it is damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {
                field.name: file[field.name] if field.name in ARRAYS else file[field.name].item()
                for field in fields(EmbeddingIndex)
            }
    except FileNotFoundError:
        raise UserError(f"{path}: no such index; make one with lifted embed IMAGES --ckpt C --out {path}") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is no index of lifted embed, or is damaged; make it again") from error
    index = EmbeddingIndex(**arrays)
    count = len(index.paths)
    if index.embeddings.ndim != 2 or not len(index.embeddings) == len(index.labels) == count or not count:
        raise UserError(f"{path}: is damaged: its arrays do not fit one another; make it again")
    return index


ARRAYS = ("embeddings", "paths", "labels", "class_names")
