"""Augmentation: exact copies of pixels, plain-loop resampling, and draws by place in the global batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lifted_lightning.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUM_DRAWS,
    Affine,
    Augmentation,
    CropMirror,
    ResizedCrop,
    draw,
    jittered,
)
from lifted_lightning.errors import UserError

RAW = {"mean": [0.0, 0.0, 0.0], "std": [1 / 255, 1 / 255, 1 / 255]}  # leaves pixel values as they are
RAW_GREY = {"mean": [0.0], "std": [1 / 255]}


def random_images(b: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    """(b, c, h, w) uint8 in channels_last memory."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, h, w, c), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def crops_one_by_one(images: Tensor, draws: Tensor, size: tuple[int, int], mirror: bool) -> Tensor:
    out = []
    for image, u in zip(images, draws.tolist(), strict=True):
        top = math.floor(u[1] * (image.shape[1] - size[0] + 1))
        left = math.floor(u[2] * (image.shape[2] - size[1] + 1))
        crop = image[:, top : top + size[0], left : left + size[1]]
        out.append(crop.flip(2) if mirror and u[0] < 0.5 else crop)
    return torch.stack(out)


@given(
    b=st.integers(1, 5),
    c=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    mirror=st.booleans(),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_crop_mirror_copies_pixels(b, c, size, more, mirror, layout):
    images = random_images(b, c, size[0] + more[0], size[1] + more[1]).contiguous(memory_format=layout)
    augment = CropMirror(size, mirror=mirror)
    draws = augment.draw((1, 2, 3), b)
    assert torch.equal(augment.transform(images, draws), crops_one_by_one(images, draws, size, mirror))


def test_extreme_draws_stay_inside():
    images = random_images(2, 3, 9, 9)
    draws = torch.full((2, NUM_DRAWS), 1 - 2**-24)
    draws[0] = 0
    crops = CropMirror(4, mirror=False).transform(images, draws)
    assert torch.equal(crops[0], images[0, :, :4, :4])
    assert torch.equal(crops[1], images[1, :, 5:, 5:])


AUGMENTATIONS = [
    CropMirror(6),
    CropMirror(),
    ResizedCrop(6, colour_jitter=0.4),
    Affine(6, rotation=30, mirror=True),
]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda a: type(a).__name__)
def test_evaluation_is_the_normalised_centre(augment: Augmentation):
    images = random_images(3, 3, 8, 8)
    centre = images[:, :, 1:7, 1:7] if augment.size else images
    wanted = tv.normalize(centre.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    result = augment(images)
    torch.testing.assert_close(result, wanted)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_draws_are_uniform_and_depend_on_key_and_row_alone():
    draws = draw((3, 0, 5), 20000)
    assert draws.shape == (20000, NUM_DRAWS)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draw((3, 0, 5), 64), draws[:64])
    assert (draws.mean(dim=0) - 0.5).abs().max() < 0.01
    for key in [(4, 0, 5), (3, 1, 5), (3, 0, 6)]:
        assert not torch.equal(draw(key, 64), draws[:64])
    torch.manual_seed(0)
    assert torch.equal(draw((3, 0, 5), 64), draws[:64])


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """(C,) value of a (C, H, W) image at a point in pixels, its border repeated outside."""
    h, w = image.shape[1:]
    x, y = min(max(x - 0.5, 0), w - 1), min(max(y - 0.5, 0), h - 1)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
    fx, fy = x - left, y - top
    upper = image[:, top, left] * (1 - fx) + image[:, top, right] * fx
    lower = image[:, bottom, left] * (1 - fx) + image[:, bottom, right] * fx
    return upper * (1 - fy) + lower * fy


@pytest.mark.parametrize(("mirror", "size"), [(False, (5, 5)), (True, (5, 5)), (True, (6, 3))])
def test_resized_crop_against_plain_loops(mirror, size):
    height, width = 9, 12
    images = random_images(6, 3, height, width)
    augment = ResizedCrop(size, scale=(0.1, 0.9), mirror=mirror, **RAW)
    draws = augment.draw((0, 0, 1), 6)
    result = augment(images, draws)
    for i, u in enumerate(draws.double().tolist()):
        area = (0.1 + u[1] * 0.8) * height * width
        ratio = math.exp(math.log(3 / 4) + u[2] * (math.log(4 / 3) - math.log(3 / 4))) * size[1] / size[0]
        w, h = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
        left, top = u[3] * (width - w), u[4] * (height - h)
        for row in range(size[0]):
            for column in range(size[1]):
                across = (column + 0.5) / size[1]
                across = 1 - across if mirror and u[0] < 0.5 else across
                wanted = bilinear(images[i].double(), left + across * w, top + (row + 0.5) / size[0] * h)
                torch.testing.assert_close(result[i, :, row, column].double(), wanted, atol=2e-2, rtol=0)


def affine(draws: list[float], **settings: float) -> Tensor:
    """A 5x5 picture transformed with given signed draws (shift x, y, turn, zoom)."""
    columns = torch.zeros(1, NUM_DRAWS)
    columns[0, 1:5] = (torch.tensor(draws) + 1) / 2
    augment = Affine(**({"shift": 0.0, "rotation": 0.0, "scale": 0.0} | settings), **RAW_GREY)
    return augment(PICTURE[None], columns)[0, 0]


