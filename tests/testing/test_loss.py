"""The verdicts that losses deserve, written before they were asked: our own, others' sound ones, faulty ones."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytorch_metric_learning import losses
from torch import nn

from experiments.own.my_loss import MarginLoss
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory, LiftedStructureLoss, TripletLoss
from lifted_lightning.testing import check_loss, cost
from lifted_lightning.testing.loss import _Contract
from lifted_lightning.testing.ranks import on_two_ranks
from tests.helpers import loss_faults as faults
from tests.helpers.losses import CASES

D, CLASSES = 8, 20
GRADIENT, RANKS, STATE = "gradient of finite differences", "two ranks equal one", "goes on from a checkpoint"
EDGES = ["no positives", "no negatives", "one class", "one image", "equal points", "far points", "tiny points"]
UNLIKE = "classes of unlike size"
MUST = ["gives a scalar", "draws alike on every rank", GRADIENT, *EDGES, UNLIKE, "float16", "bfloat16", RANKS, STATE]
TOLD = ["order of the rows", "names of the classes"]
CDIST = {"bfloat16": "told"}  # torch.cdist has none on a CPU

# What differs from "holds" in a sound loss.
SOUND: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    **{name: (lambda name=name: CASES[name].loss, {}) for name in CASES},
    "memory of contrastive": (lambda: CrossBatchMemory(ContrastiveLoss(), 20, embedding_size=D), {GRADIENT: "told"}),
    "memory of triplet": (lambda: CrossBatchMemory(TripletLoss(), 20, start=1, embedding_size=D), {}),
    "memory of lifted": (lambda: CrossBatchMemory(LiftedStructureLoss(), 20, embedding_size=D), {GRADIENT: "told"}),
    "Contrastive": (losses.ContrastiveLoss, CDIST),
    "TripletMargin": (losses.TripletMarginLoss, CDIST),
    "LiftedStructure": (losses.LiftedStructureLoss, CDIST),
    "MultiSimilarity": (losses.MultiSimilarityLoss, {}),
    "ProxyAnchor": (lambda: losses.ProxyAnchorLoss(CLASSES, D), {}),
    "SoftTriple": (lambda: losses.SoftTripleLoss(CLASSES, D), {}),
    "Circle": (losses.CircleLoss, {GRADIENT: "told"}),  # its weights are constants, as in the paper
    "SupCon": (losses.SupConLoss, {}),
    "NTXent": (losses.NTXentLoss, {"float16": "fails"}),  # the smallest number that it adds bounds the logarithm
    "P2SGrad": (lambda: losses.P2SGradLoss(D, CLASSES), {GRADIENT: "told", "bfloat16": "told"}),  # proxies of length 1
    "SmoothAP": (losses.SmoothAPLoss, {UNLIKE: "told"}),  # it wants as many of each
    "CrossBatchMemory": (
        lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), D, memory_size=40), {GRADIENT: "told", **CDIST}
    ),
    "stop-gradient": (lambda: faults.Loss(faults.stop_gradient), {GRADIENT: "told"}),
    "a draw of torch's": (lambda: faults.Loss(faults.torch_draw), {}),
    "stop-gradient beside proxies": (faults.StopGradientOfProxies, {GRADIENT: "told"}),
    "plain attributes of other kinds": (faults.OtherAttributes, {}),
    "a plain attribute": (faults.PlainAttribute, {}),
    "a queue of a block without gradients": (faults.Queue, {GRADIENT: "told"}),
    "an example's": (MarginLoss, {"float16": "told", "bfloat16": "told"}),  # nor has torch.pdist
    "none": (lambda: faults.Loss(faults.sound), {}),
}  # fmt: skip

# What fails, in which question, and a word that says why.
PLANTED: dict[Callable, tuple[str, str]] = {
    faults.detached_term: (GRADIENT, ".detach at loss_faults.py"),
    faults.number_in_place_of_tensor: (GRADIENT, ".item at loss_faults.py"),
    faults.WrongBackward: (GRADIENT, "by finite differences"),
    faults.times_ranks: (RANKS, "the value is"),
    faults.gathers_again: (RANKS, "the value is"),
    faults.mean_over_none: ("no negatives", "value nan"),
    faults.root_at_zero: ("equal points", "gradient not finite"),
    faults.RootOfOwn: ("no negatives", "own parameters not finite"),
    faults.pairs_of_one: ("one image", "value nan"),
    faults.PrivateQueue: (STATE, "_queue"),
    faults.UnsavedBuffer: (STATE, "steps"),
    faults.OwnGenerator: (STATE, "generator"),
    faults.global_count: ("draws alike on every rank", "outside of itself"),
    faults.numpy_draw: ("draws alike on every rank", "numpy"),
    faults.python_draw: ("draws alike on every rank", "Python"),
    faults.half_overflow: ("float16", "value inf"),
    faults.far_overflow: ("far points", "value inf"),
    faults.tiny_overflow: ("tiny points", "not finite"),
    faults.vector: ("gives a scalar", "shape (1,)"),
    faults.plain_zero: ("no positives", "gave float"),
    faults.MaskKept: (STATE, "_same"),
    faults.single_only: ("gives a scalar", "must have embeddings.dtype"),
    faults.writes_labels: ("gives a scalar", "writes into"),
    faults.means_of_anchors: (UNLIKE, "value nan"),
    faults.mean_of_what_is_left: ("far points", "value nan"),
    faults.angle_beyond_one: ("equal points", "value nan"),
    faults.gradient_times_ranks: (RANKS, "the gradient is 2 times"),
    faults.unconnected: ("one class", "without a gradient"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_loss_has_the_verdicts_that_were_said_in_advance(name: str) -> None:
    make, differing = SOUND[name]
    found = check_loss(make(), D, two_ranks=False, costs=False)
    expected = dict.fromkeys(MUST, "holds") | {RANKS: "not asked"} | dict.fromkeys(TOLD, "told") | differing
    assert [finding for finding in found if finding.verdict != expected.get(finding.question, "not asked")] == []
    if name in CASES:
        told = [finding.detail.startswith("depends") for finding in found if finding.question in TOLD]
        assert told == [name.startswith("contrastive-given"), False]


def made(fault: Callable) -> nn.Module:
    return fault() if isinstance(fault, type) else faults.Loss(fault)


@pytest.mark.parametrize(
    "fault", [f for f, (question, _) in PLANTED.items() if question != RANKS], ids=lambda f: f.__name__
)
def test_a_fault_is_found(fault: Callable) -> None:
    question, why = PLANTED[fault]
    failed = {finding.question: finding for finding in check_loss(made(fault), D, two_ranks=False, costs=False).failed}
    assert why in failed[question].detail


def test_two_ranks_equal_one_but_for_a_fault() -> None:
    """All at once, for a process takes seconds to start."""
    contracts = {name: _Contract(make(), D) for name, (make, _) in SOUND.items()}
    contracts |= {
        fault.__name__: _Contract(made(fault), D) for fault, (question, _) in PLANTED.items() if question == RANKS
    }
    tasks = {name: contract.tasks() for name, contract in contracts.items()}
    answers = [iter(answer) for answer in on_two_ranks([task for of_one in tasks.values() for task in of_one])]
    for name, contract in contracts.items():
        of_ranks = [[next(answer) for _ in tasks[name]] for answer in answers]
        contract.found.ask(RANKS, partial(contract.compare_ranks, of_ranks))
        assert contract.found[0].verdict == ("holds" if name in SOUND else "fails"), (name, contract.found)


def test_what_a_library_raises_is_told_where_it_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    found = check_loss(faults.Loss(faults.raises_in_a_library), D, costs=False)
    assert "RuntimeError" in found[0].detail
    assert "(loss_faults.py:" in found[0].detail
    found.show()
    assert "No more is asked until this holds." in capsys.readouterr().out


def test_what_a_rank_raises_is_told() -> None:
    found = {finding.question: finding for finding in check_loss(faults.Loss(faults.raises_on_a_rank), D, costs=False)}
    assert found[RANKS].verdict == "fails"
    assert "rank 1 of two raises ValueError: my own words (loss_faults.py:" in found[RANKS].detail


def test_a_parameter_that_is_not_used_is_told() -> None:
    failed = check_loss(faults.Unused(), D, costs=False).failed
    assert [(finding.question, finding.detail.split()[0]) for finding in failed] == [(RANKS, "spare")]


def test_a_loss_that_reaches_no_other_process_is_not_asked() -> None:
    local = faults.Loss(lambda x, labels: faults.sound(x, labels))
    found = {finding.question: finding for finding in check_loss(local, D, costs=False)}
    assert found[RANKS].verdict == "not asked"
    assert "cannot be handed to another process" in found[RANKS].detail


@pytest.mark.parametrize(
    ("loss", "question", "told"),
    [
        (faults.Loss(faults.loop_over_rows), "time and memory", "a loop over the batch"),
        (faults.Loss(faults.cube_of_rows), "time and memory", "memory as B^"),
        (faults.Loss(faults.reads_a_number), "graph breaks", "Tensor.item"),
        (faults.Loss(faults.label_by_value), "names of the classes", "though it has no parameters"),
        (faults.Loss(faults.labels_counted), "names of the classes", "though it has no parameters"),
        (faults.Loss(faults.pairs_counted), GRADIENT, "nothing is learnt"),
        (losses.SmoothAPLoss(), "order of the rows", "depends on the order"),
        (LiftedStructureLoss(), "graph breaks", "0 breaks"),
        (LiftedStructureLoss(), "order of the rows", "does not depend"),
        (LiftedStructureLoss(), "names of the classes", "does not depend"),
        (LiftedStructureLoss(), "time and memory", "operations"),
        (faults.NamelessProxies(5), "time and memory", "time as B^"),
    ],
)
def test_what_is_told(monkeypatch: pytest.MonkeyPatch, loss: nn.Module, question: str, told: str) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.1)
    costs = question in ("time and memory", "graph breaks")
    classes = 5 if isinstance(loss, faults.NamelessProxies) else None
    found = {f.question: f for f in check_loss(loss, D, classes, two_ranks=False, costs=costs)}
    assert found[question].verdict == "told"
    assert told in found[question].detail


@pytest.mark.parametrize("fault", [faults.mean_over_none, faults.angle_beyond_one], ids=lambda fault: fault.__name__)
def test_the_example_is_small_and_shows_it(fault: Callable) -> None:
    """One shows it in round numbers, the other in a last digit."""
    found = check_loss(faults.Loss(fault), D, two_ranks=False, costs=False).failed[0]
    pasted: dict[str, torch.Tensor] = {}
    exec(found.example, {"torch": torch}, pasted)
    assert len(pasted["labels"]) <= 2
    assert not fault(*pasted.values()).isfinite()


def test_nothing_outside_is_changed() -> None:
    memory = CrossBatchMemory(ContrastiveLoss(), 40, embedding_size=D)
    before, state = copy.deepcopy(memory.state_dict()), torch.get_rng_state()
    check_loss(memory, D, two_ranks=False, costs=False)
    assert memory.seen == 0
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
