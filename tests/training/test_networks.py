"""Networks: the trunk's features against torchvision's own classifier, weights from files, and bad names."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from lifted_lightning.data.augment import IMAGENET_MEAN, CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.training import networks as trunks
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """The folder with real pretrained weights; tests that need it are skipped where it is not given."""
    root = os.environ.get("LIFTED_WEIGHTS_DIR")
    if not root or not Path(root).is_dir():
        pytest.skip("no real data: LIFTED_WEIGHTS_DIR is not set to a folder")
    return Path(root)


def random_images(b: int = 2, size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(b, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (1, 32), (3, 48), (1, 105)])
def test_convnet(channels, size):
    network = ConvNet(embedding_size=8, channels=channels, width=4)
    assert network(random_images(2, size, channels)).shape == (2, 8)
    assert network.embedding_size == network.head.out_features == 8
    assert network.initial_trunk() is None
    assert not network.normalize
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("size", [3, 4, 5, 13, 16])
def test_a_convnet_s_pooling_is_torch_s_where_it_must_be_deterministic(size):
    images, pooling = random_images(2, size), trunks.CellMeans(4)
    expected = nn.AdaptiveAvgPool2d(4)(images)
    torch.use_deterministic_algorithms(False)  # which a trainer of another test may have left on
    assert torch.equal(pooling(images), expected)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(pooling(images), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_dropout_comes_before_the_head():
    network = ConvNet(width=4, dropout=0.5)
    images = random_images(2, 32, 1)
    network.trunk.eval()
    assert not torch.equal(network(images), network(images))
    network.eval()
    torch.testing.assert_close(network(images), network.head(network.trunk(images)))


# What torchvision's classifier makes of its own network, and the same from the trunk's features.
QUICK = ["squeezenet1_1", "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"]
SLOW = [
    "googlenet", "resnet50", "alexnet", "vgg11", "densenet121", "mobilenet_v2", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t", "inception_v3",
]  # fmt: skip


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_trunk_is_the_network_without_its_classifier(name, tmp_path):
    inception = name in ("googlenet", "inception_v3")
    options = {"init_weights": False, "transform_input": True} if inception else {}
    whole = models.get_model(name, weights=None, **options).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = EmbeddingNetwork(name, embedding_size=5, weights_file=tmp_path / "weights.pth").eval()
    whole.double()  # float32 would differ by the memory format's order of summation
    network.double()

    path, classifier = next(
        (path, module)
        for path, module in reversed(list(whole.named_modules()))
        if isinstance(module, nn.Linear | nn.Conv2d)
    )
    captured = []
    whole.get_submodule(path).register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    images = random_images(2, {"vit_b_16": 224, "maxvit_t": 224, "inception_v3": 299}.get(name, 64)).double()
    with torch.no_grad():
        whole(images)
        features = network.trunk(images)
        assert network(images).shape == (2, 5)
    wanted = captured[0]
    if isinstance(classifier, nn.Conv2d):
        wanted = wanted.mean(dim=(2, 3))
    torch.testing.assert_close(features, wanted)
    assert features.shape == (2, network.head.in_features)
    dropouts = [m.p for m in network.trunk.modules() if type(m) is nn.Dropout]
    assert not any(dropouts)
    assert "aux" not in " ".join(network.state_dict()).lower()


def test_training_googlenet_gives_embeddings_without_auxiliary_heads():
    network = EmbeddingNetwork("googlenet", pretrained=False, embedding_size=4)
    embeddings = network(random_images(2, 64))
    assert isinstance(embeddings, Tensor)
    embeddings.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def fake_download(monkeypatch, state: dict[str, Tensor]) -> list[str]:
    """Make torchvision 'download' this state dict; gives the list of what was asked for."""
    asked: list[str] = []

    def load(url: str, **options: object) -> dict[str, Tensor]:
        asked.append(url)
        return dict(state)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    return asked


def test_googlenet_is_the_same_from_a_file_and_from_torchvision(monkeypatch, tmp_path):
    whole = models.googlenet(weights=None, init_weights=False, aux_logits=True)
    for layer in whole.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of one batch, so that the features depend on the input
    with torch.no_grad():
        whole.train()(random_images(8, 64))
    torch.save(whole.state_dict(), tmp_path / "googlenet.pth")
    asked = fake_download(monkeypatch, whole.state_dict())
    images = random_images(4, 64)
    with torch.no_grad():
        downloaded = EmbeddingNetwork("googlenet", pretrained=True).eval().trunk(images)
        loaded = EmbeddingNetwork("googlenet", weights_file=tmp_path / "googlenet.pth").eval().trunk(images)
        unscaled = EmbeddingNetwork("googlenet", weights_file=tmp_path / "googlenet.pth").eval().trunk
        unscaled.transform_input = False
        without = unscaled(images)
    assert len(asked) == 1
    assert torch.equal(downloaded, loaded)
    assert (without - loaded).abs().max() > 0.01 * loaded.abs().max()


def test_pretrained_names_a_set_of_weights(monkeypatch):
    state = models.resnet50(weights=None).state_dict()
    asked = fake_download(monkeypatch, state)
    EmbeddingNetwork("resnet50", pretrained="IMAGENET1K_V1")
    EmbeddingNetwork("resnet50", pretrained=True)
    assert [url == models.ResNet50_Weights.IMAGENET1K_V1.url for url in asked] == [True, False]
    with pytest.raises(UserError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        EmbeddingNetwork("resnet50", pretrained="IMAGENET")


@pytest.mark.parametrize("error", [OSError("Name or service not known"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded(monkeypatch, error):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"resnet18.*weights_file=FILE.*pretrained=false") as caught:
        EmbeddingNetwork("resnet18")
    assert "\n" not in str(caught.value)


def test_frozen_batchnorm_stays_as_loaded():
    network = EmbeddingNetwork("resnet18", pretrained=False, embedding_size=4, freeze_batchnorm=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network.train()
        network(random_images(4)).square().sum().backward()
        optimizer.step()
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(layers) == 20
    frozen = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict()}
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) == (name in frozen) for name in after)
    assert network.trunk.training


def test_batchnorm_trains_unless_frozen():
    network = EmbeddingNetwork("resnet18", pretrained=False, embedding_size=4)
    before = network.trunk.bn1.running_mean.clone()
    network(random_images(4))
    assert not torch.equal(network.trunk.bn1.running_mean, before)


def test_real_weights_and_the_untrained_trunk(weights_root):
    file = weights_root / "squeezenet1_1-imagenet.pth"
    network = EmbeddingNetwork("squeezenet1_1", embedding_size=4, weights_file=file)
    whole = models.squeezenet1_1(weights=None)
    whole.load_state_dict(torch.load(file, weights_only=True))
    images = random_images(3, 64)
    wanted = whole.eval().features(images).mean(dim=(2, 3))
    with torch.no_grad():
        for p in network.trunk.parameters():
            p.add_(1)
    untrained = network.initial_trunk()
    assert untrained is not None
    assert not untrained.training
    torch.testing.assert_close(untrained(images), wanted, rtol=1e-4, atol=1e-4)  # another memory format
    assert EmbeddingNetwork("squeezenet1_1", pretrained=False).initial_trunk() is None


@pytest.mark.parametrize("size", [6, 512, 600])
def test_an_orthonormal_head_begins_with_the_geometry_of_the_features(size):
    network = EmbeddingNetwork("squeezenet1_1", pretrained=False, embedding_size=size, normalize=False).eval()
    weight = network.head.weight.detach()
    small = weight @ weight.T if size <= 512 else weight.T @ weight
    torch.testing.assert_close(small, torch.eye(min(size, 512)))
    assert not network.head.bias.any()
    images = random_images(4)
    if size >= 512:
        torch.testing.assert_close(torch.cdist(*2 * [network(images)]), torch.cdist(*2 * [network.trunk(images)]))
    if size == 512:
        assert torch.equal(weight, torch.eye(512))


def test_a_small_head_turns_to_the_principal_axes():
    features = random_images(1, 40)[0].flatten(1) @ torch.randn(1600, 512, generator=torch.Generator().manual_seed(1))
    network = EmbeddingNetwork("squeezenet1_1", pretrained=False, embedding_size=3)  # as many as the features fill
    assert network.features_wanted
    network.begin_head(features)
    wanted, found = (torch.nn.functional.normalize(x) for x in (features, network.head(features)))
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(wanted, wanted), rtol=1e-4, atol=1e-4)


def test_a_random_head_is_torch_s():
    torch.manual_seed(0)
    network = EmbeddingNetwork("squeezenet1_1", pretrained=False, embedding_size=6, head="random")
    torch.manual_seed(0)
    models.squeezenet1_1(weights=None)
    assert torch.equal(network.head.weight, nn.Linear(512, 6).weight)


def test_weights_are_taken_from_the_folder_of_weights_before_a_download(monkeypatch, tmp_path, capsys):
    asked = fake_download(monkeypatch, models.resnet50(weights=None).state_dict())
    monkeypatch.setenv("LIFTED_WEIGHTS_DIR", str(tmp_path))
    state = models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, tmp_path / "squeezenet1_1-kept.pth")
    torch.save({}, tmp_path / "resnet50_other.pth")
    network = EmbeddingNetwork("squeezenet1_1")
    name = "features.0.weight"
    for trunk in (network.trunk, network.initial_trunk()):
        assert torch.equal(trunk.state_dict()[name], state[name])
    assert capsys.readouterr().out.count("squeezenet1_1-kept.pth") == 1
    EmbeddingNetwork("resnet50")
    assert len(asked) == 1
    monkeypatch.delenv("LIFTED_WEIGHTS_DIR")
    EmbeddingNetwork("resnet50")
    assert len(asked) == 2


def saved(tmp_path: Path, change: object) -> Path:
    """A file with squeezenet's state dict, changed."""
    state = models.squeezenet1_1(weights=None).state_dict()
    file = tmp_path / "weights.pth"
    torch.save(change(state), file)  # type: ignore[operator]
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"features.0.weight": torch.ones(2)}, r"size mismatch for features\.0\.weight"),
        (lambda s: {n: s[n] for n in s if n != "features.0.bias"}, r"1 missing \(features\.0\.bias\)"),
        (lambda s: s | {"stem.weight": torch.zeros(1)}, r"1 unexpected \(stem\.weight\)"),
        (lambda s: {"state_dict": s}, "is a checkpoint, but not of a network with trunk and head"),
        (lambda s: [1, 2], "holds more than a state dict"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(tmp_path, change, message):
    file = saved(tmp_path, change)
    with pytest.raises(UserError, match=rf"weights\.pth.*{message}") as caught:
        EmbeddingNetwork("squeezenet1_1", weights_file=file)
    assert "\n" not in str(caught.value)


def test_the_path_may_hold_an_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_WEIGHTS", str(saved(tmp_path, lambda s: s).parent))
    EmbeddingNetwork("squeezenet1_1", weights_file="$SOME_WEIGHTS/weights.pth")
    monkeypatch.delenv("SOME_WEIGHTS")
    with pytest.raises(UserError, match=r"SOME_WEIGHTS/weights\.pth.*no such file"):
        EmbeddingNetwork("squeezenet1_1", weights_file="$SOME_WEIGHTS/weights.pth")


def test_a_classifier_in_the_file_is_passed_over(tmp_path):
    images = random_images()
    for change in (
        lambda s: s | {"classifier.1.weight": torch.zeros(7, 512, 1, 1)},
        lambda s: {n: v for n, v in s.items() if not n.startswith("classifier")},
    ):
        file = saved(tmp_path, change)
        assert EmbeddingNetwork("squeezenet1_1", weights_file=file, embedding_size=3)(images).shape == (2, 3)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo unsafe",)


def test_files_that_are_no_state_dict(tmp_path, capfd):
    torch.save(Evil(), tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    (tmp_path / "empty.pth").touch()
    for name in ("evil.pth", "text.pth", "empty.pth", "none.pth"):
        with pytest.raises(UserError, match=name) as caught:
            EmbeddingNetwork("squeezenet1_1", weights_file=tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "unsafe" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trunk": "resnet5O"}, "resnet50"),
        ({"trunk": "zzz"}, "no such network"),
        ({"trunk": "timm:resnet5"}, "timm:resnet50|timm:resnet51q"),
        ({"trunk": "timm:resnet18", "pretrained": "V1"}, "part of the name"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        EmbeddingNetwork(**({"pretrained": False} | settings))


def test_timm_by_name():
    network = EmbeddingNetwork("timm:resnet10t", pretrained=False, embedding_size=6)
    assert network(random_images()).shape == (2, 6)
    assert network.mean == IMAGENET_MEAN
    vit = EmbeddingNetwork("timm:vit_tiny_patch16_224", pretrained=False, embedding_size=6)
    assert vit.mean == (0.5, 0.5, 0.5)
    augment = CropMirror(224)
    augment.set_statistics(vit.mean, vit.std)


def test_timm_weights_file_and_missing_timm(tmp_path, monkeypatch):
    import timm

    whole = timm.create_model("resnet10t").eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    network = EmbeddingNetwork("timm:resnet10t", weights_file=tmp_path / "w.pth").eval()
    images = random_images()
    torch.testing.assert_close(network.trunk(images), whole.forward_head(whole.forward_features(images), True))
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install"):
        trunks.build_trunk("timm:resnet10t", False, None)
