"""`lifted report`: the command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic
from lifted_lightning.report import figures, page, tables
from lifted_lightning.report.compare import Comparison, compare
from lifted_lightning.report.read import read
from lifted_lightning.report.table import Table, as_csv, latex, plain

SHOWN = 40  # differences in a terminal; the report has all


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    by = [key.strip() for key in (options.by or "").split(",") if key.strip()]
    comparison = compare(read(options.runs), by)
    out = Path(options.out) if options.out else Path(options.runs[0]) / "report"
    _make(out)
    results, differences = tables.results(comparison), tables.paired(comparison)
    _print(results, differences, comparison.warnings)
    write(comparison, results, differences, out)
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


def write(comparison: Comparison, results: Table, differences: Table, out: Path) -> None:
    """Write tables, figures and pages into a folder."""
    files = {"table.csv": as_csv(tables.everything(comparison)), "table.tex": latex(results)}
    if differences.rows:
        files["differences.csv"] = as_csv(tables.paired(comparison, tables.MOST_PAIRS))
        files["differences.tex"] = latex(differences)
    others = [
        differences,
        tables.further(comparison),
        tables.diagnostics(comparison),
        tables.published(comparison),
    ]
    drawn = figures.draw(comparison, out)
    report = page.Report(comparison, results, [table for table in others if table.rows], drawn)
    files["report.md"] = page.markdown_page(report)
    files["index.html"] = page.html_page(report, out)
    for name, text in files.items():
        with atomic(out / name, "w") as file:
            file.write(text)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror or error}); give another") from error


def _print(results: Table, differences: Table, warnings: Sequence[str]) -> None:
    bold = sys.stdout.isatty()
    print(plain(results, bold))
    if 0 < len(differences.rows) <= SHOWN:
        print(plain(differences, bold))
    for line in warnings:
        print(f"note: {line}")
