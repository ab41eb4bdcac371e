"""Data sets, one a file; importing this package makes their names known to the command line."""

from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.datasets.glyphs import Glyphs

__all__ = ["Glyphs", "RetrievalDataset", "data_root"]
