"""Data sets, one a file; importing this package makes their names known to the command line."""

from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.datasets.folder import ImageFolder
from lifted_lightning.data.datasets.glyphs import Glyphs
from lifted_lightning.data.datasets.omniglot import Omniglot

__all__ = ["Glyphs", "ImageFolder", "Omniglot", "RetrievalDataset", "data_root"]
