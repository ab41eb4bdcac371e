"""Data sets, one a file; importing this package makes their names known to the command line."""

from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.datasets.cars196 import Cars196
from lifted_lightning.data.datasets.cub200 import CUB200
from lifted_lightning.data.datasets.glyphs import Glyphs
from lifted_lightning.data.datasets.inshop import InShop
from lifted_lightning.data.datasets.omniglot import Omniglot
from lifted_lightning.data.datasets.own import ImageFolder, TableFile
from lifted_lightning.data.datasets.sop import StanfordOnlineProducts

__all__ = [
    "CUB200",
    "Cars196",
    "Glyphs",
    "ImageFolder",
    "InShop",
    "Omniglot",
    "RetrievalDataset",
    "StanfordOnlineProducts",
    "TableFile",
    "data_root",
]
