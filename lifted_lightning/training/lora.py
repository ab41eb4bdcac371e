"""LoRA: a frozen trunk with small matrices beside its linear layers that learn, and a file of all but the trunk."""

import hashlib
from typing import Any

import torch
from torch import nn

from lifted_lightning.errors import UserError
from lifted_lightning.runs.checkpoint import SETTINGS_KEY

TRUNK_KEY = "lifted_trunk"  # in a checkpoint: SHA-256 of the frozen weights that its matrices were learnt for
ADAPTER = ".adapter"  # the suffix of a file that has all of a checkpoint's weights but the frozen ones


def add_lora(trunk: nn.Module, rank: int) -> str:
    """Freeze a trunk, and give each of its linear layers two matrices that learn.

    A layer's ``x W'`` becomes ``x W' + x A' B'``, with A (rank, inputs) random and B (outputs, rank) zero at first, so
    that nothing changes before the first step (Hu et al., LoRA, ICLR 2022; its alpha is the rank).

    Returns:
        The SHA-256, in hexadecimal, of the weights that the trunk had and keeps.

    Raises:
        UserError: if peft is not installed, or the trunk is not one for it.
    """
    names = [name for name, module in trunk.named_modules() if isinstance(module, nn.Linear)]
    kinds = (nn.modules.batchnorm._BatchNorm, nn.MultiheadAttention)
    wrong = [type(module).__name__ for module in trunk.modules() if isinstance(module, kinds)]
    if wrong or not names:
        reason = f"has {wrong[0]}" if wrong else "has no linear layer"
        raise UserError(f"lora_rank: {type(trunk).__name__} {reason}; take a transformer of timm (timm:NAME)")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("lora_rank needs peft: pip install 'lifted-lightning[lora]'") from None
    digest = hashlib.sha256()
    for name, value in trunk.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    trunk.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), trunk)
    return digest.hexdigest()


def is_frozen(name: str) -> bool:
    """Whether a module's state of this name is of the frozen weights, in a network with LoRA."""
    return name.startswith("network.trunk.") and ".lora_" not in name


def adapter(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What of a checkpoint of a network with LoRA is not in its trunk: matrices, head, loss, and what they are of."""
    weights = {name: value for name, value in checkpoint["state_dict"].items() if not is_frozen(name)}
    return {"state_dict": weights, **{key: checkpoint[key] for key in (SETTINGS_KEY, TRUNK_KEY)}}
