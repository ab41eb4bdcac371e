"""Two families of `experiments/checks/trunks.py`: a convolutional network, and a transformer at a size not its own."""

from pathlib import Path

import pytest

from experiments.checks.trunks import FAMILIES, Family


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXt", "DINOv2"])
def test_a_trunk_is_trained_resumed_shared_and_embeds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    family = Family(tmp_path, *FAMILIES[name])
    assert family.fit() == "yes"
    assert family.resume() == "equal"
    assert float(family.two_ranks()) < 1e-4
    assert float(family.embed()) < 1e-5
    assert family.half_precision() == "yes"
