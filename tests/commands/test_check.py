"""`lifted check` as it is called."""

from pathlib import Path

import pytest

from lifted_lightning import testing
from lifted_lightning.commands import check
from lifted_lightning.losses import TripletLoss
from tests.commands.conftest import Lifted

OWN = """
from torch import nn

class MyLoss(nn.Module):
    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings, labels):
        same = labels[:, None] == labels
        gaps = (self.margin - embeddings @ embeddings.T)[~same]
        return gaps[gaps > 0].mean()
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds has tests of its own."""
    whole = testing.check_loss
    monkeypatch.setattr(testing, "check_loss", lambda *told, **more: whole(*told, two_ranks=False, costs=False, **more))


def test_a_loss_of_one_s_own_fails_with_an_example(lifted: Lifted) -> None:
    Path("my_checked_loss.py").write_text(OWN)
    code, output, _ = lifted("check", "--loss", "my_checked_loss.MyLoss", "--loss.margin", "0.3")
    assert code == 1
    assert "MyLoss" in output
    assert "labels = torch.tensor([0])" in output


def test_one_of_ours_holds(lifted: Lifted) -> None:
    code, output, _ = lifted("check", "--loss=TripletLoss")
    assert code == 0
    assert "fails" not in output


def test_settings_are_those_of_fit() -> None:
    loss, _ = check.build("loss", ["--loss=TripletLoss", "--loss.margin=0.3", "--network=nonsense"])
    assert isinstance(loss, TripletLoss)
    assert loss.margin == 0.3
    proxies, told = check.build("loss", ["--loss=pytorch_metric_learning.losses.ProxyAnchorLoss"])
    assert proxies.proxies.shape == (told["num_classes"], check.SIZE)


def test_a_contract_is_told_of_the_data_that_are_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert check.build("network", ["--network=ConvNet", "--data.size=40"])[1] == {"size": 40, "channels": 1}
    assert check.build("sampler", ["--sampler=ReleasedPairs", "--data.batch_size=64"])[1] == {"batch_size": 64}
    assert check.build("augment", ["--augment=Affine"])[1] == {}
    code = check.run(["--network", "ConvNet", "--network.channels=3", "--augment=CropMirror", "--data.size=[40,32]"])
    shown = capsys.readouterr().out
    assert code == 0
    assert "(3, 40, 32)" in shown
    assert "40 x 32" in shown
