"""Reading image files of every kind, naming those that cannot be read, and resizing to uint8 pixels of one size."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.images import (
    RESIZE_MODES,
    content_box,
    image_or_error,
    normalized,
    read_image,
    to_pixels,
)
from lifted_lightning.errors import UserError

RED = (200, 30, 20)
SIZE = 24


def read(path: Path, channels: int = 3) -> Image.Image:
    found = image_or_error(lambda: read_image(path), str(path), channels)
    assert isinstance(found, Image.Image), found
    return found


def why_not(path: Path) -> str:
    found = image_or_error(lambda: read_image(path), str(path), 3)
    assert isinstance(found, UserError)
    return str(found)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_upright(tmp_path: Path, ending: str) -> None:
    image = Image.new("RGB", (64, 32))
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it
    image.save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    found = read(tmp_path / f"a.{ending}")
    assert found.size == (32, 64)
    assert np.allclose(pixel(found, 24, 8), RED, atol=12)
    assert np.allclose(pixel(found, 8, 8), 0, atol=12)


def test_an_image_that_is_given_stays_as_it_is() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    found = image_or_error(lambda: image, "mine", 1)
    assert isinstance(found, Image.Image)
    assert (found.size, found.mode) == ((2, 4), "L")
    assert (image.size, image.mode) == ((4, 2), "RGB")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_of_bright_and_dark_images_are_on_one_scale(tmp_path: Path, ending: str) -> None:
    for value, expected in ((200, 0), (300, 1), (200 * 257, 200), (65535, 255)):
        Image.fromarray(np.full((3, 3), value, dtype=np.uint16)).save(tmp_path / f"a.{ending}")
        assert pixel(read(tmp_path / f"a.{ending}", 1)) == (expected,)


@pytest.mark.parametrize(("value", "reason"), [(np.int32(70_000), "more than 16 bits"), (np.float32(0), "floating")])
def test_pixels_of_unknown_range(tmp_path: Path, value: np.generic, reason: str) -> None:
    Image.fromarray(np.full((3, 3), value)).save(tmp_path / "a.tif")
    assert reason in why_not(tmp_path / "a.tif")


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    plain, clear = read(tmp_path / "plain.png"), read(tmp_path / "clear.png")
    assert [pixel(plain), pixel(plain, 1)] == [RED, (0, 0, 0)]
    assert [pixel(clear), pixel(clear, 1)] == [RED, (255, 255, 255)]


CLEAR, GREY = (255, 255, 255), (77, 77, 77)


@pytest.mark.parametrize(
    ("image", "ending", "channels", "expected"),
    [
        (Image.new("RGB", (3, 3), RED).convert("CMYK"), "jpg", 3, RED),
        (Image.new("RGBA", (3, 3), (*RED, 0)), "png", 3, CLEAR),
        (Image.new("LA", (3, 3), (10, 0)), "png", 3, CLEAR),
        *((Image.new("L", (3, 3), 77), "png", channels, GREY[:channels]) for channels in (1, 3)),
        *((Image.new("RGB", (3, 3), GREY), "png", channels, GREY[:channels]) for channels in (1, 3)),
        *((Image.new("1", (3, 3), 1), "png", channels, CLEAR[:channels]) for channels in (1, 3)),
    ],
)
def test_all_kinds_of_pixels(
    tmp_path: Path, image: Image.Image, ending: str, channels: int, expected: tuple[int, ...]
) -> None:
    image.save(tmp_path / f"a.{ending}", quality=95)
    found = read(tmp_path / f"a.{ending}", channels)
    assert found.mode == ("L" if channels == 1 else "RGB")
    assert np.allclose(pixel(found), expected, atol=6 if ending == "jpg" else 0)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in (RED, "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(read(tmp_path / "a.gif")) == RED


def broken_file(path: Path, kind: str) -> None:
    Image.effect_noise((40, 40), 80).save(path, "JPEG")
    content = path.read_bytes()
    path.unlink()
    if kind in ("folder", "pipe"):
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"no image at all", "truncated": content[: len(content) // 2]}[kind])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "is empty"), ("text", "no image"), ("truncated", "truncated"), ("missing", "No such file"),
        ("folder", "a folder"), ("pipe", "no file"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "ein Bild ä.jpg"
    broken_file(path, kind)
    message = why_not(path)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message


def test_an_image_that_is_opened_and_not_read_yet(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    broken_file(path, "truncated")
    found = image_or_error(lambda: Image.open(path), "mine", 3)
    assert str(found).startswith("mine: cannot be read (")
    assert "truncated" in str(found)


def test_memory_that_runs_out_is_no_broken_image() -> None:
    def read() -> Image.Image:
        raise MemoryError

    with pytest.raises(MemoryError):
        image_or_error(read, "large", 3)


# Resizing


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


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_rectangles(mode):
    """60 pixels high and 20 wide, of a smooth picture of 40 x 60 pixels."""
    pixels = to_pixels(colours(), (60, 20), mode).astype(int)
    assert pixels.shape == (60, 20, 3)
    if mode == "squash":
        wanted = np.asarray(colours().resize((20, 60), Image.Resampling.BILINEAR))
    elif mode == "crop":  # a third as wide as high
        wanted = np.asarray(colours().resize((20, 60), Image.Resampling.BILINEAR, box=(70 / 3, 0, 110 / 3, 40)))
    else:
        wanted = np.full((60, 20, 3), 255)
        wanted[23:36] = np.asarray(colours().resize((20, 13), Image.Resampling.BILINEAR))
    assert np.abs(pixels - wanted).max() <= 1


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_is_read_where_pillow_heif_is_and_else_says_so(tmp_path, monkeypatch, name):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), RED)).save(tmp_path / name, quality=95)
    found = read(tmp_path / name)
    assert (found.size, found.mode) == ((64, 48), "RGB")
    assert np.allclose(pixel(found, 4, 4), RED, atol=12)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert why_not(tmp_path / name).endswith(f"{name}: cannot be read (HEIC: pip install pillow-heif)")


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
def test_pixels_are_made_of_others_as_asked_for(interpolation):
    wanted = np.asarray(colours().resize((SIZE, SIZE), Image.Resampling[interpolation.upper()]))
    assert np.array_equal(to_pixels(colours(), SIZE, "squash", interpolation), wanted)
    square = Image.fromarray(np.asarray(colours())[:40, :40] // 2)  # without white, so that nothing is cut
    assert np.array_equal(*(to_pixels(square, SIZE, mode, interpolation) for mode in ("crop", "pad")))


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
    rows = (to_pixels(line, SIZE, "pad") == (10, 20, 30)).all(axis=(1, 2))
    assert rows.sum() == rows[SIZE // 2 - 1 : SIZE // 2 + 1].sum() == 1


def test_pad_crops_to_what_any_channel_has():
    page = Image.new("RGB", (50, 50), "white")
    page.putpixel((10, 20), (255, 255, 244))  # darker than a JPEG's white in one channel
    page.putpixel((39, 29), (0, 255, 255))
    page.putpixel((2, 2), (245, 255, 255))
    assert content_box(page) == (10, 20, 40, 30)
