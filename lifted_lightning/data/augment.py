"""Batched augmentation on the device, from random numbers that do not depend on rank, worker or order.

``draw(key, global_batch)`` gives one row of uniform numbers for each image of the *global* batch; calling the
module with a slice of those rows transforms just these images as one process would have done.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lifted_lightning.data.images import Size, sides
from lifted_lightning.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STREAM = 1  # batches are drawn from (seed, epoch, step) too, and must not be the same numbers
NUM_DRAWS = 8  # columns: 0 mirror, 1-4 geometry, 5-7 brightness, contrast, saturation


def draw(key: tuple[int, ...], global_batch: int) -> Tensor:
    """The random numbers of one step.

    Args:
        key: (seed, epoch, step), each at least 0; of further views of the same images the view's number, too.
        global_batch: number of images of the batch over all ranks.

    Returns:
        (global_batch, 8) float32 in [0, 1), on the CPU. Row i depends on key and i alone.
    """
    return torch.from_numpy(np.random.default_rng((*key, STREAM)).random((global_batch, NUM_DRAWS), dtype=np.float32))


class Augmentation(nn.Module):
    """What all augmentations share: draws, mirror, colour, centre crop for evaluation, normalisation.

    Args:
        size: side of the output in pixels, or ``[height, width]``; None keeps the input's height and width.
        mirror: flip every second image, on average, left to right.
        colour_jitter: strength s: brightness, contrast and saturation are each scaled by a factor that is
            uniform in [1-s, 1+s]. 0 leaves colours alone.
        mean: per channel mean of pixel values in [0, 1]; by default ImageNet's, and 0.5 for one channel.
        std: per channel standard deviation, likewise.

    Raises:
        UserError: for a size, strength or statistics that cannot be.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: Size | None = None,
        mirror: bool = True,
        colour_jitter: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= colour_jitter <= 1:
            raise UserError(f"augmentation colour_jitter={colour_jitter}: give a strength from 0 to 1")
        if (mean is None) != (std is None):
            raise UserError("augmentation: give both mean and std, or neither")
        self.size = None if size is None else sides(size, "augmentation size")
        self.mirror = mirror
        self.colour_jitter = colour_jitter
        self.given_statistics = mean is not None and std is not None
        self.register_buffer("mean", torch.empty(0), persistent=False)
        self.register_buffer("std", torch.empty(0), persistent=False)
        self.set_statistics(IMAGENET_MEAN if mean is None else mean, IMAGENET_STD if std is None else std)

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise with these statistics from now on: one value a channel, of pixel values in [0, 1]."""
        if not mean or len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UserError(f"augmentation mean={list(mean)}, std={list(std)}: one of each a channel, finite, std > 0")
        self.mean = torch.tensor(mean, dtype=self.mean.dtype, device=self.mean.device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=self.std.dtype, device=self.std.device).view(1, -1, 1, 1)

    def match(self, network: nn.Module, size: tuple[int, int] | None = None) -> None:
        """Normalise as a network expects (its ``mean`` and ``std``), unless statistics were given; tell it the size.

        Args:
            network: is told height and width of what it will see, if it has a ``set_image_size``.
            size: of the images, where the augmentation leaves it as it is.
        """
        mean, std = getattr(network, "mean", None), getattr(network, "std", None)
        if mean is not None and std is not None and not self.given_statistics:
            self.set_statistics(mean, std)
        tell, size = getattr(network, "set_image_size", None), self.size or size
        if tell is not None and size is not None:
            tell(size)

    def draw(self, key: tuple[int, ...], global_batch: int) -> Tensor:
        """The random numbers of one step, see ``draw``."""
        return draw(key, global_batch)

    def forward(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Transform and normalise.

        Args:
            images: (b, C, H, W) uint8.
            draws: (b, 8) on the CPU, these images' rows of ``draw``; None evaluates: centre crop, nothing random.

        Returns:
            (b, C, h, w) in the dtype of ``mean`` (float32 unless the module was converted), channels_last.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (b, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if draws is None:
            return self.normalised(self.centre(images))
        if draws.shape != (len(images), NUM_DRAWS):
            raise ValueError(f"draws are {tuple(draws.shape)}, want ({len(images)}, {NUM_DRAWS})")
        images = self.transform(images, draws)
        if self.colour_jitter:
            factors = 1 + self.colour_jitter * (2 * draws[:, 5:] - 1)
            images = jittered(images, factors.to(images.device, non_blocking=True))
        return self.normalised(images)

    def transform(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop and mirror (b, C, H, W) uint8 images by their draws; float results hold values in [0, 255].

        The draws (b, 8) are on the CPU, where reading them waits for no device.
        """
        raise NotImplementedError

    def mirrored(self, draws: Tensor) -> Tensor:
        """(b,) bool: which images are to be flipped."""
        return (draws[:, 0] < 0.5) if self.mirror else torch.zeros_like(draws[:, 0], dtype=torch.bool)

    def output_size(self, images: Tensor) -> tuple[int, int]:
        return self.size or (images.shape[2], images.shape[3])

    def centre(self, images: Tensor) -> Tensor:
        """(b, C, h, w): the middle of each image, at the output size."""
        top, left = self.margins(images)
        h, w = self.output_size(images)
        return images[:, :, top // 2 : top // 2 + h, left // 2 : left // 2 + w]

    def margins(self, images: Tensor) -> tuple[int, int]:
        """How much higher and wider than the output the images are."""
        (h, w), (height, width) = self.output_size(images), images.shape[2:]
        if h > height or w > width:
            raise UserError(f"augmentation size {h}x{w}: images of {height}x{width} are smaller; lower it")
        return height - h, width - w

    def normalised(self, images: Tensor) -> Tensor:
        mean, std = self.mean, self.std
        if images.shape[1] == 1 and not self.given_statistics:
            mean, std = mean.new_full((), 0.5), std.new_full((), 0.5)
        elif mean.shape[1] != images.shape[1]:
            raise UserError(f"augmentation mean and std: {mean.shape[1]} values for {images.shape[1]} channels")
        b, c, h, w = images.shape
        # Rows of all pixels and channels give long inner loops, a broadcast over 3 channels short ones.
        scale = (1 / (255 * std)).reshape(-1).expand(c).repeat(w)
        shift = (mean / std).reshape(-1).expand(c).repeat(w)
        rows = images.permute(0, 2, 3, 1).reshape(b * h, w * c).to(mean.dtype)
        return rows.mul_(scale).sub_(shift).view(b, h, w, c).permute(0, 3, 1, 2)


class CropMirror(Augmentation):
    """A random crop, mirrored or not: the paper's augmentation (Song et al. 2016: 256 to 227 pixels).

    Pixels are copied, not interpolated.
    """

    def transform(self, images: Tensor, draws: Tensor) -> Tensor:
        """See base class."""
        (top, left), (h, w) = self.margins(images), self.output_size(images)
        b, c, height, width = images.shape
        # A view of the windows at all offsets, in whatever row or image; choosing some copies only those.
        pixels = images.permute(0, 2, 3, 1).contiguous()
        offsets = b * height * width - (h - 1) * width - w + 1
        windows = pixels.as_strided((offsets, h, w, c), (c, width * c, c, 1))
        y = (draws[:, 1] * (top + 1)).long() + height * torch.arange(b, device=draws.device)
        chosen = y * width + (draws[:, 2] * (left + 1)).long()
        crops = windows.index_select(0, chosen.to(images.device, non_blocking=True))
        if self.mirror:
            flip = self.mirrored(draws).nonzero()[:, 0].to(images.device, non_blocking=True)
            crops.index_copy_(0, flip, crops.index_select(0, flip).flip(2))
        return crops.permute(0, 3, 1, 2)


class ResizedCrop(Augmentation):
    """A crop of random area, shape and place, resampled bilinearly to the output size.

    Args:
        size: side of the output in pixels, or ``[height, width]``; None keeps the input's height and width.
        scale: least and greatest area of the crop, as a share of the image.
        ratio: least and greatest width/height of the crop, drawn log-uniformly, as a multiple of the output's.
        **kwargs: mirror, colour_jitter, mean, std, as for every ``Augmentation``.
    """

    def __init__(
        self,
        size: Size | None = None,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        **kwargs: Any,
    ) -> None:
        super().__init__(size, **kwargs)
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1] < math.inf):
            raise UserError(f"ResizedCrop scale={scale}, ratio={ratio}: want 0 < low <= high, scale at most 1")
        self.scale = scale
        self.ratio = ratio

    def transform(self, images: Tensor, draws: Tensor) -> Tensor:
        """See base class."""
        draws = draws.to(images.device, non_blocking=True)
        out_height, out_width = self.output_size(images)
        aspect = images.shape[3] / images.shape[2] / (out_width / out_height)
        width, height, x, y = crop_box(draws, aspect, self.scale, self.ratio)
        zero = torch.zeros_like(x)
        width = torch.where(self.mirrored(draws), -width, width)
        theta = torch.stack([width, zero, x, zero, height, y], dim=1).view(-1, 2, 3)
        return resampled(images, theta, self.output_size(images))


