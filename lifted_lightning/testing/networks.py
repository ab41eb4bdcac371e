"""What training, evaluation and checkpoints take for granted of a network."""

import io
from copy import deepcopy

import torch
from torch import Tensor, nn

from lifted_lightning.data.images import Size, sides
from lifted_lightning.testing.findings import ContractError, Findings, check_tensor, copied

ROWS = 5
CLOSE = 1e-3  # of the largest number of a batch: above rounding in float32, below what another row would do


def check_network(network: nn.Module, channels: int | None = None, size: Size | None = None) -> Findings:
    """Ask a network all that the rest of the package expects of one, on random images; it stays as it is.

    Args:
        network: maps float images (B, C, H, W) to embeddings (B, D), and has ``embedding_size``.
        channels: C; None: those of its first convolution, or 3.
        size: of the images, a side in pixels or ``[height, width]``; None: that of its own weights, or 64.

    Returns:
        A finding for each question; one only where it gives no embeddings.
    """
    tried = _Network(network, channels, sides(size or getattr(network, "own_size", None) or 64))
    findings = Findings(type(network).__name__)
    if findings.ask("gives finite embeddings (B, embedding_size), others of other images", tried.gives_embeddings):
        findings.ask("in evaluation a row is the same whatever else is in the batch", tried.rows_are_apart)
        findings.ask("takes channels-last images, float64, and autocast to bfloat16 and float16", tried.takes_types)
        findings.ask("all that learns has a finite gradient", tried.learns)
        findings.ask("is the same after saving and loading in mid-training", tried.is_saved)
    return findings


class _Network:
    """A copy of a network, and images for it."""

    def __init__(self, network: nn.Module, channels: int | None, size: tuple[int, int]) -> None:
        first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
        channels = channels or (first.in_channels if first else 3)
        self.images = torch.randn(ROWS, channels, *size, generator=torch.Generator().manual_seed(0))
        self.network = copied(network)
        if tell := getattr(self.network, "set_image_size", None):
            tell(size)

    @torch.no_grad()
    def embed(self, images: Tensor, network: nn.Module | None = None) -> Tensor:
        return (network or self.network).eval()(images)

    def gives_embeddings(self) -> str:
        trained = deepcopy(self.network).train()(self.images)
        for embeddings, of in ((trained, "in training"), (embedded := self.embed(self.images), "in evaluation")):
            self._check(embeddings, of)
        if not (embedded - embedded[:1]).any():
            raise ContractError("all images have one embedding")
        lengths, wanted = torch.linalg.vector_norm(embedded, dim=1), getattr(self.network, "length", 1.0)
        if getattr(self.network, "normalize", False) and (lengths - wanted).abs().max() > CLOSE * wanted:
            raise ContractError(f"normalize, but lengths of {lengths.min():.3g} to {lengths.max():.3g}, not {wanted}")
        return f"{embedded.shape[1]} dimensions, of images of {tuple(self.images.shape[1:])}"

    def rows_are_apart(self) -> None:
        self._check(self.embed(self.images[:1]), "one image", rows=1)
        whole = self.embed(self.images)
        _same(self.embed(self.images), whole, "the same batch once more")
        _same(torch.cat([self.embed(image[None]) for image in self.images]), whole, "the images one by one")
        _same(self.embed(self.images.flip(0)).flip(0), whole, "the batch in another order")

    def takes_types(self) -> None:
        last = self.images.to(memory_format=torch.channels_last)
        _same(self.embed(last), self.embed(self.images), "channels-last images")
        self._check(self.embed(last.double(), deepcopy(self.network).double()), "float64", torch.float64)
        for kind in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", kind):  # in training: statistics that are not learnt yet may blow numbers up
                self._check(deepcopy(self.network).train()(last), f"autocast to {kind}")

    def learns(self) -> str:
        network = deepcopy(self.network).train()
        (network(self.images) * torch.linspace(-1, 1, ROWS)[:, None]).square().sum().backward()
        wanted = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        for name, gradient in wanted.items():
            if gradient is None:
                raise ContractError(f"{name} is not used: freeze it or leave it out, for DDP waits for its gradient")
            if not gradient.isfinite().all():
                raise ContractError(f"{name} has a gradient that is not finite")
        return f"{len(wanted)} parameters"

    def is_saved(self) -> None:
        trained, loaded = deepcopy(self.network).train(), deepcopy(self.network)
        optimizer = torch.optim.SGD(trained.parameters(), 1e-3)
        for _ in range(2):
            trained(self.images).square().mean().backward()
            optimizer.step()
        torch.save(trained.state_dict(), file := io.BytesIO())
        file.seek(0)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        _same(self.embed(self.images, loaded), self.embed(self.images, trained), "another that loads its state dict")

    def _check(self, embeddings: object, of: str, kind: torch.dtype | None = None, rows: int = ROWS) -> None:
        """Raise ContractError unless these are finite embeddings."""
        if not isinstance(size := getattr(self.network, "embedding_size", None), int):
            raise ContractError("has no embedding_size, which losses with proxies ask for")
        check_tensor(embeddings, (rows, size), kind, of)


def _same(found: Tensor, wanted: Tensor, what: str) -> None:
    """Raise ContractError where these embeddings differ by more than rounding."""
    difference = (found - wanted).abs().amax(1) / wanted.abs().max().clamp_min(1e-30)
    if not difference.max() <= CLOSE:
        row, most = int(difference.argmax()), float(difference.max())
        raise ContractError(f"{what}: row {row} differs by {most:.2g} of the largest number")
