"""What stands in the tables, against scipy.stats, and how it is written."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lifted_lightning.report import formats, paired, protocol, tables
from lifted_lightning.report.compare import Comparison
from lifted_lightning.report.formats import Table, latex, markdown, terminal
from lifted_lightning.report.statistics import Estimates
from tests.helpers.run_folders import SCORES, make_run, make_sweep
from tests.report.test_compare import compared


def cells_of(table: Table) -> list[list[str]]:
    """The rows of a table in Markdown, as text, the headings first."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def differences(comparison: Comparison, shown: bool = True) -> Table:
    return paired.differences(paired.pairs_of(comparison), shown)


def test_main_table(tmp_path: Path) -> None:
    table = tables.results(compared(make_sweep(tmp_path)))
    head, baseline, _, triplet, lifted = cells_of(table)
    assert head == ["loss", "seeds", "R@1", "R@2", "R@4", "R@8", "MAP@R", "NMI", "F1"]
    assert baseline[:4] == ["raw pixels", "–", "25.0", "–"]
    scores = SCORES["LiftedStructureLoss"]
    half = 100 * stats.sem(scores) * stats.t.ppf(0.975, 4)
    assert lifted[:3] == ["LiftedStructure", "5", f"**73.2 ± {half:.1f}**"]
    assert triplet[2].startswith("71.2 ± ")
    assert "†" not in markdown(table)
    make_run(tmp_path / "few" / "a")
    table = tables.results(compared(tmp_path / "few"))
    assert cells_of(table)[-1][:3] == ["LiftedStructure", "1†", "80.0"]
    assert "† fewer than 5 seeds" in markdown(table)


def test_a_metric_of_one_s_own_stands_in_the_second_table_as_it_is(tmp_path: Path) -> None:
    for seed, value in enumerate((2.0, 4.0)):
        run = make_run(tmp_path / str(seed), seed)
        result = json.loads((run / "result.json").read_text())
        result["test"] |= {"hub_skewness": value, "a\n|b": 1.0}
        (run / "result.json").write_text(json.dumps(result))
    comparison = compared(tmp_path)
    assert cells_of(tables.results(comparison))[0][-1] == "F1"
    head, row = cells_of(tables.further(comparison))
    at = head.index("hub_skewness")
    assert row[at].startswith("3.00 ± ")
    assert head[at + 1] == "a \\|b"
    assert "but for those of one's own" in markdown(tables.further(comparison))
    assert "hub_skewness" in csv_head(tables.everything(comparison))


def csv_head(table: Table) -> str:
    return formats.csv(table).splitlines()[0]


def test_a_baseline_of_unit_length_is_told_from_an_older_one(tmp_path: Path) -> None:
    make_run(tmp_path / "old", baseline_name="untrained trunk")
    make_run(tmp_path / "a", loss="TripletLoss", baseline_name="frozen trunk", baseline_unit_length=True)
    named = [row[0] for row in cells_of(tables.results(compared(tmp_path)))]
    assert {"untrained trunk", "frozen trunk (unit length)"} <= set(named)


def test_baselines_of_one_name_are_told_apart_by_what_they_come_from(tmp_path: Path) -> None:
    scores = {("a", 28): 0.3, ("a", 56): 0.35, ("b", 28): 0.4, ("b", 56): 0.45, ("c", 56): 0.45}
    for (trunk, size), score in scores.items():
        baseline = {"baseline": {"recall@1": score}, "baseline_name": "frozen trunk"}
        for loss in ("TripletLoss", "LiftedStructureLoss"):
            run = tmp_path / f"{trunk}-{size}-{loss}"
            make_run(run, loss=loss, model__network__init_args__trunk=trunk, data__size=size, **baseline)
    rows = cells_of(tables.results(compared(tmp_path, "loss", "trunk", "size")))
    frozen = [row[1:3] for row in rows if row[0] == "frozen trunk"]
    assert frozen == [["a", "28"], ["a", "56"], ["b", "28"], ["–", "56"]]