class Affine(Augmentation):
    """A centre crop that is randomly shifted, turned and scaled, for drawn characters and the like.

    What lies outside the image repeats its border.

    Args:
        size: side of the output in pixels, or ``[height, width]``; None keeps the input's height and width.
        shift: greatest shift in each direction, as a share of the image's side.
        rotation: greatest turn either way, in degrees.
        scale: greatest enlargement, and shrinking by as much: 0.2 is a factor from 1/1.2 to 1.2.
        mirror: flip every second image, on average, left to right; off by default.
        **kwargs: colour_jitter, mean, std, as for every ``Augmentation``.
    """

    def __init__(
        self,
        size: Size | None = None,
        shift: float = 0.1,
        rotation: float = 10.0,
        scale: float = 0.1,
        mirror: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, mirror, **kwargs)
        if not all(0 <= value < math.inf for value in (shift, rotation, scale)):
            raise UserError(f"Affine shift={shift}, rotation={rotation}, scale={scale}: give finite numbers from 0 up")
        self.shift = shift
        self.rotation = rotation
        self.scale = scale

    def transform(self, images: Tensor, draws: Tensor) -> Tensor:
        """See base class."""
        self.margins(images)
        (h, w), (height, width) = self.output_size(images), images.shape[2:]
        draws = draws.to(images.device, non_blocking=True)
        signed = 2 * draws[:, 1:5] - 1
        angle = signed[:, 2] * math.radians(self.rotation)
        zoom = torch.exp(-signed[:, 3] * math.log1p(self.scale))
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        flip = torch.where(self.mirrored(draws), -1.0, 1.0)
        rows = [flip * cos * w / width, -sin * h / width, 2 * self.shift * signed[:, 0]]
        rows += [flip * sin * w / height, cos * h / height, 2 * self.shift * signed[:, 1]]
        return resampled(images, torch.stack(rows, dim=1).view(-1, 2, 3), (h, w))


