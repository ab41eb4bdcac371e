"""The report as one Markdown file, and as one HTML file that needs no other."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifted_lightning.report.compare import Comparison, Group, brought_along
from lifted_lightning.report.figures import Drawn
from lifted_lightning.report.read import Run
from lifted_lightning.report.table import Table, as_html, markdown

PICTURES = {
    "tsne_test.png": "t-SNE of the test images",
    "gallery_test.png": "Queries and their nearest neighbours",
}
SIDE_BY_SIDE = 6  # groups whose pictures are shown, the best ones
_WIDTH = 1400  # pixels, of a picture in the page


@dataclass(frozen=True)
class Report:
    """All that the two pages show."""

    comparison: Comparison
    results: Table
    others: Sequence[Table]
    figures: Sequence[Drawn]

    @property
    def heading(self) -> str:
        return self.results.title

    @property
    def summary(self) -> str:
        """What was compared, and what all runs share."""
        groups = self.comparison.groups
        results = [run.result for group in groups for run in group.runs]
        parts = [f"{len(results)} run{'s' * (len(results) > 1)} in {len(groups)} row{'s' * (len(groups) > 1)}"]
        for name, values in {
            "steps": [r.get("steps") for r in results if r.get("steps")],
            **{name: [(r.get("versions") or {}).get(name) for r in results] for name in ("lifted-lightning", "torch")},
        }.items():
            if len(set(values)) == 1 and values[0]:
                parts.append(f"{values[0]:,} steps" if name == "steps" else f"{name} {values[0]}")
        return "; ".join(parts) + "."

    @property
    def settings(self) -> list[tuple[str, str]]:
        return brought_along(self.comparison)


def markdown_page(report: Report) -> str:
    """The report in Markdown; its figures are the PNG files beside it."""
    parts = [f"# {report.heading}", report.summary]
    if report.comparison.warnings:
        parts.append("To know:\n\n" + "\n".join(f"- {line}" for line in report.comparison.warnings))
    parts.append(markdown(report.results).rstrip())
    parts += [f"![{figure.caption}]({figure.stem}.png)\n\n{figure.caption}." for figure in report.figures]
    parts += [f"## {table.title}\n\n{markdown(table).rstrip()}" for table in report.others]
    if report.settings:
        parts.append("## Settings that come with the rows\n\n" + "\n".join(f"- {a}: {b}" for a, b in report.settings))
    return "\n\n".join(parts) + "\n"


def html_page(report: Report, out: Path) -> str:
    """The report in HTML, with the figures from ``out`` and the best runs' pictures within."""
    parts = [f"<header><h1>{_(report.heading)}</h1><p>{_(report.summary)}</p></header>"]
    if report.comparison.warnings:
        lines = "".join(f"<li>{_(line)}</li>" for line in report.comparison.warnings)
        parts.append(f"<aside><h2>To know</h2><ul>{lines}</ul></aside>")
    parts.append(f"<section><h2>Results</h2>{as_html(report.results)}</section>")
    if report.figures:
        drawn = "".join(_figure(figure, out) for figure in report.figures)
        parts.append(f"<section><h2>Figures</h2><div class='figures'>{drawn}</div></section>")
    parts += [f"<section><h2>{_(table.title)}</h2>{as_html(table)}</section>" for table in report.others]
    if report.settings:
        rows = "".join(f"<dt>{_(name)}</dt><dd>{_(text)}</dd>" for name, text in report.settings)
        parts.append(f"<section><h2>Settings that come with the rows</h2><dl>{rows}</dl></section>")
    parts += _pictures(report.comparison)
    return _PAGE.replace("TITLE", _(report.heading)).replace("BODY", "\n".join(parts))


def _figure(figure: Drawn, out: Path) -> str:
    data = base64.b64encode((out / f"{figure.stem}.svg").read_bytes()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return _shown(source, f"{figure.caption}.", "wide" if figure.panels > 1 else "")


def _shown(source: str, text: str, kind: str = "") -> str:
    image = f"<label><input type='checkbox'><img src='{source}' alt='{_(text)}'></label>"
    return f"<figure class='{kind}'>{image}<figcaption>{_(text)}</figcaption></figure>"


def _pictures(comparison: Comparison) -> Iterator[str]:
    """A section for each kind of picture: the best run's of each of the best groups, side by side."""
    ranked = sorted(comparison.groups, key=lambda group: -max(group.by_seed("recall@1").values(), default=0.0))
    for name, title in PICTURES.items():
        cards: list[str] = []
        for group in ranked:
            run, score = _best(group)
            path = run.folder / "plots" / name
            if len(cards) < SIDE_BY_SIDE and path.is_file():
                label = f"{comparison.title(group)}: {run.name}, R@1 {100 * score:.1f} %"
                cards.append(_shown(_shrunk(path), label))
        if cards:
            shown = f"<div class='pictures'>{''.join(cards)}</div>"
            yield f"<section><h2>{title}, best run of each row</h2>{shown}</section>"


def _best(group: Group) -> tuple[Run, float]:
    scores = group.by_seed("recall@1")
    run = max(group.runs, key=lambda run: scores.get(run.seed, -1.0))
    return run, scores.get(run.seed, 0.0)


def _shrunk(path: Path) -> str:
    """A picture as a data URI, no wider than it is shown on a sharp screen."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDTH, 4 * _WIDTH), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


_ = html.escape

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { --ink: #222; --faint: #6b6b6b; --line: #dcdcdc; --accent: #332288 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.1rem; margin: 2.6rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--line) }
header p, .note, figcaption { color: var(--faint) }
header p { margin: .3rem 0 0 }
.note, figcaption { font-size: .85rem; margin: .5rem 0 0; max-width: 78ch }
aside { margin: 1.4rem 0 0; padding: .8rem 1.1rem; background: #fdf7e6; border-left: 3px solid #ddaa33;
  font-size: .9rem }
aside h2 { margin: 0; padding: 0; border: 0; font-size: .95rem }
aside ul { margin: .3rem 0 0; padding-left: 1.1rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .8rem .28rem 0; text-align: left }
th { border-bottom: 1.5px solid var(--ink); font-weight: 600; vertical-align: bottom }
td:first-child { min-width: 9rem }
.n { white-space: nowrap; text-align: right; padding-left: .5rem }
tr.rule td { border-top: 1px solid var(--line) }
tbody tr:last-child td { border-bottom: 1.5px solid var(--ink) }
tbody tr:hover td { background: #f6f6fa }
strong { color: var(--accent) }
figure { margin: 0 }
figure img { display: block; width: 100%; height: auto; cursor: zoom-in }
figure input { position: absolute; opacity: 0 }
input:focus-visible + img { outline: 2px solid var(--accent) }
input:checked + img { position: fixed; z-index: 1; inset: 0; width: 100vw; height: 100vh; max-width: none;
  object-fit: contain; background: #fff;
  cursor: zoom-out }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 2rem 2.5rem }
.figures img { width: auto; max-width: 100% }
.figures .wide img { width: 100% }
.figures figure.wide { grid-column: 1 / -1; max-width: 780px }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 1.6rem }
.pictures img { border: 1px solid var(--line) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .87rem; margin: 0 }
dt { font-weight: 600 }
dd { margin: 0; color: var(--faint); overflow-wrap: anywhere }
@media print { body { max-width: none; padding: 0 } section { break-inside: avoid } }
</style>
</head>
<body>
BODY
</body>
</html>
"""
