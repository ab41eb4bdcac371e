"""What stands in the tables, and how."""

import csv
import json
from pathlib import Path

import pytest
from scipy import stats

from lifted_lightning.report import tables
from lifted_lightning.report.read import read
from lifted_lightning.report.table import Cell, Estimate, Table, as_csv, as_html, latex, markdown, plain
from tests.helpers.run_folders import SCORES, make_run, make_sweep
from tests.report.test_compare import compared


def test_main_table(tmp_path: Path) -> None:
    text = markdown(tables.results(compared(make_sweep(tmp_path))))
    lines = text.splitlines()
    assert lines[0] == "| loss | seeds | R@1 | R@2 | R@4 | R@8 | MAP@R | NMI | F1 |"
    assert lines[2].startswith("| raw pixels | – | 25.0 | – |")
    scores = SCORES["LiftedStructureLoss"]
    half = 100 * stats.sem(scores) * stats.t.ppf(0.975, 4)
    assert lines[5].startswith(f"| LiftedStructure | 5 | **73.2 ± {half:.1f}** |")
    assert lines[4].startswith("| Triplet | 5 | 71.2 ± ")
    assert "†" not in text


def test_few_seeds_are_marked(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    text = markdown(tables.results(compared(tmp_path)))
    assert "| LiftedStructure | 1† | 80.0 |" in text
    assert "† fewer than 5 seeds" in text


def test_best_is_bold_within_equal_other_settings(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", embedding_size=128)
    lines = markdown(tables.results(compared(tmp_path))).splitlines()
    assert [line.split(" | ")[:2] for line in lines if "**" in line] == [
        ["| LiftedStructure", "64"],
        ["| LiftedStructure", "128"],
    ]


def test_differences_are_those_of_scipy(tmp_path: Path) -> None:
    table = tables.paired(compared(make_sweep(tmp_path)))
    rows = {row[0].value: row for row in table.rows}
    assert list(rows) == [
        "Triplet − Contrastive",
        "LiftedStructure − Contrastive",
        "LiftedStructure − Triplet",
    ]
    found = rows["LiftedStructure − Triplet"][2]
    expected = stats.ttest_rel(SCORES["LiftedStructureLoss"], SCORES["TripletLoss"]).confidence_interval(0.95)
    assert isinstance(found.value, Estimate)
    assert found.value.half is not None
    interval = (found.value.mean - found.value.half, found.value.mean + found.value.half)
    assert interval == pytest.approx(tuple(expected))
    assert found.bold == (expected.low > 0)


def test_a_difference_of_one_common_seed_is_left_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"l{seed}", seed, "LiftedStructureLoss", 0.8 + 0.01 * seed)
        run = make_run(tmp_path / f"t{seed}", seed, "TripletLoss", 0.7)
    result = json.loads((run / "result.json").read_text())
    del result["test"]["recall@1"]
    (run / "result.json").write_text(json.dumps(result))
    (row,) = csv.DictReader(as_csv(tables.paired(compared(tmp_path))).splitlines())
    assert row["seeds"].startswith("2")
    assert not row["R@1"].strip("–")
    assert row["R@2"].strip("–")


def test_differences_within_equal_columns_and_along_others(tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        for loss in ("TripletLoss", "LiftedStructureLoss"):
            for seed in range(3):
                score = 0.7 + share / 10 + seed / 100
                make_run(
                    tmp_path / f"{loss}{share}{seed}", seed, loss, score, data__sampler__init_args__neighbours=share
                )
    names = [(row[0].value, row[1].value) for row in tables.paired(compared(tmp_path)).rows]
    assert names == [
        ("LiftedStructure − Triplet", "0"),
        ("LiftedStructure − Triplet", "0.5"),
        ("Triplet: neighbours 0.5 − 0", "–"),
        ("LiftedStructure: neighbours 0.5 − 0", "–"),
    ]


def test_of_many_losses_each_is_compared_with_the_best(tmp_path: Path) -> None:
    for number in range(6):
        for seed in range(2):
            loss = f"my.package.Number{number}Loss"
            make_run(tmp_path / f"{number}-{seed}", seed, loss, 0.5 + number % 5 / 10 + seed / 100)
    comparison = compared(tmp_path)
    names = [row[0].value for row in tables.paired(comparison).rows]
    assert names == [f"Number{n} − Number4" for n in (0, 1, 2, 3, 5)]
    assert len(tables.paired(comparison, most=10).rows) == 15


def test_diagnostics_and_costs(tmp_path: Path) -> None:
    comparison = compared(make_sweep(tmp_path))
    text = markdown(tables.diagnostics(comparison))
    assert "| loss | seeds | active share | norm mean |" in text
    assert "| Triplet | 5 | 0.500 | 4.00 ± 1.96 |" in text
    text = markdown(tables.further(comparison))
    assert "| R-precision | AMI | validation R@1 | validation MAP@R | steps | selected step | training, s |" in text
    assert text.splitlines()[2].endswith("| 100 | 100 | 12.0 ± 2.0 |")


def test_published_numbers_stand_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a", dataset="sop")
    text = markdown(tables.published(compared(tmp_path)))
    assert "| sop | LiftedStructure | not told | Oh Song et al., CVPR 2016 | 62.1 |" in text
    assert "| sop | Triplet | 512 | Oh Song et al., CVPR 2016; read off a figure | – | – | 84.7 | 14.1 |" in text
    assert "not comparable" in text
    make_run(tmp_path / "b" / "c")
    assert not tables.published(compared(tmp_path / "b")).rows


def test_formats() -> None:
    row = [Cell("a_b & 50 %"), Cell("3†"), Cell(Estimate(0.5, 0.0123, 3), bold=True), Cell(None)]
    single = [Cell("<b>|"), Cell("1†"), Cell(Estimate(0.25, None, 1)), Cell(Estimate(-0.011, 0.02, 2))]
    table = Table(
        "T",
        [("x", "text"), ("seeds", "text"), ("R@1", "percent"), ("d", "points")],
        [row, single],
        {1},
        ["n"],
    )
    assert "| a_b & 50 % | 3† | **50.0 ± 1.2** | – |" in markdown(table)
    assert r"| <b>\| | 1† | 25.0 | −1.1 ± 2.0 |" in markdown(table)
    tex = latex(table)
    assert r"a\_b \& 50 \% & 3$^\dagger$ & $\mathbf{50.0} \pm 1.2$ & -- \\" in tex
    assert tex.count(r"\midrule") == 2
    assert "<td>&lt;b&gt;|</td>" in as_html(table)
    assert "<strong>50.0 ± 1.2</strong>" in as_html(table)
    head, first, second = csv.reader(as_csv(table).splitlines())
    assert head[2:5] == ["R@1", "R@1 half-width of 95 % interval", "R@1 n"]
    assert first == ["a_b & 50 %", "3", "0.5", "0.0123", "3", "", "", ""]
    assert second[2:5] == ["0.25", "", "1"]
    assert "50.0 ± 1.2" in plain(table)
    assert "\033[1m50.0 ± 1.2\033[0m" in plain(table, bold=True)


def test_an_interval_is_not_written_as_zero() -> None:
    rows = [[Cell(Estimate(0.99, 0.0003, 5))], [Cell(Estimate(0.5, 0.01, 5))], [Cell(Estimate(0.7, 0.0, 5))]]
    table = Table("T", [("R@1", "percent")], rows)
    assert [table.text(0, row[0]) for row in rows] == ["99.00 ± 0.03", "50.00 ± 1.00", "70.00"]


def test_reads_old_histories_from_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", history=[])
    (run / "metrics.csv").write_text("step,train/loss,validation/map@r\n9,1.0,\n9,,0.25\n19,,0.5\n")
    assert read([str(tmp_path)]).runs[0].history() == [
        {"step": 10, "validation/map@r": 0.25},
        {"step": 20, "validation/map@r": 0.5},
    ]
