"""Every kind of image that people's folders hold, to uint8 pixels of one size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.images import RESIZE_MODES, to_pixels

SIZE = 24


def colours(height: int = 40, width: int = 60) -> Image.Image:
    """A smooth picture whose left is dark and right is bright, redder to the bottom."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def stored(image: Image.Image, file: Path, **options: object) -> Image.Image:
    """The image as it comes back from a file."""
    image.save(file, **options)
    return Image.open(file)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (5, 90), (24, 24)])
def test_shape_and_type(mode, channels, shape):
    pixels = to_pixels(colours(*shape), SIZE, mode, channels)
    assert pixels.shape == (SIZE, SIZE, channels)
    assert pixels.dtype == np.uint8


def test_squash_is_a_plain_resize():
    wanted = np.asarray(colours().resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.array_equal(to_pixels(colours(), SIZE, "squash", 3), wanted)


def test_crop_is_the_centre_of_the_short_side():
    wanted = np.asarray(colours().crop((10, 0, 50, 40)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.abs(to_pixels(colours(), SIZE, "crop", 3).astype(int) - wanted).max() <= 1


def test_pad_cuts_the_white_margin_and_pads_with_white():
    page = Image.new("RGB", (100, 80), "white")
    page.paste(Image.new("RGB", (48, 24), (10, 20, 30)), (37, 5))
    pixels = to_pixels(page, SIZE, "pad", 3)
    assert (pixels[6:18] == (10, 20, 30)).all()
    assert (pixels[:6] == 255).all()
    assert (pixels[18:] == 255).all()
    assert (to_pixels(page, SIZE, "pad", 1)[:6] == 255).all()


def test_pad_of_a_white_image_is_white():
    assert (to_pixels(Image.new("RGB", (30, 20), "white"), SIZE, "pad", 3) == 255).all()


def close(image: Image.Image, tolerance: float = 3, channels: int = 3) -> None:
    wanted = to_pixels(colours() if channels == 3 else colours().convert("L"), SIZE, "squash", channels)
    got = to_pixels(image, SIZE, "squash", channels)
    assert np.abs(got.astype(int) - wanted).mean() < tolerance


def test_file_kinds(tmp_path):
    grey = colours().convert("L")
    close(stored(colours(), tmp_path / "a b ä.jpg", quality=95))
    close(stored(colours().convert("CMYK"), tmp_path / "cmyk.jpg", quality=95), 6)
    close(stored(colours().quantize(256), tmp_path / "palette.png"), 8)
    close(stored(grey, tmp_path / "grey.png"), channels=1)
    close(stored(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 7), tmp_path / "16.png"), channels=1)
    close(stored(Image.fromarray(np.asarray(grey).astype(np.int32) * 256 + 7), tmp_path / "32.tif"), channels=1)
    assert np.ptp(to_pixels(stored(grey, tmp_path / "grey2.png"), SIZE, "squash", 3), axis=2).max() == 0
    bits = to_pixels(stored(grey.convert("1"), tmp_path / "bits.png"), SIZE, "squash", 1)
    assert bits[:, :8].mean() < bits[:, -8:].mean()


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [colours().convert("L"), Image.new("L", (60, 40), 0)]
    animated = stored(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    close(animated, 4, channels=1)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparent_is_white(tmp_path, kind):
    image = colours().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 30, 40))
    image.putalpha(alpha)
    if kind == "LA":
        image = image.convert("LA")
    if kind == "palette":
        image = image.quantize(64)
    pixels = to_pixels(stored(image, tmp_path / "t.png"), SIZE, "squash", 3)
    assert (pixels[:, :11] == 255).all()
    assert (pixels[:, 13:] < 255).any()


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned = stored(colours(40, 40).rotate(90), tmp_path / "turned.jpg", exif=exif, quality=95)
    wanted = to_pixels(colours(40, 40), SIZE, "squash", 3)
    assert np.abs(to_pixels(turned, SIZE, "squash", 3).astype(int) - wanted).mean() < 3


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating point"):
        to_pixels(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), SIZE, "squash", 1)