def test_a_baseline_of_other_classes_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "a", stage="validation", baseline_name="raw pixels")
    comparison = compared(tmp_path)
    assert comparison.stage == "test"
    assert [row[0] for row in cells_of(tables.results(comparison))] == ["loss", "LiftedStructure"]


def test_seeds_that_agree_have_an_interval(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / str(seed), seed)
    assert cells_of(tables.results(compared(tmp_path)))[-1][2] == "80.0 ± 0.0"


def test_a_baseline_is_the_mean_over_the_folds_as_its_row_is(tmp_path: Path) -> None:
    for fold in (0, 1):
        about = {"data__folds": 2, "data__fold": fold, "test": {}, "stage": "validation"}
        make_run(tmp_path / str(fold), baseline={"recall@1": 0.2 + 0.3 * fold, "map@r": None}, **about)
    head, baseline, _ = cells_of(tables.results(compared(tmp_path)))
    assert (baseline[0], baseline[head.index("R@1")], baseline[head.index("MAP@R")]) == ("raw pixels", "35.0", "–")


def test_best_is_bold_within_equal_other_settings(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", embedding_size=128)
    table = tables.results(compared(tmp_path))
    bold = [row[:2] for row in cells_of(table) if any("**" in cell for cell in row)]
    assert bold == [["LiftedStructure", "64"], ["LiftedStructure", "128"]]
    assert table.rules == [1, 4]  # below the baseline, and between the sizes
    assert latex(table).count(r"\midrule") == 3


def test_differences_are_those_of_scipy(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    make_run(tmp_path / "more", 17, "TripletLoss", 0.1)  # a seed that no other loss has
    table = differences(compared(sweep))
    names = list(table.texts["difference"])
    assert names == ["Triplet − Contrastive", "LiftedStructure − Contrastive", "LiftedStructure − Triplet"]
    mean, half, n = (frame["R@1"].iloc[2] for frame in table.numbers)
    expected = stats.ttest_rel(SCORES["LiftedStructureLoss"], SCORES["TripletLoss"])
    assert (mean - half, mean + half) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert n == 5
    assert table.bold["R@1"].iloc[2] == (expected.pvalue < 0.05)


def test_a_difference_of_one_common_seed_is_left_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"l{seed}", seed, "LiftedStructureLoss", 0.8 + 0.01 * seed)
        run = make_run(tmp_path / f"t{seed}", seed, "TripletLoss", 0.7)
    result = json.loads((run / "result.json").read_text())
    del result["test"]["recall@1"]
    (run / "result.json").write_text(json.dumps(result))
    (row,) = csv.DictReader(formats.csv(differences(compared(tmp_path))).splitlines())
    assert (row["seeds"], row["R@1"], row["R@1 n"], row["R@2 n"]) == ("2", "", "", "2")
    assert float(row["R@2"]) == pytest.approx(0.0525)


def test_differences_within_equal_columns_and_along_others(tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        for loss in ("TripletLoss", "LiftedStructureLoss"):
            for seed in range(3):
                changes = {"score": 0.7 + share / 10 + seed / 100, "data__sampler__init_args__neighbours": share}
                make_run(tmp_path / f"{loss}{share}{seed}", seed, loss, **changes)
    assert [row[:2] for row in cells_of(differences(compared(tmp_path)))[1:]] == [
        ["LiftedStructure − Triplet", "0"],
        ["LiftedStructure − Triplet", "0.5"],
        ["Triplet: neighbours 0.5 − 0", "–"],
        ["LiftedStructure: neighbours 0.5 − 0", "–"],
    ]


def test_of_many_losses_each_is_compared_with_the_best(tmp_path: Path) -> None:
    for number in range(6):
        for seed in range(2):
            loss = f"my.package.Number{number}Loss"
            make_run(tmp_path / f"{number}-{seed}", seed, loss, 0.5 + number % 5 / 10 + seed / 100)
    comparison = compared(tmp_path)
    names = [row[0] for row in cells_of(differences(comparison))[1:]]
    assert names == [f"Number{n} − Number4" for n in (0, 1, 2, 3, 5)]
    assert len(differences(comparison, shown=False)) == 15


def test_diagnostics_and_costs(tmp_path: Path) -> None:
    comparison = compared(make_sweep(tmp_path))
    head, _, triplet, _ = cells_of(tables.diagnostics(comparison))
    assert head == ["loss", "seeds", "active share", "norm mean"]
    assert triplet == ["Triplet", "5", "0.500", "4.00 ± 1.96"]
    head, *_, lifted = cells_of(tables.further(comparison))
    times = ["steps", "selected step", "training, s"]
    assert head[2:] == ["R-precision", "AMI", "validation R@1", "validation MAP@R", *times]
    assert lifted[-3:] == ["100", "100", "12.0 ± 2.0"]


def test_published_numbers_say_in_what_they_differ(tmp_path: Path) -> None:
    make_run(tmp_path / "a", dataset="sop")
    head, *rows = cells_of(tables.published(compared(tmp_path)))
    assert head == [
        "data set", "loss", "embedding size", "trunk", "pretraining", "size", "crop", "seeds", "selection", "source",
        "differs from the runs in", "R@1", "MAP@R", "NMI", "F1",
    ]  # fmt: skip
    source = "Oh Song et al., CVPR 2016"
    ours = "trunk, pretraining, size, crop"
    how = ["GoogLeNet", "ImageNet-1k", "256", "227", "not told", "not told"]
    untold = "embedding size not told, selection not told"
    assert ["sop", "LiftedStructure", "not told", *how, source, f"{ours}, {untold}", "62.1", "–", "–", "–"] in rows
    source += "; read off a figure"
    other = f"{ours}, embedding size, selection not told"
    assert ["sop", "Triplet", "512", *how, source, other, "–", "–", "84.7", "14.1"] in rows
    make_run(tmp_path / "b" / "c")
    assert not len(tables.published(compared(tmp_path / "b")))


RESNET = {
    "dataset": "cub200", "embedding_size": 512, "data__size": 256, "model__augment__init_args__size": 224,
    "model__network__init_args__trunk": "resnet50", "model__network__init_args__pretrained": True,
}  # fmt: skip


def test_published_numbers_of_the_same_protocol_alone_stand_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "a", **RESNET)
    assert "ProxyAnchor" not in str(cells_of(tables.results(compared(tmp_path))))
    (selection,) = {row[10] for row in cells_of(tables.published(compared(tmp_path))) if row[3] == "resnet50"}
    assert selection == "selection"
    monkeypatch.setattr(protocol, "PROTOCOL", protocol.PROTOCOL[:-1])
    beside = "ProxyAnchor (Kim et al., CVPR 2020; the authors' README)"
    rows = {row[0]: row for row in cells_of(tables.results(compared(tmp_path)))}
    assert rows[beside][-7:-3] == ["69.9", "79.6", "86.6", "91.4"]
    make_run(tmp_path / "b" / "c", **RESNET | {"embedding_size": 64})
    assert beside not in str(cells_of(tables.results(compared(tmp_path / "b"))))


@pytest.mark.parametrize(
    ("network", "known"),
    [
        ({"trunk": "resnet50", "pretrained": True}, ("resnet50", "ImageNet-1k")),
        ({"trunk": "timm:vit_small_patch16_224.dino", "pretrained": True}, ("vit_small_patch16_224", "dino")),
        ({"trunk": "timm:vit_small_patch16_224.dino", "pretrained": False}, ("vit_small_patch16_224", "none")),
        ({"trunk": "resnet50", "pretrained": True, "weights_file": "<run>/a.pth"}, ("resnet50", "<run>/a.pth")),
        ({"trunk": "timm:vit_small_patch16_224", "pretrained": True}, ("vit_small_patch16_224", None)),
    ],
    ids=str,
)
def test_how_a_run_came_about(network: dict[str, object], known: tuple[str, str | None]) -> None:
    settings = {f"model.network.init_args.{name}": value for name, value in network.items()}
    found = protocol.protocol_of({"dataset": "sop", "embedding_size": 64, "data.validation_share": 0.0, **settings})
    assert (found["trunk"], found["pretraining"], found["selection"]) == (*known, "last step")


def of_numbers(name: str, kind: formats.Kind, mean: list[float], half: list[float], text: str = "x") -> Table:
    """A table of one column of numbers, bold in its first row."""
    columns = [pd.DataFrame({name: values}) for values in (mean, half, [3] * len(mean))]
    texts = pd.DataFrame({"loss": [text] * len(mean), "seeds": ["3†"] * len(mean)})
    bold = columns[0].index.to_frame(name=name) == 0
    return Table("T", texts, Estimates(*columns), [kind], [i > 0 for i in range(len(mean))], "n", bold)


def test_formats() -> None:
    table = of_numbers("R@1", "percent", [0.5, -0.011, np.nan], [0.0123, np.nan, np.nan])
    assert [row[2] for row in cells_of(table)] == ["R@1", "**50.0 ± 1.2**", "−1.1", "–"]
    tex = latex(table)
    assert r"x & 3$^\dagger$ & $\mathbf{50.0} \pm 1.2$ \\" + "\n\\midrule\nx & 3$^\\dagger$ & $-1.1$" in tex
    assert tex.startswith("% T\n% n; † fewer than 5 seeds\n\\begin{tabular}{llr}\n\\toprule\nloss & seeds & R@1")
    head, first, second, third = csv.reader(formats.csv(table).splitlines())
    assert head[2:] == ["R@1", "R@1 half-width of 95 % interval", "R@1 n"]
    assert [first[2:], second[2:], third[2:]] == [["0.5", "0.0123", "3"], ["-0.011", "", "3"], ["", "", ""]]
    lines = [" ".join(line.split()) for line in terminal(table, bold=False).splitlines()[4:7]]
    assert lines == ["x 3† 50.0 ± 1.2", "", "x 3† −1.1"]
    assert "\033[1m50.0 ± 1.2\033[0m" in terminal(table, bold=True)


@pytest.mark.parametrize(
    ("kind", "mean", "half", "texts"),
    [
        ("percent", [0.99, 0.5, 0.7], [0.0003, 0.01, 0.0], ["99.00 ± 0.03", "50.00 ± 1.00", "70.00 ± 0.00"]),
        ("points", [0.01, -0.02], [0.005, 0.03], ["+1.0 ± 0.5", "−2.0 ± 3.0"]),
        ("number", [12345.0, 55.12, 0.0125], [0.0, 18.4, 0.001], ["12,345", "55.1 ± 18.4", "0.013 ± 0.001"]),
        ("points", [-0.0002, 0.0], [0.002, 0.001], ["+0.0 ± 0.2", "+0.0 ± 0.1"]),
    ],
)
def test_decimals(kind: formats.Kind, mean: list[float], half: list[float], texts: list[str]) -> None:
    """An interval is not written as zero; other numbers have three digits."""
    assert [row[2].strip("*") for row in cells_of(of_numbers("x", kind, mean, half))[1:]] == texts


@pytest.mark.parametrize(
    ("name", "in_markdown", "in_latex", "in_csv"),
    [
        ("a_b & 50 %", r"a_b \& 50 %", r"a\_b \& 50 \%", "a_b & 50 %"),
        ("<b>|*x*|_y_", r"\<b\>\|\*x\*\|\_y\_", r"\textless{}b\textgreater{}\textbar{}*x*", "<b>|*x*|_y_"),
        ("=1+1", "=1+1", "=1+1", "'=1+1"),
        ("@SUM(A1)", "@SUM(A1)", "@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "-2+3", "-2+3", "'-2+3"),
        ("-2.5e-3", "-2.5e-3", "-2.5e-3", "-2.5e-3"),
        ("-cmd", "-cmd", "-cmd", "'-cmd"),
        (r"\input{x}$", r"\\input{x}\$", r"\textbackslash{}input\{x\}\$", r"\input{x}$"),
    ],
)
def test_a_name_is_text_in_every_format(name: str, in_markdown: str, in_latex: str, in_csv: str) -> None:
    table = of_numbers("R@1", "percent", [0.5], [0.01], name)
    assert cells_of(table)[1][0] == in_markdown
    assert f"\n{in_latex}" in latex(table)
    assert next(csv.reader(formats.csv(table).splitlines()[1:]))[0] == in_csv
