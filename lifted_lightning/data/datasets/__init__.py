"""Data sets, one a file; importing this package makes their names known to the command line.

A new one in the package is its file and one line here.
"""

from lifted_lightning.data.datasets.base import RetrievalDataset as RetrievalDataset
from lifted_lightning.data.datasets.base import data_root as data_root
from lifted_lightning.data.datasets.cars196 import Cars196 as Cars196
from lifted_lightning.data.datasets.cub200 import CUB200 as CUB200
from lifted_lightning.data.datasets.glyphs import Glyphs as Glyphs
from lifted_lightning.data.datasets.inshop import InShop as InShop
from lifted_lightning.data.datasets.omniglot import Omniglot as Omniglot
from lifted_lightning.data.datasets.own import ImageFolder as ImageFolder
from lifted_lightning.data.datasets.own import TableFile as TableFile
from lifted_lightning.data.datasets.sop import StanfordOnlineProducts as StanfordOnlineProducts


def published() -> dict[str, RetrievalDataset]:
    """The data sets of this package that are not the user's own, by name."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, RetrievalDataset)]
    return {kind.name: kind() for kind in kinds if kind not in (RetrievalDataset, ImageFolder, TableFile)}
