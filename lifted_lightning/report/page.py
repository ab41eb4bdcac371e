"""The report as one Markdown file, and as one HTML file that needs no other."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lifted_lightning.errors import counted
from lifted_lightning.report.compare import Comparison, words
from lifted_lightning.report.figures import Drawn
from lifted_lightning.report.formats import Table, markdown, markdown_text, with_interval
from lifted_lightning.report.protocol import NOT_TOLD
from lifted_lightning.report.read import printable
from lifted_lightning.runs.folder import PLOTS

PICTURES = {
    "tsne_test.png": "t-SNE of the test images",
    "gallery_test.png": "Queries and their nearest neighbours",
    "confusions_test.png": "Classes that are taken for one another",
}
_TOLD_ELSEWHERE = ("steps", "folds")
SIDE_BY_SIDE, _WIDTH = 6, 1400  # the best rows, whose pictures are shown; pixels of a picture


@dataclass(frozen=True)
class Report:
    """All that the two pages show."""

    comparison: Comparison
    results: Table
    others: Sequence[Table]
    figures: Sequence[Drawn]
    settings: Sequence[tuple[str, str]]  # for a loss or a row those that come with it and are no column

    @property
    def summary(self) -> str:
        """What was compared, and what all runs share."""
        results, rows = self.comparison.runs["result"].tolist(), len(self.comparison.rows)
        parts = [f"{counted(len(results), 'run')} in {counted(rows, 'row')}"]
        shared = {"{:,} steps": {result.get("steps") for result in results if result.get("steps")}}
        for name in ("lifted-lightning", "torch"):
            shared[f"{name} {{}}"] = {(result.get("versions") or {}).get(name) for result in results}
        parts += [text.format(*values) for text, values in shared.items() if len(values) == 1 and values != {None}]
        told = {key: {*texts.dropna()} for key, texts in self.comparison.protocol.items() if key not in _TOLD_ELSEWHERE}
        same = [f"{words(key)} {min(found)}" for key, found in told.items() if len(found) == 1 and found != {NOT_TOLD}]
        parts += [f"all with {', '.join(same)}"] if same else []
        return printable("; ".join(parts) + ".")


def markdown_page(report: Report) -> str:
    """The report in Markdown; its figures are the PNG files beside it."""

    def listed(lines: Sequence[str]) -> str:
        return "\n".join(f"- {markdown_text(line)}" for line in lines)

    parts = [f"# {markdown_text(report.results.title)}", markdown_text(report.summary)]
    if report.comparison.notes:
        parts += ["To know:", listed(report.comparison.notes)]
    parts.append(markdown(report.results))
    for caption, stem in ((markdown_text(figure.caption), figure.stem) for figure in report.figures):
        parts += [f"![{caption}]({stem}.png)", f"{caption}."]
    for table in report.others:
        parts += [f"## {table.title}", markdown(table)]
    if report.settings:
        parts += ["## Settings that come with the rows", listed([f"{name}: {text}" for name, text in report.settings])]
    return "\n\n".join(parts) + "\n"


def html_page(report: Report, out: Path) -> str:
    """The report in HTML, with the figures from ``out`` and the best runs' pictures within."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def number(mean: str, half: str, bold: bool) -> str:
        text = with_interval(mean, half)
        return Markup("<strong>{}</strong>").format(text) if bold else text

    def svg(figure: Drawn) -> str:
        return _data_uri("svg+xml", (out / f"{figure.stem}.svg").read_bytes())

    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    pictures = list(_pictures(report.comparison))
    return template.render(report=report, written=lambda table: table.cells(str, number), svg=svg, pictures=pictures)


def _pictures(comparison: Comparison) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """For each kind of picture its title and, of the best run of each of the best rows, the picture and its caption."""
    scores = comparison.values.get(f"{comparison.stage}/recall@1", pd.Series(0.0, comparison.runs.index)).fillna(0.0)
    ranked = comparison.runs.assign(score=scores).sort_values(["score", "row"], ascending=[False, True], kind="stable")
    best = ranked.drop_duplicates("row")
    for name, title in PICTURES.items():
        there = best[[(folder / PLOTS / name).is_file() for folder in best["folder"]]][:SIDE_BY_SIDE]
        captions = [
            f"{comparison.title(row)}: {run}, R@1 {100 * score:.1f} %"
            for row, run, score in zip(there["row"], there["name"], there["score"], strict=True)
        ]
        pictures = [_shrunk(folder / PLOTS / name) for folder in there["folder"]]
        if pictures:
            yield title, list(zip(pictures, captions, strict=True))


def _shrunk(path: Path) -> str:
    """A picture as a data URI, no wider than it is shown on a sharp screen."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDTH, 4 * _WIDTH), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=82, method=4)
    return _data_uri("webp", out.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
