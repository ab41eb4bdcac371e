"""The whole command: its files, the same on every run; the page; its clear lines."""

import csv
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.cli import main
from lifted_lightning.pictures.style import PALETTE
from lifted_lightning.report.figures import draw_figures
from tests.helpers.run_folders import make_run, make_sweep
from tests.report.test_compare import compared

KINDS = ("png", "svg", "pdf")
EXPECTED = {
    "report.md", "index.html",
    *(f"{table}.{kind}" for table in ("table", "differences", "tests") for kind in ("csv", "tex")),
    *(f"{figure}.{kind}" for figure in ("recall", "embedding_size", "cost", "curves", "time") for kind in KINDS),
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three losses at two sizes, one run with pictures, and the report of it."""
    folder = tmp_path_factory.mktemp("runs") / "sizes"
    make_sweep(folder / "small")
    make_sweep(folder / "large", embedding_size=128)
    plots = folder / "large" / "liftedstructureloss-2" / "plots"
    plots.mkdir()
    for name in ("tsne_test.png", "gallery_test.png", "confusions_test.png"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(plots / name)
    assert main(["report", str(folder), "--by", "loss,embedding_size"]) == 0
    return folder


def test_files_are_the_same_on_every_run_and_wherever_the_runs_lie(sweep: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in (sweep / "report").iterdir()}
    assert set(first) == EXPECTED
    elsewhere = tmp_path / "deep" / "copy"
    shutil.copytree(sweep, elsewhere, ignore=shutil.ignore_patterns("report"))
    command = ["report", os.path.relpath(elsewhere), "--by", "loss,embedding_size", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-m", "lifted_lightning.cli", *command], check=True, env=environment)
    second = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert second == first


class Page(HTMLParser):
    """Collects a page's addresses, its open elements, and its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_no_other_file_and_no_script(sweep: Path) -> None:
    text = (sweep / "report" / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.addresses) == 5 + 3  # figures, and the pictures of the best run
    assert all(address.startswith("data:image/") for address in page.addresses)
    for outside in ("http:", "https:", "url(", "@import"):
        assert outside not in text
    assert "sizes" not in text  # nothing of where the runs lie but their own folders
    assert "LiftedStructure, embedding size 128: large/liftedstructureloss-2, R@1 75.0 %" in text


def test_markdown_shows_figures_that_are_there(sweep: Path) -> None:
    text = (sweep / "report" / "report.md").read_text()
    for stem in ("recall", "embedding_size", "cost", "curves", "time"):
        assert f"]({stem}.png)" in text
    assert "## Paired differences" in text
    assert "## Batches at the end of training" in text


def test_csv_has_all_metrics_in_full(sweep: Path) -> None:
    with open(sweep / "report" / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    row = next(r for r in rows if r["loss"] == "Triplet" and r["embedding size"] == "128")
    assert float(row["R@1"]) == pytest.approx(0.712)
    assert float(row["AMI"]) == pytest.approx(0.8 * 0.712)
    assert row["steps"] == "100"
    assert rows[0]["loss"] == "raw pixels"


def test_a_single_run_and_one_without_history(tmp_path: Path) -> None:
    make_run(tmp_path / "s" / "a", history=[])
    assert main(["report", str(tmp_path / "s" / "a" / "result.json"), "--out", str(tmp_path / "out")]) == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.svg")} == {"recall"}


def test_what_figures_leave_out_is_said(tmp_path: Path) -> None:
    for width in range(12):
        make_run(tmp_path / "runs" / str(width), score=0.5 + width / 100, model__network__init_args__width=width)
    captions = {figure.stem: figure.caption for figure in draw_figures(compared(tmp_path / "runs"), tmp_path)}
    assert set(captions) == {"recall", "width", "cost", "curves", "time"}
    cut = [stem for stem, caption in captions.items() if "the best 9 of 12 rows" in caption]
    assert cut == ["recall", "cost", "curves", "time"]
    assert "the best 9 of 12 rows" in (tmp_path / "recall.svg").read_text()
    assert captions["recall"].endswith(
        "not drawn: LiftedStructure, width 0; LiftedStructure, width 1; LiftedStructure, width 2"
    )
    assert "all: LiftedStructure;" in captions["recall"]  # once, and not in each of nine names


def test_quality_stands_against_what_all_rows_tell_of_their_cost(tmp_path: Path) -> None:
    for number, loss in enumerate(("TripletLoss", "LiftedStructureLoss")):
        cost = {"fit": {"core_seconds": 10.0 + 90 * number, "gpu_seconds": 0.0}}
        make_run(tmp_path / "runs" / loss, loss=loss, cost=cost)
    make_run(tmp_path / "runs" / "none", steps=0, trainer__max_steps=0)

    def drawn() -> str:
        return {figure.stem: figure.caption for figure in draw_figures(compared(tmp_path / "runs"), tmp_path)}["cost"]

    assert "against core-seconds of training" in drawn()
    assert drawn().endswith("not drawn: untrained network")
    assert "the best" not in drawn()
    make_run(tmp_path / "runs" / "old", loss="ContrastiveLoss")
    assert "against seconds of training" in drawn()


def test_a_loss_with_several_lines_has_one_colour(tmp_path: Path) -> None:
    for loss in ("TripletLoss", "LiftedStructureLoss"):
        for size in (28, 56):
            for width in (8, 16):
                changes = {"data__size": size, "model__network__init_args__width": width}
                make_run(tmp_path / "runs" / f"{loss}-{size}-{width}", loss=loss, **changes)
    draw_figures(compared(tmp_path / "runs", "loss", "size", "width"), tmp_path)
    drawn = (tmp_path / "cost.svg").read_text()
    assert drawn.count("size 56, width") == 4, "each loss has four lines, two of this size"
    assert {colour for colour in PALETTE if colour in drawn} == {PALETTE[1], PALETTE[2]}


HOSTILE = "BODY\n\\input{x}\x1b[31m <script>alert(1)</script> {{ 7 * 7 }} | $x$"


def test_names_from_data_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for share in ("=1+1", "@x"):
            odd = {"data__sampler__init_args__neighbours": share, "baseline_name": "=A1"}
            make_run(tmp_path / "r" / f"{seed}{share}", seed, dataset=HOSTILE, **odd)
    assert main(["report", str(tmp_path / "r"), "--out", str(tmp_path)]) == 0
    written = [tmp_path / name for name in ("index.html", "report.md", "table.csv", "table.tex", "differences.tex")]
    texts = {path.suffix: path.read_text() for path in written}
    page = Page(texts[".html"])
    assert page.open == []
    assert "script" not in page.tags
    assert "{{ 7 * 7 }}" in texts[".html"]
    assert "<script" not in texts[".md"].replace("\\<", "")
    assert "\x1b" not in "".join([*texts.values(), capsys.readouterr().out])
    assert all(line.startswith(("%", "\\", "Lift", "loss", "diff", "=A1")) for line in texts[".tex"].splitlines())
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["'=A1", "LiftedStructure", "LiftedStructure"]
    assert [row["neighbours"] for row in rows] == ["", "'=1+1", "'@x"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: no run below it"),
        (["empty", "runs"], "empty: no run below it"),
        (["broken"], "broken/a/result.json: is not a run's result"),
        (["unfinished"], "unfinished/a: no result.json, failed or unfinished"),
        (["runs", "--by", "embeding_size"], "no run has such a setting; did you mean embedding_size?"),
        (["runs", "--out", "file/report"], "--out file/report: cannot be written (Not a directory); give another"),
    ],
)  # fmt: skip
def test_one_clear_line(tmp_path: Path, monkeypatch: Any, capsys: Any, arguments: list[str], line: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "a")
    (make_run(tmp_path / "broken" / "a") / "result.json").write_text("{")
    (tmp_path / "unfinished" / "a").mkdir(parents=True)
    (tmp_path / "unfinished" / "a" / "config.yaml").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lifted report: ")
    assert line in error
    assert error.count("\n") == 1
