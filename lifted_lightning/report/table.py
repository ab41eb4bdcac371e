"""A table of numbers with intervals, and how it is written: in Markdown, LaTeX, CSV, HTML, and on a terminal."""

import csv
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

LEVEL = 0.95


ENOUGH = 5  # seeds; a row with fewer is marked


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds and the half-width of its 95 % interval, None for fewer than two."""

    mean: float
    half: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % t-interval (n - 1 degrees of freedom) of independent values; None without any."""
    n = len(values)
    if n == 0:
        return None
    mean = sum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, _quantile(n - 1) * (variance / n) ** 0.5, n)


def paired_difference(first: Mapping[int | str, float], second: Mapping[int | str, float]) -> Estimate | None:
    """First minus second, seed by seed over the seeds that both have, with its 95 % t-interval.

    Args:
        first: the value of each seed.
        second: the same of the other group.

    Returns:
        None if they have no seed in common.
    """
    common = sorted(first.keys() & second.keys(), key=str)
    return estimate([first[seed] - second[seed] for seed in common])


def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes far longer to import

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


Kind = Literal["text", "percent", "points", "number"]


NONE = "–"


@dataclass(frozen=True)
class Cell:
    """What stands in a table's cell, and whether it is bold."""

    value: str | Estimate | None
    bold: bool = False


@dataclass
class Table:
    """A table.

    Attributes:
        title: what it shows.
        columns: each one's heading and how its numbers are written: in percent, in percentage points with a
            sign, or in three digits.
        rows: of cells.
        rules: numbers of the rows that a line stands above.
        notes: lines below it.
    """

    title: str
    columns: list[tuple[str, Kind]]
    rows: list[list[Cell]] = field(default_factory=list)
    rules: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    _cached: dict[int, int] = field(default_factory=dict)

    def number(self, column: int, cell: Cell) -> tuple[str, str] | None:
        """A mean and its half-width as text, the latter empty where all values are one; None for other cells."""
        if not isinstance(cell.value, Estimate):
            return None
        mean, half = cell.value.mean, cell.value.half
        if self.columns[column][1] == "number":
            places, scale, sign = _three_digits(mean), 1, ""
        else:
            places, scale, sign = (
                self._decimals(column),
                100,
                "+" if self.columns[column][1] == "points" else "",
            )
        return f"{scale * mean:{sign},.{places}f}", f"{scale * half:,.{places}f}" if half else ""

    def _decimals(self, column: int) -> int:
        """One, and one more where an interval would be written as 0."""
        if column not in self._cached:
            values = [row[column].value for row in self.rows]
            small = any(isinstance(v, Estimate) and 0 < (v.half or 0.0) < 0.0005 for v in values)
            self._cached[column] = 2 if small else 1
        return self._cached[column]

    def text(self, column: int, cell: Cell) -> str:
        """A cell as plain text."""
        number = self.number(column, cell)
        if number is None:
            return NONE if cell.value is None else str(cell.value)
        return " ± ".join(part for part in number if part).replace("-", "−")


def _three_digits(value: float) -> int:
    """Decimals that show three digits, at most three."""
    return 0 if value == 0 or abs(value) >= 100 else 3 - sum(abs(value) >= 10**n for n in range(3))


def markdown(table: Table) -> str:
    """A Markdown table with its notes."""
    lines = ["| " + " | ".join(name for name, _ in table.columns) + " |"]
    lines.append("|" + "|".join(":--" if kind == "text" else "--:" for _, kind in table.columns) + "|")
    for row in table.rows:
        cells = [table.text(i, cell).replace("|", "\\|") for i, cell in enumerate(row)]
        cells = [f"**{text}**" if cell.bold else text for text, cell in zip(cells, row, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + "; ".join(table.notes) + ".\n"


_LATEX = {"\\": r"\textbackslash{}", "–": "--", "−": "$-$", "†": r"$^\dagger$", "±": r"$\pm$"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}


def latex(table: Table) -> str:
    """A table for the package booktabs, its notes as comments above."""
    kinds = "".join("l" if kind == "text" else "r" for _, kind in table.columns)
    lines = [f"% {note}" for note in [table.title, *table.notes]]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    lines.append(" & ".join(_escaped(name) for name, _ in table.columns) + r" \\")
    for i, row in enumerate(table.rows):
        if i == 0 or i in table.rules:
            lines.append(r"\midrule")
        lines.append(" & ".join(_latex_cell(table, c, cell) for c, cell in enumerate(row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_cell(table: Table, column: int, cell: Cell) -> str:
    number = table.number(column, cell)
    if number is None:
        return _escaped(table.text(column, cell))
    mean = number[0].replace(",", "{,}")
    mean = rf"\mathbf{{{mean}}}" if cell.bold else mean
    return f"${mean}" + (rf" \pm {number[1]}$" if number[1] else "$")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def as_csv(table: Table) -> str:
    """For each number its mean, half-width and n, as shares of 1 where the table has percent."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [[n] if kind == "text" else [n, f"{n} half-width of 95 % interval", f"{n} n"] for n, kind in table.columns]
    writer.writerow([name for names in head for name in names])
    for row in table.rows:
        cells = [_csv_cell(cell.value, kind) for cell, (_, kind) in zip(row, table.columns, strict=True)]
        writer.writerow([text for texts in cells for text in texts])
    return out.getvalue()


def _csv_cell(value: str | Estimate | None, kind: Kind) -> list[str]:
    if kind == "text":
        return [str(value or "").removesuffix("†").replace(NONE, "")]
    if not isinstance(value, Estimate):
        return ["", "", ""]
    return [f"{value.mean:.6g}", "" if value.half is None else f"{value.half:.6g}", str(value.n)]


def as_html(table: Table) -> str:
    """An HTML table with its notes."""

    def cell(tag: str, kind: Kind, text: str, bold: bool = False) -> str:
        text = html.escape(text)
        style = "" if kind == "text" else ' class="n"'
        return f"<{tag}{style}>{f'<strong>{text}</strong>' if bold else text}</{tag}>"

    lines = ["<div class='scroll'><table><thead><tr>"]
    lines += [cell("th", kind, name) for name, kind in table.columns]
    lines.append("</tr></thead><tbody>")
    for r, row in enumerate(table.rows):
        lines.append(f"<tr{' class=rule' if r in table.rules and r else ''}>")
        lines += [cell("td", table.columns[c][1], table.text(c, x), x.bold) for c, x in enumerate(row)]
        lines.append("</tr>")
    notes = html.escape("; ".join(table.notes))
    return "".join(lines) + f"</tbody></table></div><p class='note'>{notes}.</p>"


def plain(table: Table, bold: bool = False) -> str:
    """The table as text for a terminal, with the best in bold if it can show that."""
    rows = [[name for name, _ in table.columns]]
    rows += [[table.text(c, cell) for c, cell in enumerate(row)] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [table.title]
    for r, row in enumerate(rows):
        if r in (0, 1) or r - 1 in table.rules:
            lines.append("─" * (sum(widths) + 2 * len(widths) - 2) if r == 1 else "")
        cells = [
            text.ljust(width) if kind == "text" else text.rjust(width)
            for text, width, (_, kind) in zip(row, widths, table.columns, strict=True)
        ]
        if bold and r:
            marks = [cell.bold for cell in table.rows[r - 1]]
            cells = [f"\033[1m{text}\033[0m" if mark else text for text, mark in zip(cells, marks, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", *textwrap.wrap("; ".join(table.notes), 110), ""])