def crop_box(
    draws: Tensor, aspect: float, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random crops of images whose width is ``aspect`` times their height.

    Args:
        draws: (b, 8) in [0, 1).
        aspect: the images' width/height, as a multiple of that which a crop of ratio 1 is to have.
        scale: least and greatest area, as a share of the image.
        ratio: least and greatest width/height of the crop, drawn log-uniformly.

    Returns:
        width and height (b,) in units of the image's, and the centre's x and y (b,), where the image spans -1
        to 1. A crop that would not fit is cut to the image's side.
    """
    area = scale[0] + draws[:, 1] * (scale[1] - scale[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    stretch = torch.exp((low + draws[:, 2] * (high - low)) / 2)
    width = (area / aspect).sqrt().mul(stretch).clamp(max=1)
    height = (area * aspect).sqrt().div(stretch).clamp(max=1)
    return width, height, (2 * draws[:, 3] - 1) * (1 - width), (2 * draws[:, 4] - 1) * (1 - height)


def resampled(images: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear samples of (b, C, H, W) uint8 images on the affine grids ``theta`` (b, 2, 3), as float32."""
    grid = functional.affine_grid(theta, [len(images), images.shape[1], *size], align_corners=False)
    pixels = images.to(grid.dtype, memory_format=torch.channels_last)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, contrast and saturation of (b, C, H, W) images in [0, 255] by ``factors`` (b, 3)."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    pixels = (images.to(factors.dtype) * brightness).clamp(0, 255)
    pixels = torch.lerp(grey(pixels).mean(dim=(1, 2, 3), keepdim=True), pixels, contrast).clamp(0, 255)
    return torch.lerp(grey(pixels), pixels, saturation).clamp(0, 255)


def grey(images: Tensor) -> Tensor:
    """(b, 1, H, W) luminance of (b, C, H, W) images with 1 or 3 channels."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
