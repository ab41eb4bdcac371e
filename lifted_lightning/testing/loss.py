"""The contract of a loss: what training, on one process or several, relies on, and what is good to know of it."""

import copy
import io
import pickle
import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lifted_lightning.errors import counted, listed, one_line
from lifted_lightning.testing import cost, gradient, ranks
from lifted_lightning.testing.examples import Batch, as_code, rolled, smallest
from lifted_lightning.testing.findings import Answer, ContractError, Findings, copied, raised
from lifted_lightning.training import loss_state

HALF = {torch.float16: (0.05, 0.2), torch.bfloat16: (0.1, 0.3)}  # how much of a value and a gradient may be wrong
STEPS, SAVED = 8, 4  # of a training, and after how many it is interrupted: labels do not lie as at first


def check_loss(
    loss: nn.Module,
    embedding_size: int = 8,
    num_classes: int | None = None,
    *,
    two_ranks: bool = True,
    costs: bool = True,
) -> Findings:
    """Ask a loss the questions of the contract; it takes some ten seconds.

    What must hold, else it ``fails``: a scalar of the right kind; the same draws on every rank; the gradient of finite
    differences; finite value and gradient at the edges (no positives, no negatives, one class, one image, equal,
    far and tiny points, classes of unlike size) and in half precision; two ranks equal one process; a training that
    goes on from a checkpoint equals one that was not interrupted. What is ``told``: whether it depends on the order of
    the rows or the names of the classes, its time and memory, graph breaks, and whether it waits for the device.

    Every comparison is of copies, so the loss is left as it was, and so are the generators of random numbers.

    Args:
        loss: takes embeddings (B, D) and labels (B,) int64, and gives a scalar.
        embedding_size: D, 2 at least.
        num_classes: how many classes the loss knows, for labels stay below; if not given, its attribute of this name,
            or else any number.
        two_ranks: whether two real processes are asked; a second or two more for each loss.
        costs: whether time and memory are measured and graph breaks looked for, which takes the longest.

    Returns:
        A finding for each question, always in the same order; the first alone for what gives no scalar at all.

    Raises:
        UserError: for a loss that cannot be copied.
    """
    from pytorch_lightning.utilities.seed import isolate_rng

    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Contract(loss, embedding_size, num_classes).ask(two_ranks, costs)


