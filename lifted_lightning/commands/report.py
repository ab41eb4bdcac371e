"""`lifted report`: the command."""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import counted, listed
from lifted_lightning.files import atomic, writing
from lifted_lightning.runs.folder import CHECKPOINTS, RESULT

if TYPE_CHECKING:
    import pandas as pd

    from lifted_lightning.report.compare import Comparison

SHOWN = 40  # lines of differences and of tests in a terminal; the report has all
ENSEMBLES = "ensembles"  # the folder in the report's that has the results of models together


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    from lifted_lightning.report.compare import compare
    from lifted_lightning.report.read import find_runs, that_count

    by = [key.strip() for key in (options.by or "").split(",") if key.strip()]
    frame, notes = find_runs(options.runs)
    out = Path(options.out) if options.out else Path(options.runs[0].removesuffix(RESULT)) / "report"
    with writing(f"--out {out}"):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    ensembles = evaluate_ensembles(frame, notes, out / ENSEMBLES) if options.ensemble else []
    comparison = compare(that_count(frame, notes), by)
    gc.freeze()  # what was read stays: looking through it again and again would take a tenth of the time
    write(comparison, out, ensembles)
    for line in comparison.notes:
        print(f"note: {line}")
    print(f"report: {os.path.relpath(out / 'index.html')}, and Markdown, LaTeX, CSV, PNG, SVG, PDF beside it")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of `lifted report`."""
    result = CommandParser(
        prog="lifted report",
        description="Compare finished runs: means with intervals over seeds or folds, paired tests, and figures.",
    )
    result.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders above them")
    result.add_argument(
        "--by",
        help="settings to show as columns, separated by commas: loss, embedding_size, dataset, or any setting "
        "of config.yaml by its name or the end of it (neighbours); by default all that tell the runs apart",
    )
    result.add_argument("--out", help="the folder to write to; by default report/ in the first RUNS")
    result.add_argument(
        "--ensemble",
        action="store_true",
        help="evaluate the runs' checkpoints on the test classes: each alone, and with the embeddings of one "
        "configuration's folds (or seeds) concatenated; done once, kept below the report's folder",
    )
    return result


def evaluate_ensembles(frame: "pd.DataFrame", notes: list[str], folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Evaluate the models of each configuration, alone and together: those of a seed's folds, or without folds all.

    Args:
        frame: the runs, see ``report.read.Runs``; those without a test are given theirs.
        notes: a line on what was done, and on each run that has no part in it, is added.
        folder: of the results.

    Returns:
        The results, as ``report.tables.ensembles`` takes them.
    """
    sys.path.insert(0, os.getcwd())  # a network of the user's own
    from lifted_lightning.inference.ensemble import Member, evaluate_together, kept_results
    from lifted_lightning.runs.evaluations import looks_at_test

    runs = frame["run"]
    there = runs[["folder", "result"]].apply(lambda run: _selected_checkpoint(*run), axis=1)
    kept = kept_results(folder) if there.isna().all() else {}  # a report is made anew where no model is left
    here = there.notna() | runs["name"].map(lambda name: (name,) in kept)
    # A model counts once: of a run and its `lifted test`, the folder that has it.
    order = here.sort_values(ascending=False, kind="stable").index
    runs = runs.loc[order].drop_duplicates(["same", "seed", "fold"]).sort_index()
    here = here[runs.index]
    if without := runs["name"][~here].tolist():
        notes.append(f"without their selected checkpoint, so that they are not in an ensemble: {listed(without)}")
    results, written = list[tuple[Path, dict[str, Any]]](), 0
    for _, of in runs[here].groupby("same", sort=False):
        groups = [group for _, group in of.groupby("seed" if of["fold"].nunique() > 1 else "same", sort=False)]
        most = max(map(len, groups))
        for group in groups:
            if len(group) < most:
                notes.append(f"fewer folds than other seeds have, not concatenated: {listed(group['name'].tolist())}")
            if kept:
                names = dict.fromkeys([*((name,) for name in group["name"]), tuple(group["name"])])
                found, new = [kept[name] for name in names if name in kept], 0
            else:
                members = [Member(run["name"], there[i], run["result"]) for i, run in group.iterrows()]
                found, new = evaluate_together(members, folder, together=len(group) == most)
            written += new
            for i, result in zip([*group.index, group.index[0]], found, strict=False):  # the last is of all together
                results.append((group.at[i, "folder"], result))
                run, values = group.at[i, "result"], {}
                if not run["test"]:
                    run["test"] = result["test"]
                    values = {f"test/{name}": value for name, value in result["test"].items()}
                if isinstance(run.get("test_looks"), int):
                    values["test_looks"] = looks_at_test(group.at[i, "folder"], run["dataset"])
                for name, value in values.items():
                    frame.loc[i, ("value", name)] = value
    counts = f"{counted(written, 'result')} written, {len(results) - written} found there"
    notes.append(f"models alone and together, in {folder.name}/ of the report: {counts}")
    return results


def _selected_checkpoint(folder: Path, result: dict[str, Any]) -> Path | None:
    """The checkpoint that the run's test is of: the best on the validation classes, else the last, if it was that."""
    last = ["last"] * (result.get("selected_step") == result.get("steps"))
    names = [folder / CHECKPOINTS / f"{name}.ckpt" for name in ("best", *last)]
    return next((path for path in names if path.is_file()), None)


def write(comparison: "Comparison", out: Path, ensembles: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Print the tables that matter most, and write all tables, figures and pages into a folder."""
    from lifted_lightning.report import formats, page, paired, tables
    from lifted_lightning.report.compare import brought_along
    from lifted_lightning.report.figures import draw_figures

    results, pairs = tables.results(comparison), paired.pairs_of(comparison)
    compared = {"ensembles": tables.ensembles(comparison, ensembles)} if ensembles else {}
    compared |= {"differences": paired.differences(pairs), "tests": paired.decisions(pairs)}
    bold = sys.stdout.isatty()
    for table in (results, *(table for table in compared.values() if 0 < len(table) <= SHOWN)):
        print(formats.terminal(table, bold))
    ledger = {"costs": tables.costs(comparison), "provenance": tables.provenance(comparison)}
    in_full = {
        "table": tables.everything(comparison),
        "differences": paired.differences(pairs, shown=False),
        "tests": paired.decisions(pairs, shown=False),
    }
    files: dict[str, str] = {}
    for name, table in ({"table": results} | compared | ledger).items():
        if len(full := in_full.get(name, table)):
            files |= {f"{name}.csv": formats.csv(full), f"{name}.tex": formats.latex(table)}
    others = [*compared.values(), tables.further(comparison), tables.diagnostics(comparison)]
    others = [table for table in (*others, *ledger.values(), tables.published(comparison)) if len(table)]
    report = page.Report(comparison, results, others, draw_figures(comparison, out), brought_along(comparison))
    files |= {"report.md": page.markdown_page(report), "index.html": page.html_page(report, out)}
    for name, text in files.items():
        with atomic(out / name, "w") as file:
            file.write(text)
