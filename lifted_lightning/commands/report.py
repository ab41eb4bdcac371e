"""`lifted report`: the command."""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.files import atomic, writing
from lifted_lightning.runs.folder import RESULT

if TYPE_CHECKING:
    from lifted_lightning.report.compare import Comparison

SHOWN = 40  # differences in a terminal; the report has all


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    from lifted_lightning.report.compare import compare
    from lifted_lightning.report.read import read_runs

    by = [key.strip() for key in (options.by or "").split(",") if key.strip()]
    comparison = compare(read_runs(options.runs), by)
    gc.freeze()  # what was read stays: looking through it again and again would take a tenth of the time
    out = Path(options.out) if options.out else Path(options.runs[0].removesuffix(RESULT)) / "report"
    with writing(f"--out {out}"):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    write(comparison, out)
    for line in comparison.notes:
        print(f"note: {line}")
    print(f"report: {os.path.relpath(out / 'index.html')}, and Markdown, LaTeX, CSV, PNG, SVG beside it")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of `lifted report`."""
    result = CommandParser(
        prog="lifted report",
        description="Compare finished runs: means with intervals over seeds, paired differences, and figures.",
    )
    result.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders above them")
    result.add_argument(
        "--by",
        help="settings to show as columns, separated by commas: loss, embedding_size, dataset, or any setting "
        "of config.yaml by its name or the end of it (neighbours); by default all that tell the runs apart",
    )
    result.add_argument("--out", help="the folder to write to; by default report/ in the first RUNS")
    return result


def write(comparison: "Comparison", out: Path) -> None:
    """Print the two tables that matter most, and write all tables, figures and pages into a folder."""
    from lifted_lightning.report import formats, page, tables
    from lifted_lightning.report.compare import brought_along
    from lifted_lightning.report.figures import draw_figures

    results, differences = tables.results(comparison), tables.paired(comparison)
    bold = sys.stdout.isatty()
    print(formats.terminal(results, bold))
    if 0 < len(differences) <= SHOWN:
        print(formats.terminal(differences, bold))
    files = {"table.csv": formats.csv(tables.everything(comparison)), "table.tex": formats.latex(results)}
    if len(differences):
        files["differences.csv"] = formats.csv(tables.paired(comparison, tables.MOST_PAIRS))
        files["differences.tex"] = formats.latex(differences)
    ledger = {"costs": tables.costs(comparison), "provenance": tables.provenance(comparison)}
    for name, table in ledger.items():
        files |= {f"{name}.csv": formats.csv(table), f"{name}.tex": formats.latex(table)} if len(table) else {}
    others = [differences, tables.further(comparison), tables.diagnostics(comparison), *ledger.values()]
    others.append(tables.published(comparison))
    others = [table for table in others if len(table)]
    report = page.Report(comparison, results, others, draw_figures(comparison, out), brought_along(comparison))
    files |= {"report.md": page.markdown_page(report), "index.html": page.html_page(report, out)}
    for name, text in files.items():
        with atomic(out / name, "w") as file:
            file.write(text)
