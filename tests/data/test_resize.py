"""Images to uint8 pixels of one size."""

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.images import RESIZE_MODES, content_box, normalized, to_pixels

SIZE = 24


def colours(height: int = 40, width: int = 60) -> Image.Image:
    """A smooth picture whose left is dark and right is bright, redder to the bottom."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (5, 90), (24, 24)])
def test_shape_and_type(mode, channels, shape):
    pixels = to_pixels(normalized(colours(*shape), channels), SIZE, mode)
    assert pixels.shape == (SIZE, SIZE, channels)
    assert pixels.dtype == np.uint8


def test_squash_is_a_plain_resize():
    wanted = np.asarray(colours().resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.array_equal(to_pixels(colours(), SIZE, "squash"), wanted)


def test_crop_is_the_centre_of_the_short_side():
    wanted = np.asarray(colours().crop((10, 0, 50, 40)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.abs(to_pixels(colours(), SIZE, "crop").astype(int) - wanted).max() <= 1


def test_pad_cuts_the_white_margin_and_pads_with_white():
    page = Image.new("RGB", (100, 80), "white")
    page.paste(Image.new("RGB", (48, 24), (10, 20, 30)), (37, 5))
    pixels = to_pixels(page, SIZE, "pad")
    assert (pixels[6:18] == (10, 20, 30)).all()
    assert (pixels[:6] == 255).all()
    assert (pixels[18:] == 255).all()
    assert (to_pixels(page.convert("L"), SIZE, "pad")[:6] == 255).all()


def test_pad_of_a_white_image_is_white():
    assert (to_pixels(Image.new("RGB", (30, 20), "white"), SIZE, "pad") == 255).all()


def test_pad_keeps_a_line():
    line = Image.new("RGB", (100, 1), (10, 20, 30))
    assert (to_pixels(line, SIZE, "pad")[SIZE // 2 - 1] == (10, 20, 30)).all() or (
        to_pixels(line, SIZE, "pad")[SIZE // 2] == (10, 20, 30)
    ).all()


def test_pad_crops_to_what_any_channel_has():
    page = Image.new("RGB", (50, 50), "white")
    page.putpixel((10, 20), (255, 255, 244))  # darker than a JPEG's white in one channel
    page.putpixel((39, 29), (0, 255, 255))
    page.putpixel((2, 2), (245, 255, 255))
    assert content_box(page) == (10, 20, 40, 30)
