"""The tensor operations of the augmentations: boxes, resampling, colours."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def crop_box(
    draws: Tensor, aspect: float, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random crops of images whose width is ``aspect`` times their height.

    Args:
        draws: (b, 8) in [0, 1).
        aspect: the images' width/height.
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
