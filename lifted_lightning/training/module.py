"""EmbeddingModule: a network, a loss and an optimiser; the loss is that of the global batch on every rank."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from pytorch_lightning.plugins import DoublePrecision
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lifted_lightning.data.augment import Augmentation
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.images import sides
from lifted_lightning.distributed import broadcast_buffers, gather_with_gradient, rank, sum_over_ranks, world_size
from lifted_lightning.errors import RunError, UserError, listed
from lifted_lightning.losses import CrossBatchMemory
from lifted_lightning.training import groups, loss_state
from lifted_lightning.training.allocator import keep_freed_memory
from lifted_lightning.training.batchnorm import SyncBatchNorm
from lifted_lightning.training.lora import TRUNK_KEY
from lifted_lightning.training.microbatch import embed_in_pieces
from lifted_lightning.training.networks import EmbeddingNetwork, batchnorms
from lifted_lightning.training.schedules import describe, describe_schedule, fit_to_run, go_on, keep_factors

Batch = dict[str, Tensor]
NEVER = 2**62  # a step that no training takes
LOSS_KEY = "lifted_loss"  # in a checkpoint: the loss's attributes that training has changed
RATES_KEY = "lifted_rates"  # in a checkpoint: settings of optimiser and schedule, as they were when the run began


class EmbeddingModule(LightningModule):
    """Trains an embedding network under a metric-learning loss.

    The loss sees the embeddings of the *global* batch: they are gathered over the ranks with gradient, every
    rank takes the same loss, and after DDP's averaging the gradient is that of one process with the whole batch.

    W processes equal one exactly (but for rounding) if the network's rows do not depend on each other, or only by
    synchronised statistics: without batch normalisation; with it frozen (``network.freeze_batchnorm``); or with
    ``trainer.sync_batchnorm``, which normalises by the global batch. Plain batch normalisation takes the
    statistics of each rank's own rows, and with ``micro_batch`` those of each piece, which is another network:
    freeze it there. Dropout draws other numbers on each rank.

    Args:
        network: maps float images (B, C, H, W) to embeddings (B, D); has ``embedding_size``; parameters below
            its attributes ``head``, ``neck`` and ``pooling`` learn at ``head_lr_factor`` times the learning rate.
        loss: any module whose forward takes embeddings (B, D) and labels (B,) int64 and returns a scalar.
        augment: from uint8 images to normalised float images: random in training, fixed in evaluation.
        optimizer: called with parameter groups; AdamW with a learning rate of 1e-3 if not given.
        scheduler: called with the optimiser; stepped once a training step (once a validation for
            ReduceLROnPlateau).
        head_lr_factor: learning rate of the network's head as a multiple of the trunk's (the paper: 10).
        loss_lr_factor: learning rate of the loss's own parameters (proxies) as a multiple of the trunk's.
        layer_decay: learning rate of each of the trunk's layers as a share of that of the next one; the last has the
            optimiser's (for transformers 0.65 to 0.9 are usual).
        weight_decay_on: ``all`` parameters, or ``matrices`` only: no norms, biases, position or class tokens, proxies.
        frozen: parts of the trunk that never learn, by their names in it, with wildcards: ``patch_embed``,
            ``blocks.[0-5]``, or ``*`` for all of it. Batch normalisation there keeps its statistics.
        freeze_trunk_steps: the whole trunk is frozen in so many first steps, in which head and loss learn. Its
            gradient is taken and dropped; its rates follow the schedule meanwhile.
        gather: whether the loss sees the global batch; False takes it on each rank's own rows, for ablations.
        micro_batch: embed in pieces of so many rows of this rank and recompute them in the backward pass: the
            gradient of the full batch in the memory of a piece. None embeds the whole batch at once.
        compile: pass network and loss through ``torch.compile``.
        seed: of augmentation and dropout; the command line links it to ``seed_everything``.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        augment: Augmentation,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        head_lr_factor: float = 1.0,
        loss_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        weight_decay_on: groups.Decayed = "all",
        frozen: list[str] | None = None,
        freeze_trunk_steps: int = 0,
        gather: bool = True,
        micro_batch: int | None = None,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if micro_batch is not None and micro_batch < 1:
            raise UserError(f"micro_batch={micro_batch}: give at least 1 image, or leave it out")
        for name, factor in (("head_lr_factor", head_lr_factor), ("loss_lr_factor", loss_lr_factor)):
            if not 0 <= factor < math.inf:
                raise UserError(f"{name}={factor}: give a finite factor of at least 0")
        if not 0 < layer_decay <= 1:
            raise UserError(f"layer_decay={layer_decay}: give a factor above 0 and at most 1")
        if freeze_trunk_steps < 0:
            raise UserError(f"freeze_trunk_steps={freeze_trunk_steps}: give at least 0")
        self.network = network
        self.loss = loss
        self.augment = augment
        augment.match(network)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.head_lr_factor = head_lr_factor
        self.loss_lr_factor = loss_lr_factor
        self.layer_decay = layer_decay
        self.weight_decay_on: groups.Decayed = weight_decay_on
        self.frozen = frozen or []
        groups.freeze(self._trunk(), self.frozen)
        self.freeze_trunk_steps = freeze_trunk_steps
        self.gather = gather
        self.micro_batch = micro_batch
        self.seed = seed
        self._finite = FiniteLoss()
        self._step_key: tuple[int, ...] = ()
        self._told_no_gradient = False
        self._rates: dict[str, Any] = {}  # what describe says of the new optimiser; nothing where it is one's own
        self._loss_began = loss_state.attributes(loss)
        # Every rank remembers the same, which DDP (it reads this name) would send to all at each step.
        memories = [(path, part) for path, part in self.named_modules() if isinstance(part, CrossBatchMemory)]
        self._ddp_params_and_buffers_to_ignore = [f"{path}.{name}" for path, part in memories for name in part.STATE]
        self._plateau: ReduceLROnPlateau | None = None
        if compile:
            self.network.compile()
            self.loss.compile()

    # What a paper overrides

    def compute_loss(self, batch: Batch, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of one global batch. Override this where a paper needs more than embeddings and labels.

        ``self.embed_view(batch)`` gives a second random view of the same images, row for row.

        Args:
            batch: the rank's own batch, with ``images`` uint8 (b, C, H, W), ``labels`` and ``indices`` (b,).
            embeddings: (B, D) of the global batch, rank after rank, in float32 at least.
            labels: (B,) int64 of the global batch.

        Returns:
            A scalar, the same on every rank.
        """
        return self.loss(embeddings, labels)

    def parameter_groups(self) -> list[tuple[dict[str, Any], float]]:
        """Who learns, and how fast: the optimiser's groups, each with what the learning rate is multiplied by.

        Override this for groups of one's own: optimiser, schedule, freezing, resuming and the table at the beginning of
        a run work with them as with these. ``head_lr_factor``, ``loss_lr_factor``, ``layer_decay`` and
        ``weight_decay_on`` then are what the override makes of them.

        Returns:
            Pairs of a group, which has ``params``, a ``name`` of its own, by which its rate is logged, and whatever
            else the optimiser takes, ``weight_decay`` say; and the factor. What is in no group does not learn, and is
            told.
        """
        rates = (1.0, self.head_lr_factor, self.loss_lr_factor)
        return groups.parameter_groups(self.network, self.loss, rates, self.layer_decay, self.weight_decay_on)

    # Embedding

    def forward(self, images: Tensor) -> Tensor:
        """Embed uint8 images (B, C, H, W) as in evaluation. Returns (B, D)."""
        return self.network(self.augment(images, None))

    def embed_view(self, batch: Batch, view: int = 1) -> Tensor:
        """Embed another random view of a training batch, for a ``compute_loss`` that compares views.

        Args:
            batch: as ``compute_loss`` gets it.
            view: the number of the view, from 1; the embeddings that ``compute_loss`` gets are of view 0.

        Returns:
            (B, D), row for row of the same images as the embeddings that ``compute_loss`` gets.
        """
        with self.trainer.precision_plugin.train_step_context():
            local = self.embed_batch(batch, (*self._step_key, view))
        return in_full_precision(gather_with_gradient(local) if self.gather else local)

    def embed_batch(self, batch: Batch, step_key: tuple[int, ...]) -> Tensor:
        """Augment and embed this rank's rows of a training batch; what is random depends on the key alone."""
        images = batch["images"]
        rows = len(images)
        # They stay on the CPU: what an augmentation takes of them to the device goes there without waiting for it.
        draws = self.augment.draw(step_key, rows * world_size())[rank() * rows :][:rows]

        def piece(part: Tensor, part_draws: Tensor) -> Tensor:
            return self.network(self.augment(part, part_draws))

        if self.micro_batch is None or rows <= self.micro_batch:
            return piece(images, draws)
        return embed_in_pieces(piece, images, draws, self.micro_batch, self.network)

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            # Lightning does so after it has loaded a checkpoint's weights, which rounds them, and of no average.
            for module in (self, *self._averages()):
                module.double()
        if self.augment.size is None and getattr(self.trainer, "datamodule", None) is not None:
            self.augment.match(self.network, sides(data_of(self.trainer).size))

    def on_fit_start(self) -> None:
        keep_freed_memory(self.device.type == "cpu")
        self._finite = FiniteLoss()
        if self._rates and rank() == 0:
            print(groups.table(self.trainer.optimizers[0].param_groups, self._rates["groups"], self.network))
            if self.freeze_trunk_steps:
                print(f"the trunk is frozen in the first {self.freeze_trunk_steps} steps")
        if getattr(self.network, "lora_rank", 0) and self.network.trunk_digest is None:
            rank_zero_warn("lora_rank: no .adapter is written, for nobody else has the random weights of this trunk")
        batches = self.trainer.accumulate_grad_batches
        if batches > 1:
            rank_zero_warn(
                f"accumulate_grad_batches={batches} adds up gradients of losses that see one batch each, so no more "
                f"pairs; for the pairs of a larger batch raise data.batch_size and set model.micro_batch"
            )

        layers = [layer for layer in batchnorms(self.network) if layer.training]  # frozen ones evaluate
        plain = [layer for layer in layers if not isinstance(layer, SyncBatchNorm | nn.SyncBatchNorm)]
        if world_size() > 1 and plain:
            rank_zero_warn(
                f"{len(plain)} layers of batch normalisation see a part of the batch on each of {world_size()} "
                "processes, which is another network: set trainer.sync_batchnorm, or freeze them"
            )

    def on_fit_end(self) -> None:
        keep_freed_memory(False)

    def on_train_start(self) -> None:
        if isinstance(self.network, EmbeddingNetwork) and self.network.features_wanted and self.global_step == 0:
            self.network.begin_head(self._features(self.network).cpu())  # MPS has no float64
            with torch.no_grad():  # unlike machines may turn an axis round
                weight = self.network.head.weight
                weight.copy_(self.trainer.strategy.broadcast(weight.cpu()))

    @torch.no_grad()
    def _features(self, network: EmbeddingNetwork) -> Tensor:
        """The features of as many training images as are wanted, in evaluation mode: (n, F)."""
        data = data_of(self.trainer)
        rows = np.random.default_rng(self.seed).permutation(data.sampler.rows)[: network.features_wanted]
        network.eval()
        parts = (torch.from_numpy(data.thumbnails(part)) for part in np.array_split(rows, math.ceil(len(rows) / 64)))
        seen = (self.augment(part.permute(0, 3, 1, 2).to(self.device), None) for part in parts)
        features = torch.cat([network.features_of(images) for images in seen])
        network.train()
        return features

    def _trunk(self) -> nn.Module:
        return getattr(self.network, "trunk", self.network)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if 0 < self.freeze_trunk_steps == self.global_step:
            self.network.train()  # as it has it itself
        if self.frozen or self.global_step < self.freeze_trunk_steps:  # a validation, too, has set modes anew
            groups.keep_statistics(self._trunk(), everywhere=self.global_step < self.freeze_trunk_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        key = self._step_key = (self.seed, self.current_epoch, batch_idx)
        seed_draws(hash((*key, rank())) % 2**63, self.device)  # dropout and the like: a function of the step
        local = self.embed_batch(batch, key)
        embeddings = gather_with_gradient(local)
        labels, indices = gather_with_gradient(torch.stack([batch["labels"], batch["indices"]], dim=1)).unbind(1)
        seed_draws(hash(key) % 2**63, self.device)  # a loss that draws must draw alike on every rank
        with torch.autocast(self.device.type, enabled=False):
            embeddings = in_full_precision(embeddings)
            if self.gather:
                loss = self._loss_of(batch, embeddings, labels)
            else:
                loss = self._loss_of(batch, in_full_precision(local), batch["labels"])
        noted = loss.detach() if self.gather else sum_over_ranks(loss.detach())  # on every rank alike
        self._finite.note(self.global_step, noted, embeddings.detach(), indices)
        data_of(self.trainer).sampler.record(indices, embeddings.detach())
        bar = self.trainer.progress_bar_callback  # Lightning reads what it shows at each step, and ours by itself
        shown = bar is not None and not getattr(bar, "shows_loss", False)
        self.log("train/loss", loss.detach(), prog_bar=shown, batch_size=len(labels))
        return {"loss": loss, "embeddings": embeddings.detach(), "labels": labels, "indices": indices}

    def _loss_of(self, batch: Batch, embeddings: Tensor, labels: Tensor) -> Tensor:
        try:
            return self._scalar(self.compute_loss(batch, embeddings, labels), embeddings)
        except Exception as error:
            error.add_note(f"model.loss {type(self.loss).__name__}")  # said where the error is
            raise

    def _scalar(self, loss: Any, embeddings: Tensor) -> Tensor:
        """The loss as a scalar with a gradient, of 0 where it came without one."""
        if isinstance(loss, Tensor) and loss.requires_grad and not loss.ndim:
            return loss
        if isinstance(loss, bool) or not isinstance(loss, int | float | Tensor) or torch.as_tensor(loss).ndim:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"model.loss {type(self.loss).__name__}: gave {what}; a loss gives a scalar tensor")
        if not self._told_no_gradient:
            self._told_no_gradient = True
            rank_zero_warn(
                f"model.loss {type(self.loss).__name__} gave a number without a gradient at step {self.global_step}: "
                "such steps, of which this is said once, teach nothing"
            )
        return loss + 0 * sum((p.sum() for p in self.loss.parameters() if p.requires_grad), embeddings.sum())

    def on_after_backward(self) -> None:
        # An optimiser passes over what has no gradient: no update, decay, or moments. (Parameters that ask for none
        # would be left out by DDP, which is told of them once, and never be synchronised again.)
        if self.global_step < self.freeze_trunk_steps:
            for parameter in groups.trunk_parameters(self.network):
                parameter.grad = None
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # the callbacks' figures are taken of this step
            self._check_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_finite()
        if checkpoint.get("averaging_state", {}).get("n_averaged") == 0:  # see on_validation_start
            checkpoint["state_dict"] = checkpoint["current_model_state"]
        if digest := getattr(self.network, "trunk_digest", None):
            checkpoint[TRUNK_KEY] = digest
        checkpoint[RATES_KEY] = self._rates
        checkpoint[LOSS_KEY] = loss_state.changes(self._loss_began, self.loss)
        for name in self._ddp_params_and_buffers_to_ignore if "current_model_state" in checkpoint else ():
            checkpoint["state_dict"][name] = checkpoint["current_model_state"][name]  # a memory has no average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self.trainer.state.fn != "fit":
            self._keep_own_loss(checkpoint)
            return
        if TRUNK_KEY in checkpoint:
            self.network.trunk_digest = checkpoint[TRUNK_KEY]
        where = self._trainer.strategy.root_device if self._trainer is not None else self.device
        loss_state.restore(self.loss, checkpoint.get(LOSS_KEY, {}), where)
        own = type(self).configure_optimizers is not EmbeddingModule.configure_optimizers
        if self._trainer is None or own or not checkpoint.get(RATES_KEY):
            return
        made = self.configure_optimizers()
        both = (made["optimizer"], made["lr_scheduler"]["scheduler"]) if self.scheduler else (made, None)
        go_on(checkpoint, checkpoint[RATES_KEY], self._rates, *both)

    def _keep_own_loss(self, checkpoint: dict[str, Any]) -> None:
        """An evaluation takes no loss: proxies of other classes than here are no obstacle."""
        weights = checkpoint["state_dict"]
        own, saved = ({k: v for k, v in d.items() if k.startswith("loss.")} for d in (self.state_dict(), weights))
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if k not in saved} | own

    def on_validation_start(self) -> None:
        """Until an average of weights begins it is the weights, not what they were before the head was turned."""
        self._check_finite()
        for average in self._averages():
            if not average.n_averaged:
                average.module.load_state_dict(self.state_dict())

    def _averages(self) -> list[AveragedModel]:
        """What callbacks that average weights have, in training."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        made = [callback._average_model for callback in callbacks if isinstance(callback, WeightAveraging)]
        return [average for average in made if average is not None]

    def on_validation_epoch_start(self) -> None:  # a callback that averages weights has put the average in by now
        broadcast_buffers(self.network)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        embeddings = in_full_precision(self(batch["images"]))
        return {"indices": batch["indices"], "embeddings": embeddings, "labels": batch["labels"]}

    test_step = predict_step = validation_step

    def _check_finite(self) -> None:
        self._finite.check(lambda rows: data_of(self.trainer).names(rows))

    def configure_optimizers(self) -> Any:
        make = self.optimizer or (lambda groups: torch.optim.AdamW(groups, lr=1e-3))
        found = self.parameter_groups()
        if any(isinstance(pair, dict) for pair in found):  # which would come apart as a pair does
            raise UserError("parameter_groups: give pairs, of a group as optimisers take it and its rate's factor")
        if self.freeze_trunk_steps and all(str(group.get("name")).startswith("trunk") for group, _ in found):
            raise UserError("model.freeze_trunk_steps: neither head nor loss has parameters that would learn meanwhile")
        optimizer = make([group for group, _ in found])
        learning = {id(p) for group in optimizer.param_groups for p in group["params"]}  # lists by now
        if left := [name for name, p in self.named_parameters() if p.requires_grad and id(p) not in learning]:
            rank_zero_warn(f"parameter_groups: in no group, so that they do not learn: {listed(left)}")
        factors = [factor for _, factor in found]
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] *= factor
        self._rates = describe(optimizer)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if not keep_factors(scheduler, factors):
            rank_zero_warn(f"{type(scheduler).__name__} keeps no ratio of rates: head_lr_factor, layer_decay and so on")
        if self._trainer is not None and (told := fit_to_run(scheduler, self._steps_of_run())):
            rank_zero_warn(told)
        self._rates |= describe_schedule(scheduler)
        how: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            if self._trainer is not None and not len(data_of(self.trainer).validation_rows):
                raise UserError("ReduceLROnPlateau goes by validation, and there is none: raise data.validation_share")
            self._plateau = scheduler
            how |= {"monitor": scheduler.monitor, "frequency": NEVER}  # on_validation_epoch_end steps it
        return {"optimizer": optimizer, "lr_scheduler": how}

    def _steps_of_run(self) -> float:
        """Optimiser steps of the whole run. (Lightning's estimate would make the loader before it knows from where.)"""
        limits = [self.trainer.max_steps]
        if (epochs := self.trainer.max_epochs or -1) > 0:
            limits.append(epochs * math.ceil(len(data_of(self.trainer).sampler) / self.trainer.accumulate_grad_batches))
        return min((limit for limit in limits if limit >= 0), default=math.inf)

    def on_validation_epoch_end(self) -> None:
        """ReduceLROnPlateau's step, before a checkpoint is saved. (Lightning's comes later, and not on resuming.)"""
        if self._plateau is None or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        metrics = self.trainer.callback_metrics
        if (monitor := self._plateau.monitor) not in metrics:  # type: ignore[attr-defined]
            raise UserError(
                f"model.scheduler.monitor {monitor}: no such metric; give one of {', '.join(sorted(metrics))}"
            )
        self._plateau.step(metrics[monitor])


def in_full_precision(embeddings: Tensor) -> Tensor:
    """Half precision raised to float32; float64 stays."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def seed_draws(seed: int, device: torch.device) -> None:
    """As ``torch.manual_seed``, but of the two generators alone that a step draws from: others take a millisecond."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class FiniteLoss:
    """Remembers the first step whose loss is not finite; only :meth:`check` waits for the device."""

    def __init__(self) -> None:
        self._bad_step: Tensor | None = None  # a scalar, NEVER as long as all is well
        self._latest: tuple[int, Tensor, Tensor, Tensor] | None = None

    def note(self, step: int, loss: Tensor, embeddings: Tensor, indices: Tensor) -> None:
        """Look at a training step's loss (scalar), embeddings (B, D) and rows of the image table (B,)."""
        bad = torch.where(torch.isfinite(loss), NEVER, step)
        self._bad_step = bad if self._bad_step is None else torch.minimum(self._bad_step, bad)
        self._latest = step, loss, embeddings, indices

    def check(self, names: Callable[[Sequence[int]], Sequence[str]]) -> None:
        """Raise RunError if a loss was not finite; ``names`` gives the images of rows of the image table."""
        step = NEVER if self._bad_step is None else int(self._bad_step)
        if step == NEVER or self._latest is None:
            return
        latest, loss, embeddings, indices = self._latest
        if step < latest:
            raise RunError(
                f"the loss is not finite since step {step}, as seen after step {latest}; to see of which images, go on "
                "from the last checkpoint with --trainer.log_every_n_steps 1"
            )
        rows = (~torch.isfinite(embeddings).all(dim=1)).nonzero()[:, 0]
        reason = "all embeddings are finite, so it arises in the loss; try a lower learning rate or clipping"
        if len(rows):
            shown = f"{rows[:3].tolist()}: {listed(names(indices[rows].tolist()), 3)}"
            reason = f"embeddings that are not finite: {len(rows)} (batch rows {shown})"
        raise RunError(f"the loss is {loss.item()} at step {step}: {reason}")
