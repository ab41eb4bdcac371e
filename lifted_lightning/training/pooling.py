"""How what a trunk knows of each place of an image becomes one vector; a paper's own way is one class more."""

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError


class Pooling(nn.Module):
    """What all poolings share. One of your own is a subclass, given by its class path.

    ``build`` and ``forward`` are all of it. Its parameters learn at the head's rate.
    """

    def build(self, channels: int) -> int:
        """Make the layers whose size hangs on the trunk; called once, before anything else.

        Args:
            channels: C, how many numbers the trunk gives of each place.

        Returns:
            F, how many features the pooling gives of an image; as many if it is not overridden.
        """
        return channels

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """Pool a batch.

        Args:
            places: (B, C, H, W), the trunk's last map: a convolution's cells, or a transformer's patches in their grid.
            class_token: (B, C), of a transformer that has one; else None.

        Returns:
            (B, F) features.
        """
        raise NotImplementedError


class Average(Pooling):
    """The mean of all places."""

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        return places.mean((2, 3))


class Max(Pooling):
    """Of each channel the largest value at any place."""

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        return places.amax((2, 3))


class AverageMax(Pooling):
    """The sum of mean and largest value, as the released code of proxy anchor has it (Kim et al., CVPR 2020)."""

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        return places.mean((2, 3)) + places.amax((2, 3))


class GeM(Pooling):
    """Generalised mean, (mean of x^p)^(1/p), of values above 0 (Radenovic et al., TPAMI 2019).

    The mean at p = 1; near the largest value at a large p.

    Args:
        p: the exponent to begin with; it is learnt.
        least: what is below counts as this, for powers of what is negative are not real.
    """

    def __init__(self, p: float = 3.0, least: float = 1e-6) -> None:
        super().__init__()
        if not (0 < p < float("inf") and 0 < least < float("inf")):
            raise UserError(f"GeM p={p}, least={least}: give finite numbers above 0")
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.least = least

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        with torch.autocast(places.device.type, enabled=False):  # powers leave the range of half precision
            given, dtype = (torch.promote_types(places.dtype, other) for other in (self.p.dtype, torch.float32))
            places = places.to(dtype).clamp(min=self.least)
            largest = places.detach().amax((2, 3), keepdim=True)  # powers of shares of it do not leave float32's
            pooled = (places / largest).pow(self.p).mean((2, 3)).pow(1 / self.p) * largest.flatten(1)
        return pooled.to(given)  # the head's where all is in half precision


class ClassToken(Pooling):
    """A transformer's class token alone."""

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        if class_token is None:
            raise UserError(f"pooling {type(self).__name__}: the trunk has no class token; give Average, Max or GeM")
        return class_token


class ClassAverage(ClassToken):
    """A transformer's class token beside the mean of its patches, twice as many features (DINOv2's linear probe)."""

    def build(self, channels: int) -> int:
        """See base class."""
        return 2 * channels

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """See base class."""
        return torch.cat([super().forward(places, class_token), places.mean((2, 3))], dim=1)