class _Contract:
    """The questions about one loss."""

    def __init__(self, loss: nn.Module, embedding_size: int, num_classes: int | None = None) -> None:
        self.found = Findings(type(loss).__name__)
        self.size = embedding_size
        known = num_classes or getattr(loss, "num_classes", None)
        self.classes = known if isinstance(known, int) and known > 0 else 10**6
        self.loss = copied(loss).train()
        rows = nn.functional.normalize(torch.randn(12, embedding_size, generator=torch.Generator().manual_seed(0)))
        self.batch: Batch = rows, torch.arange(12) // 3 % self.classes
        self.stateful = self.draws = False

    def ask(self, two_ranks: bool, costs: bool) -> Findings:
        """All questions, in order."""
        ask = self.found.ask
        if not ask("gives a scalar", self._scalar):
            return self.found
        ask("draws alike on every rank", self._draws)
        ask("gradient of finite differences", self._gradient)
        for name, batches in self._edges().items():
            ask(name, partial(self._finite, batches))
        ask("classes of unlike size", self._unlike_sizes)
        for dtype in HALF:
            ask(str(dtype).removeprefix("torch."), partial(self._half, dtype))
        ask("two ranks equal one", self._two_ranks if two_ranks else lambda: ("not asked", "two_ranks=False"))
        ask("goes on from a checkpoint", self._goes_on)
        ask("order of the rows", self._order)
        ask("names of the classes", self._names)
        if costs:
            ask("time and memory", self._costs)
            ask("graph breaks", self._graph_breaks)
        ask("waits for the device", self._waits)
        return self.found

    # Calls

    def copy(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The loss as it was given."""
        return copy.deepcopy(self.loss).to(dtype)

    def call(self, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Value and gradient (B, D) of a step of a copy, or of this loss."""
        (step,) = ranks.train(loss or self.copy(), [batch])
        return step.value, step.rows

    def wrong(self, batch: Batch) -> str:
        """What is wrong with value and gradient of a batch."""
        try:
            (step,) = ranks.train(self.copy(), [batch])
        except ContractError as error:
            return str(error)
        except Exception as error:
            return f"{raised(error)}, given embeddings {tuple(batch[0].shape)}"
        if not step.value.isfinite():
            return f"value {step.value.item()}"
        if rows := int((~step.rows.isfinite()).any(1).sum()):
            return f"gradient not finite in {counted(rows, 'row')}"
        return "" if _flat([step]).isfinite().all() else "gradient of its own parameters not finite"

    def must_hold(self, batch: Batch, wrong: Callable[[Batch], str], note: str = "") -> None:
        """Raise ContractError if anything is wrong with a batch, with the smallest that shows it, and a note."""
        if text := wrong(batch):
            small = smallest(batch, lambda smaller: _kind(wrong(smaller)) == _kind(text))
            raise ContractError(wrong(small), as_code(small) + note)

    # What must hold

    def _finite(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self.must_hold(batch, self.wrong)

    def _scalar(self) -> None:
        self._finite([self.batch])
        try:
            self.call((self.batch[0].double(), self.batch[1]), self.copy(torch.float64))
        except Exception as error:
            remedy = "what it makes itself must have embeddings.dtype"
            raise ContractError(f"{raised(error)} for float64, in which it is asked from here on: {remedy}") from error

    def _unlike_sizes(self) -> Answer:
        """Three images of a class and one of another, which has no positive."""
        try:
            self._finite([(self.batch[0][:4], self.batch[1][:4])])
        except ContractError as error:
            if str(error).startswith("raises"):  # some need as many of each, of a sampler
                return "told", str(error)
            raise
        return None

    def _draws(self) -> str:
        def value(batch: Batch, torchs: int = 0, others: int = 0) -> float:
            torch.manual_seed(torchs)
            random.seed(others)
            np.random.seed(others)
            return float(self.copy()(batch[0].clone().requires_grad_(), batch[1]).detach())

        def wrong(batch: Batch) -> str:
            first, again = value(batch), value(batch)
            if first != again:
                why = "something outside of itself is kept or drawn, a global or a class's attribute"
                return f"gives {first:g}, and another copy of it {again:g}: {why}"
            if first != value(batch, others=1):
                return "draws from numpy's or Python's generator, which no step seeds: use torch's"
            return ""

        self.draws = value(self.batch) != value(self.batch, torchs=1)
        self.must_hold(self.batch, wrong)
        return "draws from torch's generator, which each step seeds" if self.draws else ""

    def _gradient(self) -> Answer:
        before, loss = _kept(self.loss), self.copy()
        loss(self.batch[0].clone().requires_grad_(), self.batch[1])
        begun, after = dict(self.loss.named_parameters()), dict(loss.named_parameters())
        moved = [name for name, value in begun.items() if not torch.equal(value, after[name])]  # to a sphere, say
        self.stateful = before != _kept(loss)
        cuts: list[gradient.Cut] = []

        def wrong(batch: Batch) -> str:
            own = self.copy(torch.float64).named_parameters()
            learn = {name: value for name, value in own if value.requires_grad and name not in moved}

            def value(leaves: Sequence[Tensor]) -> Tensor:
                ranks.seed(0)
                given = dict(zip(learn, leaves[1:], strict=True))
                return torch.func.functional_call(self.copy(torch.float64), given, (leaves[0], batch[1]))

            nonlocal cuts
            text, cuts = gradient.slopes_agree(value, [batch[0].double(), *learn.values()])
            return text

        lengths = torch.linspace(0.8, 1.2, len(self.batch[1]))  # not at the ends of what a cosine is clamped to
        try:
            self.must_hold((self.batch[0] * lengths[:, None], self.batch[1]), wrong)
        except ContractError as error:
            if not cuts:
                raise
            places = listed(sorted({f"{cut.what} at {cut.where}" for cut in cuts}))
            if self.stateful:
                return "told", f"right with what it remembers held constant ({places})"
            if all(cut.what in (".detach", "no_grad") and _learns(cut.value) for cut in cuts):
                return "told", f"right with values held constant that have a gradient elsewhere ({places})"
            raise ContractError(f"a term is cut off from the gradient: {places}", error.example) from error
        if not self.call(self.batch)[1].any():
            return "told", "is 0: nothing is learnt of a batch like this"
        return ("told", f"right but for {listed(moved)}, which it sets by itself") if moved else None

    def _edges(self) -> dict[str, list[Batch]]:
        rows, labels = self.batch
        names = torch.arange(min(12, self.classes))
        return {
            "no positives": [(rows[: len(names)], names)],
            "no negatives": [(rows[:2], labels[:2])],
            "one class": [(rows, torch.zeros_like(labels))],
            "one image": [(rows[:1], labels[:1])],
            "equal points": [(rows[:1].repeat(12, 1), labels), (rows[labels], labels)],
            "far points": [(rows * 1e4, labels), (rows[labels] * 1e4, labels)],  # the latter all that can be learnt
            "tiny points": [(rows * 1e-6, labels)],
        }

    def _half(self, dtype: torch.dtype) -> Answer:
        try:
            self.call((self.batch[0].to(dtype), self.batch[1]))
        except Exception as error:  # loud, and not met in a run
            return "told", f"{raised(error)}; lifted fit gives it float32"

        def wrong(batch: Batch) -> str:
            rows = batch[0].to(dtype)
            if text := self.wrong((rows, batch[1])):
                return f"{text}; begin with embeddings.float()"
            ours, truth = self.call((rows, batch[1])), self.call((rows.float(), batch[1]))
            for what, half, single, share in zip(("value", "gradient"), ours, truth, HALF[dtype], strict=True):
                apart = float((half.float() - single).norm())
                if not self.draws and apart > share * max(float(single.norm()), 0.1 if what == "value" else 1e-3):
                    return f"{what} is {apart:.2g} off, of {float(single.norm()):.2g}; begin with embeddings.float()"
            return ""

        self.must_hold(self.batch, wrong)
        return None

    def _two_ranks(self) -> Answer:
        if any(type(module).__module__ == "__main__" for module in self.loss.modules()):
            return "not asked", "defined in a script or notebook: two ranks need it in a file to import"
        loss = self.copy()
        loss(self.batch[0].clone().requires_grad_(), self.batch[1]).backward()
        if unused := [name for name, value in loss.named_parameters() if value.requires_grad and value.grad is None]:
            raise ContractError(f"{listed(unused)} has no gradient, which DDP waits for: use it, or freeze it")
        try:
            pickle.loads(pickle.dumps(self.loss))
        except Exception as error:
            return "not asked", f"cannot be handed to another process: {one_line(error)}"
        self.compare_ranks(ranks.on_two_ranks(self.tasks()))
        return None

    def tasks(self) -> list[ranks.Task]:
        """What two ranks are to train: two steps of each batch, the smallest first."""
        rows, labels = self.batch
        apart = torch.arange(12) % min(6, self.classes)  # no positives within a rank
        batches = [(rows[:2], labels[:2]), (rows[1:5], labels[1:5]), self.batch, (rows, apart)]
        wide = [(batch[0].double(), batch[1]) for batch in batches]
        return [(self.copy(torch.float64), [batch, rolled(batch, 1)]) for batch in wide]

    def compare_ranks(self, answers: Sequence[Sequence[Sequence[ranks.Step]]]) -> None:
        """Raise ContractError where what the two ranks found, each of all tasks, is not what one process does."""
        for task, *two in zip(self.tasks(), *answers, strict=True):
            for step, (alone, *both) in enumerate(zip(ranks.train(*task), *two, strict=True)):
                if text := _apart(alone, both):
                    raise ContractError(f"at step {step} {text}", as_code(task[1][0]))

    def _goes_on(self) -> str:
        plain: dict[str, Any] = {}

        def wrong(batch: Batch) -> str:
            nonlocal plain
            unbroken, resumed = self.copy(), self.copy()
            batches = [rolled(batch, step) for step in range(STEPS)]
            before, began = _kept(unbroken), loss_state.attributes(unbroken)
            ranks.train(unbroken, batches[:SAVED])
            changed, plain = {name for name, _ in before ^ _kept(unbroken)}, loss_state.changes(began, unbroken)
            torch.save((unbroken.state_dict(), plain), file := io.BytesIO())
            file.seek(0)
            try:
                state, values = torch.load(file, weights_only=True)
            except pickle.UnpicklingError:
                return f"keeps in {listed(sorted(plain))} what no checkpoint has; use buffers, numbers, texts, lists"
            resumed.load_state_dict(state)
            loss_state.restore(resumed, values, torch.device("cpu"))
            rest = (ranks.train(loss, batches[SAVED:], SAVED) for loss in (unbroken, resumed))
            for a, b in zip(*rest, strict=True):
                if not torch.allclose(a.value, b.value, rtol=1e-6, atol=0, equal_nan=True):
                    lost = sorted(changed - plain.keys() - state.keys())
                    why = f"{listed(lost)} not saved" if lost else "what it keeps outside of itself is not saved"
                    shown = f"gives {float(b.value):.6g} after loading, {float(a.value):.6g} without"
                    return f"{shown}: {why}; use buffers or plain attributes"
            return ""

        note = f"\n# each step labels rolled by one, rows a tenth longer; saved after step {SAVED}"
        self.must_hold(self.batch, wrong, note)
        return f"with its plain attributes {listed(sorted(plain))}" if plain else ""

    # What is told

    def _order(self) -> Answer:
        order = torch.randperm(len(self.batch[1]), generator=torch.Generator().manual_seed(1))
        other = self.batch[0][order], self.batch[1][order]
        return self._compare(other, "the order of its rows", "as a loss of given pairs does")

    def _names(self) -> Answer:
        last = min(12, self.classes) - 1
        labels = last - self.batch[1] * (last // max(1, int(self.batch[1].max())))  # with gaps, if there are as many
        own = any(True for _ in self.loss.parameters())
        why = "as with class proxies" if own else "though it has no parameters: is a label compared by value?"
        return self._compare((self.batch[0], labels), "which class has which label", why)

    def _compare(self, other: Batch, what: str, why: str) -> Answer:
        batches = [(rows.double(), labels) for rows, labels in (self.batch, other)]
        one, two = (self.call(batch, self.copy(torch.float64))[0] for batch in batches)
        return "told", f"does not depend on {what}" if _same(one, two) else f"depends on {what}, {why}"

    def _costs(self) -> Answer:
        loss = self.copy()

        def step(rows: int) -> None:
            embeddings = nn.functional.normalize(torch.randn(rows, self.size))
            self.call((embeddings, torch.arange(rows) // 4 % self.classes), loss)

        found = cost.costs(step)
        if len(found) < 3:
            return "told", f"takes no batch of {cost.SIZES[len(found)]}"
        last = found[-1]
        loop, few = cost.exponent(found[:3], "operations"), found[2].operations
        parts = [
            f"time as B^{cost.exponent(found, 'seconds'):.1f}",
            f"memory as B^{cost.exponent(found, 'bytes'):.1f}",
            f"at B={last.rows:,} on a CPU {last.seconds * 1000:.3g} ms and {last.bytes / 1e6:.3g} MB",
            f"24 GB end near B={float(f'{cost.most_rows(found):.2g}'):,.0f}",
            f"operations grow as B^{loop:.1f}: a loop over the batch" if loop > 0.5 else f"{few} operations",
        ]
        return "told", "; ".join(parts)

    def _graph_breaks(self) -> Answer:
        loss = self.copy()
        rows = self.batch[0].clone().requires_grad_()
        try:
            count, places = cost.graph_breaks(lambda: loss(rows, self.batch[1]))
        except Exception as error:
            return "told", f"torch.compile cannot follow it: {one_line(error)}"
        return "told", f"{counted(count, 'break')}{': ' if places else ''}{listed(places, 3)}"

    def _waits(self) -> Answer:
        if not torch.cuda.is_available():
            return "not asked", "no CUDA device here"
        loss, batch = self.copy().cuda(), (self.batch[0].cuda(), self.batch[1].cuda())
        self.call(batch, loss)  # libraries are loaded before the watch begins
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.call(batch, loss)
        except RuntimeError as error:
            return "told", f"a step waits for the device: {raised(error)}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return "told", "a step reads nothing from the device"


def _kind(text: str) -> list[str]:
    """What tells one failure from another: its first word, and which error is raised."""
    return text.split(" ")[: 2 if text.startswith("raises") else 1]


def _learns(value: Tensor) -> bool:
    """Whether a gradient has reached a value, by another way than the one that was cut."""
    return value.grad is not None and bool(value.grad.any())


def _kept(loss: nn.Module) -> set[tuple[str, bytes]]:
    """All that a loss and its modules hold but parameters, by name, in a form to compare."""
    plain = vars(nn.Module())
    return {
        (f"{path}.{name}".lstrip("."), _bytes(value))
        for path, module in loss.named_modules()
        for name, value in (vars(module) | module._buffers).items()
        if name not in plain
    }


def _bytes(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:
        return repr(value).encode()


def _apart(alone: ranks.Step, both: Sequence[ranks.Step]) -> str:
    """In what two ranks differ from one process."""
    found = {
        "value": (alone.value.expand(len(both)), torch.stack([rank.value for rank in both])),
        "gradient": (alone.rows, torch.cat([rank.rows for rank in both])),
        "gradient of its own parameters": (_flat([alone] * len(both)), _flat(both)),
    }
    for what, (one, two) in found.items():
        if not _same(one, two):
            factor = float((one * two).sum() / one.square().sum().clamp_min(1e-300))
            times = f"{factor:.3g} times" if torch.allclose(factor * one, two, rtol=1e-5) else "not"
            return f"the {what} is {times} that of one process"
    return ""


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-6, atol=1e-9, equal_nan=True)


def _flat(steps: Sequence[ranks.Step]) -> Tensor:
    return torch.cat([torch.zeros(0), *(gradient.flatten() for step in steps for gradient in step.own)])
