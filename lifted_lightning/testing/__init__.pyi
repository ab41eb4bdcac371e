"""The public names of this room, each once."""

from .findings import Finding as Finding
from .findings import Findings as Findings
from .loss import check_loss as check_loss
