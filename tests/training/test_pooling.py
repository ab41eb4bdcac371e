"""Poolings against plain loops, against the trunks' own, and one of a paper's own by class path."""

import pytest
import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError
from lifted_lightning.training.networks import EmbeddingNetwork
from lifted_lightning.training.pooling import Average, AverageMax, ClassAverage, ClassToken, GeM, Max, Pooling

PLACES = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKEN = torch.arange(6.0, dtype=torch.float64).view(2, 3)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("pooling", "of_channel"),
    [
        (Average(), mean),
        (Max(), max),
        (AverageMax(), lambda values: mean(values) + max(values)),
        (GeM(), lambda values: mean([max(v, 1e-6) ** 3 for v in values]) ** (1 / 3)),
        (GeM(p=1), lambda values: mean([max(v, 1e-6) for v in values])),
    ],
)
def test_a_pooling_is_what_it_is_of_each_channel(pooling, of_channel):
    wanted = [[of_channel(channel.flatten().tolist()) for channel in image] for image in PLACES]
    torch.testing.assert_close(pooling(PLACES, None), torch.tensor(wanted, dtype=torch.float64))
    assert pooling.build(3) == 3


def test_the_class_token_alone_and_beside_the_mean():
    assert torch.equal(ClassToken()(PLACES, TOKEN), TOKEN)
    assert torch.equal(ClassAverage()(PLACES, TOKEN), torch.cat([TOKEN, Average()(PLACES, TOKEN)], dim=1))
    assert ClassAverage().build(3) == 6
    with pytest.raises(UserError, match="ClassAverage: the trunk has no class token; give Average"):
        ClassAverage()(PLACES, None)


def test_the_exponent_of_gem_is_learnt_and_half_precision_does_not_overflow():
    pooling = GeM()
    assert torch.autograd.gradcheck(pooling.double(), (PLACES.abs().requires_grad_(), None))
    pooling(PLACES, None).sum().backward()
    assert pooling.p.grad
    large = torch.full((1, 2, 3, 3), 300.0, dtype=torch.float16)
    torch.testing.assert_close(GeM()(large, None), torch.full((1, 2), 300.0))
    assert GeM().half()(large, None).dtype == torch.float16
    steep = GeM(p=30.0)
    (steep(large, None) + steep(torch.zeros(1, 2, 3, 3), None)).sum().backward()
    assert steep.p.grad.isfinite(), "nor do powers of what is near 0 vanish"
    for wrong in ({"p": 0.0}, {"p": float("nan")}, {"least": -1.0}):
        with pytest.raises(UserError, match="GeM"):
            GeM(**wrong)


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("trunk", "pooling", "size"),
    [
        ("squeezenet1_1", Average(), 64),
        ("resnet18", Average(), 64),
        ("shufflenet_v2_x0_5", Average(), 64),
        ("timm:resnet10t", Average(), 64),
        ("timm:test_vit", ClassToken(), 160),
        ("timm:test_convnext", None, 64),
        pytest.param("swin_t", Average(), 64, marks=pytest.mark.slow),
        pytest.param("densenet121", Average(), 64, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", Average(), 64, marks=pytest.mark.slow),
        pytest.param("googlenet", Average(), 64, marks=pytest.mark.slow),
        pytest.param("timm:swin_tiny_patch4_window7_224", Average(), 224, marks=pytest.mark.slow),
        pytest.param("timm:vit_small_patch14_reg4_dinov2", ClassToken(), 518, marks=pytest.mark.slow),
        pytest.param("timm:eva02_tiny_patch14_224", None, 224, marks=pytest.mark.slow),
    ],
)
def test_pooled_as_the_trunk_pools_itself_it_gives_what_the_trunk_gives(trunk, pooling, size):
    networks = []
    for chosen in (None, pooling or Average()):
        torch.manual_seed(0)
        networks.append(EmbeddingNetwork(trunk, pretrained=False, embedding_size=4, pooling=chosen).eval())
    own, other = (network.features_of(images(size)) for network in networks)
    assert own.shape == other.shape
    if pooling is not None:  # else it normalises after pooling, or before
        torch.testing.assert_close(other, own, rtol=1e-4, atol=1e-5)
    other.sum().backward()  # of every parameter, or several processes would wait for the rest
    assert all(p.grad is not None for name, p in networks[1].named_parameters() if not name.startswith("head."))


def test_places_are_in_their_grid():
    """A patch that is changed alone changes its own place most, in a transformer without layers."""
    network = EmbeddingNetwork("timm:test_vit", pretrained=False, embedding_size=4, pooling=Kept()).eval()
    network.set_image_size((64, 96))
    network.trunk.blocks = nn.Identity()
    black = torch.zeros(1, 3, 64, 96)
    changed = black.clone()
    changed[:, :, 16:32, 48:64] = 1
    moved = (network.features_of(changed) - network.features_of(black)).view(-1, 4, 6).abs().sum(0)
    assert moved.nonzero().tolist() == [[1, 3]]


class Kept(Pooling):
    """A pooling of one's own that needs to know the channels, and gives all places."""

    def __init__(self, cells: int = 4) -> None:
        super().__init__()
        self.cells = cells

    def build(self, channels: int) -> int:
        self.scale = nn.Parameter(torch.ones(channels, 1))
        return channels * self.cells

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        return (places.flatten(2) * self.scale).flatten(1)


def test_a_trunk_whose_tokens_are_not_to_be_had_is_told():
    with pytest.raises(UserError, match="torchvision's tokens are not to be had; give timm:"):
        EmbeddingNetwork("vit_b_32", pretrained=False, pooling=ClassToken())
