"""The public names of this room, each once."""

from .augment import check_augment as check_augment
from .datasets import check_dataset as check_dataset
from .findings import Finding as Finding
from .findings import Findings as Findings
from .loss import check_loss as check_loss
from .networks import check_network as check_network
from .samplers import check_sampler as check_sampler
