"""Reading image files of every kind, naming those that cannot be read, and resizing to uint8 pixels of one size."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.data.images import RESIZE_MODES, FileReader, read_image, to_pixels
from lifted_lightning.errors import UserError

RED = (200, 30, 20)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    return value if isinstance(value, tuple) else (value,)


def test_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it
    image.save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png")
    assert found.size == (2, 4)
    assert pixel(found, 1, 0) == RED


def test_cmyk(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg")
    assert found.mode == "RGB"
    assert np.allclose(pixel(found, 4, 4), RED, atol=6)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits(tmp_path: Path, ending: str) -> None:
    Image.fromarray(np.full((3, 3), 200 * 257, dtype=np.uint16)).save(tmp_path / f"a.{ending}")
    found = read_image(tmp_path / f"a.{ending}")
    assert (found.mode, pixel(found)) == ("L", (200,))


def test_16_bits_of_dark_images_are_on_the_same_scale(tmp_path: Path) -> None:
    for value, expected in ((200, 0), (300, 1), (65535, 255)):
        Image.fromarray(np.full((3, 3), value, dtype=np.uint16)).save(tmp_path / "a.png")
        assert pixel(read_image(tmp_path / "a.png")) == (expected,)


def test_more_than_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 70_000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="more than 16 bits"):
        read_image(tmp_path / "a.tif")


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    plain, clear = read_image(tmp_path / "plain.png"), read_image(tmp_path / "clear.png")
    assert [pixel(plain), pixel(plain, 1)] == [RED, (0, 0, 0)]
    assert [pixel(clear), pixel(clear, 1)] == [RED, (255, 255, 255)]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in (RED, "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(read_image(tmp_path / "a.gif")) == RED


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (*RED, 0)), ("LA", (10, 0))])
def test_transparent_is_white(tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
    Image.new(mode, (3, 3), colour).save(tmp_path / "a.png")
    assert pixel(read_image(tmp_path / "a.png").convert("RGB")) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour", "grey"), [("L", 77, 77), ("1", 1, 255)])
def test_grey_stays_grey(tmp_path: Path, mode: str, colour: int, grey: int) -> None:
    Image.new(mode, (3, 3), colour).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert (found.mode, pixel(found)) == ("L", (grey,))


def broken_file(path: Path, kind: str) -> None:
    Image.effect_noise((40, 40), 80).save(path, "JPEG")
    content = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"no image at all", "truncated": content[: len(content) // 2]}[kind])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "is empty"),
        ("text", "is no image"),
        ("truncated", "truncated"),
        ("missing", "no such file"),
        ("folder", "is a folder"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "ein Bild ä.jpg"
    broken_file(path, kind)
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reader_travels_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "über uns").mkdir()
    Image.new("RGB", (2, 2), RED).save(tmp_path / "über uns" / "a b.png")
    reader = pickle.loads(pickle.dumps(FileReader(tmp_path)))
    assert pixel(reader("über uns/a b.png")) == RED


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


def test_the_first_frame_of_an_animation_as_pixels(tmp_path):
    frames = [colours().convert("L"), Image.new("L", (60, 40), 0)]
    animated = stored(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    close(animated, 4, channels=1)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparent_is_white_as_pixels(tmp_path, kind):
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