PICTURE = random_images(1, 1, 5, 5, seed=3)[0]


def test_affine_parts():
    picture = PICTURE[0].float()
    torch.testing.assert_close(affine([1, 1, 1, 1]), picture, atol=1e-2, rtol=0)
    turned = affine([0, 0, 1, 0], rotation=90)
    assert any(torch.allclose(turned, picture.rot90(k), atol=0.1) for k in (1, 3))
    torch.testing.assert_close(affine([0, 0, -1, 0], rotation=90), turned.rot90(2), atol=0.1, rtol=0)
    shifted = affine([1, 0, 0, 0], shift=0.2)  # a fifth of 5 pixels: one, the border repeated
    torch.testing.assert_close(shifted[:, :4], picture[:, 1:], atol=0.1, rtol=0)
    torch.testing.assert_close(shifted[:, 4], picture[:, 4], atol=0.1, rtol=0)
    down = affine([0, -1, 0, 0], shift=0.2)
    torch.testing.assert_close(down[1:], picture[:4], atol=0.1, rtol=0)
    enlarged = affine([0, 0, 0, 1], scale=1.0)  # twice as large: the middle 2.5 pixels over 5
    for row in range(5):
        for column in range(5):
            wanted = bilinear(PICTURE.float(), 1.25 + (column + 0.5) / 2, 1.25 + (row + 0.5) / 2)[0]
            torch.testing.assert_close(enlarged[row, column], wanted, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("factors", "reference"),
    [
        ((1.3, 1, 1), lambda x: tv.adjust_brightness(x, 1.3)),
        ((1, 0.6, 1), lambda x: tv.adjust_contrast(x, 0.6)),
        ((1, 1, 1.5), lambda x: tv.adjust_saturation(x, 1.5)),
    ],
)
def test_colours_against_torchvision(factors, reference):
    images = random_images(3, 3, 6, 6).contiguous()
    result = jittered(images, torch.tensor([factors] * 3))
    torch.testing.assert_close(result / 255, reference(images.float() / 255), atol=2e-3, rtol=0)


def test_grey_images_are_centred_by_default():
    images = random_images(2, 1, 4, 4)
    torch.testing.assert_close(CropMirror()(images), images.float() / 127.5 - 1)
    assert jittered(images, torch.ones(2, 3)).shape == images.shape


def test_statistics_can_be_those_of_the_trunk():
    augment = CropMirror()
    assert not augment.given_statistics
    augment.set_statistics((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    images = random_images(2, 3, 4, 4)
    torch.testing.assert_close(augment(images), tv.normalize(images.float() / 255, [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]))
    assert CropMirror(**RAW).given_statistics
    assert not augment.state_dict()


def test_double_precision_is_kept():
    images = random_images(2, 3, 8, 8)
    for augment in (CropMirror(4), ResizedCrop(4), Affine(4)):
        draws = augment.draw((0, 0, 0), 2)
        single = augment(images, draws)
        double = augment.double()(images, draws)
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), single)


@pytest.mark.parametrize(
    "wrong",
    [
        *((lambda settings=settings: CropMirror(**{"size": 4, **settings})) for settings in (
            {"size": 0}, {"colour_jitter": 2}, {"colour_jitter": math.nan}, {"mean": [0.5]}, {"mean": [], "std": []},
            {"mean": [0.5, 0.5], "std": [0.5]}, {"mean": [0.5], "std": [0.0]}, {"mean": [math.nan], "std": [0.5]},
        )),
        *((lambda settings=settings: ResizedCrop(4, **settings)) for settings in (
            {"scale": (math.nan, 1)}, {"scale": (0.5, 0.2)}, {"ratio": (0, 1)}, {"ratio": (1, math.inf)},
        )),
        *((lambda settings=settings: Affine(4, **settings)) for settings in (
            {"shift": math.nan}, {"rotation": math.inf}, {"rotation": -1},
        )),
        lambda: CropMirror(9)(random_images(1, 3, 8, 8)),
        lambda: Affine(9)(random_images(1, 3, 8, 8), torch.zeros(1, NUM_DRAWS)),
        lambda: CropMirror(4, **RAW)(random_images(1, 1, 8, 8)),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(wrong):
    with pytest.raises(UserError, match=r"\w+"):
        wrong()


def test_misuse():
    augment = CropMirror(4)
    with pytest.raises(TypeError, match="uint8"):
        augment(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="draws"):
        augment(random_images(2, 3, 8, 8), augment.draw((0, 0, 0), 3))


@pytest.mark.gpu
@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda a: type(a).__name__)
def test_device_agrees_with_cpu_and_is_not_waited_for(augment: Augmentation):
    images = random_images(16, 3, 8, 8)
    draws = augment.draw((0, 0, 0), 16)
    wanted = augment(images, draws)
    augment.to("cuda")
    on_device = images.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment(on_device, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        augment.to("cpu")
    torch.testing.assert_close(result.cpu(), wanted, atol=1e-4, rtol=1e-4)
