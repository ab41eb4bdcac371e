"""Which runs count, which belong together, what the rows are called, and what is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.report.compare import Comparison, brought_along, compare, show
from lifted_lightning.report.paired import differences, pairs_of
from lifted_lightning.report.read import find_runs, that_count
from lifted_lightning.report.tables import results
from tests.helpers.run_folders import make_run, make_sweep


def compared(folder: Path, *by: str) -> Comparison:
    return compare(that_count(*find_runs([str(folder)])), by)


def rows(comparison: Comparison) -> list[tuple[Any, ...]]:
    """Each row's columns, and the seeds of its runs."""
    settings = comparison.rows[comparison.columns].to_numpy().tolist()
    seeds = comparison.runs.groupby("row")["seed"].apply(list)
    return [(*row, seeds[i]) for i, row in enumerate(settings)]


def test_groups_are_everything_but_the_seed(tmp_path: Path) -> None:
    comparison = compared(make_sweep(tmp_path))
    seeds = [0, 1, 2, 3, 4]
    assert rows(comparison) == [("Contrastive", seeds), ("Triplet", seeds), ("LiftedStructure", seeds)]
    # Each loss's own learning rate and arguments come with it; they are no columns, and are told.
    assert comparison.columns == ["loss"]
    assert dict(brought_along(comparison))["Triplet"] == "margin 0.2, lr 0.002, mining all"
    assert comparison.notes == []
    assert comparison.metrics[:4] == ["recall@1", "recall@2", "recall@4", "recall@8"]


def test_other_settings_are_never_averaged_in_silence(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"plain-{seed}", seed, data__sampler__init_args__neighbours=(0, 0.0)[seed])  # one number
        make_run(tmp_path / f"mined-{seed}", seed, data__sampler__init_args__neighbours=0.5)
    asked = compared(tmp_path, "loss", "embedding_size")
    assert asked.columns == ["loss", "embedding_size", "data.sampler.init_args.neighbours"]
    assert rows(asked) == [("LiftedStructure", 64, 0, [0, 1]), ("LiftedStructure", 64, 0.5, [0, 1])]
    assert any("differ in neighbours, and are kept apart" in line for line in asked.notes)
    assert compared(tmp_path).columns == ["loss", "data.sampler.init_args.neighbours"]
    assert compared(tmp_path, "neighbours").notes == []


def test_data_sets_are_kept_apart_even_where_each_loss_has_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"a-{seed}", seed, dataset="cars196")
        make_run(tmp_path / f"b-{seed}", seed, dataset="omniglot", loss="TripletLoss")
    comparison = compared(tmp_path)
    assert rows(comparison) == [("LiftedStructure", "cars196", [0, 1]), ("Triplet", "omniglot", [0, 1])]
    assert len(differences(pairs_of(comparison))) == 0
    assert not results(comparison).bold.to_numpy().any()


def test_labels_tell_forms_of_a_loss_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a", loss="TripletLoss")
    make_run(tmp_path / "b", loss="TripletLoss", loss_arguments={"mining": "hard", "margin": 0.5})
    make_run(tmp_path / "c")
    make_run(tmp_path / "d", loss_arguments={"smooth": False, "margin": 2.0})
    other = "pytorch_metric_learning.losses.LiftedStructureLoss"
    make_run(tmp_path / "e", loss=other, loss_arguments={"neg_margin": 1.0})
    make_run(tmp_path / "f", loss="pytorch_metric_learning.losses.ProxyAnchorLoss")
    make_run(tmp_path / "g", steps=0, trainer__max_steps=0)
    labels = list(compared(tmp_path).rows["loss"])
    assert labels == [
        "untrained network",
        "Triplet (mining=all)",  # the margin is tuned to the mining, and does not tell more
        "Triplet (mining=hard)",
        "LiftedStructure (pytorch-metric-learning)",
        "LiftedStructure (smooth=false)",
        "LiftedStructure (smooth=true)",
        "ProxyAnchor",
    ]


def test_a_swept_argument_of_the_loss_is_a_column(tmp_path: Path) -> None:
    for margin in (0.5, 1.0):
        make_run(tmp_path / str(margin), loss_arguments={"margin": margin})
    assert rows(compared(tmp_path, "margin")) == [("LiftedStructure", 0.5, [0]), ("LiftedStructure", 1, [0])]
    assert list(compared(tmp_path).rows["loss"]) == ["LiftedStructure (margin=0.5)", "LiftedStructure (margin=1)"]


def test_a_list_of_classes_is_told_by_names_and_what_they_were_given(tmp_path: Path) -> None:
    averaging = {"class_path": "lightning.EMAWeightAveraging", "init_args": {"decay": 0.9, "device": None}}
    plain = {"class_path": "my.Callback"}
    make_run(tmp_path / "averaged", trainer__callbacks=[averaging, plain])
    make_run(tmp_path / "odd", trainer__callbacks=[{"class_path": "my.Callback", "init_args": None}])
    make_run(tmp_path / "none")
    texts = results(compared(tmp_path, "callbacks")).texts
    assert sorted(texts.loc[texts["loss"] == "LiftedStructure", "callbacks"]) == [
        'EMAWeightAveraging {"decay": 0.9}, Callback',
        '[{"class_path": "my.Callback", "init_args": null}]',
        "none",
    ]
    for text in ("[{no JSON", "[{}]", '[{"class_path": 3}]', '[{"class_path": "a.B", "dict_kwargs": {}}]', "[{" * 3000):
        assert show(text) == text
    assert show('[{"class_path": "a.\\u001b[31m"}]').isprintable()


def test_runs_that_do_not_count_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "s" / "good", 0)
    make_run(tmp_path / "s" / "good-again", 0)
    make_run(tmp_path / "s" / "other-seed", 1)
    make_run(tmp_path / "s" / "validated", 2, test={}, stage="validation")
    make_run(tmp_path / "s" / "git", 3, git="0123abc")
    make_run(tmp_path / "s" / "endless", 3, steps=10**400)
    make_run(tmp_path / "s" / "curve", 3, history=[1, {"step": 2}])
    make_run(tmp_path / "s" / "text", 3, config={"data": "none"})
    unread = {"cut": '{"config": ', "list": "[]", "empty": "{}", "deep": "[" * 100_000}
    for name, text in unread.items():
        (make_run(tmp_path / "s" / name, 3) / "result.json").write_text(text)
    (tmp_path / "s" / "crashed" / "wandb" / "files").mkdir(parents=True)
    (tmp_path / "s" / "crashed" / "config.yaml").write_text("seed_everything: 0")
    (tmp_path / "s" / "crashed" / "wandb" / "files" / "config.yaml").write_text("")  # is no run
    comparison = compared(tmp_path)
    assert rows(comparison) == [("LiftedStructure", [0, 1])]
    told = [f"s/{name}/result.json: is not a run's result" for name in (*unread, "git", "endless", "curve", "text")]
    told += ["s/crashed: no result.json, failed or unfinished, not counted; go on with `lifted fit --config RUN/config"]
    told += ["counted once: s/good-again (as s/good)"]
    told += ["s/validated: evaluated on the validation classes only"]
    assert len(comparison.notes) == len(told)
    assert all(any(part in note for note in comparison.notes) for part in told), comparison.notes


def test_a_metric_that_selected_nothing_is_not_told(tmp_path: Path) -> None:
    for seed, share in enumerate((0.2, 0.2, 0.0)):
        about = {"best_checkpoint__monitor": "validation/map@r", "data__validation_share": share}
        make_run(tmp_path / "s" / f"run-{seed}", seed, **about)
    told = compared(tmp_path).protocol.astype(object)
    told = told.where(told.notna(), None)
    assert told["selection"].tolist() == ["validation classes"] * 2 + ["last step"]
    assert told["selection_metric"].tolist() == ["validation/map@r"] * 2 + [None]


def test_what_should_be_alike_is_named(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / "s" / f"run-{seed}", seed)
    changed = {"commit": "b" * 40, "changed": True}
    odd = {"steps": 60, "versions": {"torch": "2.15.0"}, "git": changed, "data__split_seed": 1}
    make_run(tmp_path / "s" / "odd", 3, **odd)
    nothing = make_run(tmp_path / "s" / "without", 4)
    result = json.loads((nothing / "result.json").read_text())
    result["test"]["nmi"] = None
    (nothing / "result.json").write_text(json.dumps(result))
    text = "\n".join(compared(tmp_path).notes)
    for told in (
        "runs differ in steps: 100 in 4 runs; 60 in s/odd",
        "runs differ in torch: 2.11.0 in 4 runs; 2.15.0 in s/odd",
        "runs differ in data.split_seed: 0 in 4 runs; 1 in s/odd",
        f"git commit: {'a' * 7} in 4 runs; {'b' * 7} with uncommitted changes in s/odd",
        "without nmi, so that its mean is of the others: s/without",
    ):
        assert told in text
    assert "data.split_seed" not in "\n".join(compared(tmp_path, "split_seed").notes)


def test_rows_that_are_not_comparable_are_marked(tmp_path: Path) -> None:
    losses = ("ContrastiveLoss", "TripletLoss", "LiftedStructureLoss")
    for loss in losses:
        for seed in (0, 1):
            trunk = {"model__network__init_args__trunk": "resnet18"} if loss == losses[1] else {}
            trials = {"tuning_trials": 4 if loss == losses[2] else None}
            make_run(tmp_path / f"{loss}{seed}", seed, loss, 0.5 + seed / 10, **trunk, **trials)
    make_run(tmp_path / "none", steps=0, trainer__max_steps=0)  # what it was not trained with makes no difference
    make_run(tmp_path / "elsewhere", dataset="sop", data__batch_size=7)  # nor what another data set is trained with
    comparison = compared(tmp_path)
    marks = {comparison.title(row): texts for row, texts in comparison.unlike.items()}
    assert marks == {"Triplet, omniglot": ["trunk"], "LiftedStructure, omniglot": ["tuning trials"]}
    assert any("differ in trunk: ConvNet in 6 runs; resnet18 in" in note for note in comparison.notes)
    rows_of = {comparison.title(row): row for row in comparison.rows.index}
    untrained, lifted = rows_of["untrained network, omniglot"], rows_of["LiftedStructure, omniglot"]
    assert comparison.unlike_pair(untrained, lifted, "loss") == []
    table = results(comparison)
    told = dict(
        zip(
            table.texts["loss"] + table.texts["data set" if "data set" in table.texts else "dataset"],
            table.texts["differs in"],
            strict=True,
        )
    )
    assert told["Tripletomniglot"] == "trunk"
    assert told["Contrastiveomniglot"] == "–"
    assert "not comparable" in table.note
    pairs = differences(pairs_of(comparison)).texts
    assert list(pairs["differs in"]) == ["trunk", "tuning trials", "trunk, tuning trials"]
    assert "trunk" not in compared(tmp_path, "trunk", "loss").protocol  # what was asked for is no fault


def test_of_two_rows_neither_is_the_one_that_differs(tmp_path: Path) -> None:
    for loss, steps in (("TripletLoss", 100), ("LiftedStructureLoss", 60)):
        make_run(tmp_path / loss, loss=loss, steps=steps)
    assert compared(tmp_path).unlike == {0: ["steps"], 1: ["steps"]}


def test_validation_results_where_there_are_no_others(tmp_path: Path) -> None:
    make_run(tmp_path / "a", test={}, stage="validation")
    comparison = compared(tmp_path)
    assert comparison.stage == "validation"
    assert any("validation classes" in line for line in comparison.notes)
    assert comparison.scores[0] == pytest.approx(0.8)


def test_by_takes_the_end_of_a_name_and_says_what_is_unknown(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    optimizer = ["loss", "model.optimizer.class_path", "model.optimizer.init_args.lr"]
    assert compared(tmp_path, "optimizer", "lr", "dataset").columns == [*optimizer, "dataset"]
    assert compared(tmp_path, "model.optimizer.lr").columns == [optimizer[0], optimizer[2]]  # as `lifted fit` takes it
    with pytest.raises(UserError, match=r"--by nieghbours: .*did you mean neighbours"):
        compared(tmp_path, "nieghbours")
    with pytest.raises(UserError, match="--by workers: no run has such a setting"):
        compared(tmp_path, "workers")  # is of the machine
