"""A table of numbers with intervals, and how it is written: in Markdown, LaTeX, CSV, HTML, and on a terminal.

Names come from data, so each format escapes them here, once, before pandas writes the table.
"""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lifted_lightning.files import csv_text
from lifted_lightning.report.statistics import FLIPS_FROM, MOST_NEEDED, Estimates

NONE = "–"
FEW = "†"  # after the number of seeds of a row that has fewer than ENOUGH
ENOUGH = 5
TOO_FEW = "n too small"
Kind = Literal["percent", "points", "number", "millions", "times", "count", "p", "exact p"]
_SCALE: dict[Kind, float] = {"number": 1, "millions": 1e-6, "times": 1}
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "−": "$-$", FEW: r"$^\dagger$", "×": r"$\times$",
}  # fmt: skip


@dataclass
class Table:
    """A table.

    Attributes:
        title: what it shows.
        texts: its first columns, of text.
        numbers: its other columns, with the same rows.
        kinds: how each column of numbers is written: in percent, in percentage points with a sign, in three digits, or
            so in millions, or where they are how many times; as a whole number, or as the p of a test; of an exact one
            it says where values are too few.
        blocks: what each row belongs to; a line stands between two that are unlike.
        note: what is said below it.
        bold: which of the numbers are bold, if any.
    """

    title: str
    texts: pd.DataFrame
    numbers: Estimates
    kinds: Sequence[Kind]
    blocks: Sequence[Any]
    note: str
    bold: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.kinds else 0

    @property
    def rules(self) -> list[int]:
        """Numbers of the rows that a line stands above."""
        return [i for i in range(1, len(self.blocks)) if self.blocks[i] != self.blocks[i - 1]]

    def __post_init__(self) -> None:
        for units in ("seeds", "folds"):
            if any(text.endswith(FEW) for text in self.texts.get(units, ())):
                self.note += f"; {FEW} fewer than {ENOUGH} {units}"

    def cells(self, text: Callable[[str], str], number: Callable[[str, str, bool], str]) -> pd.DataFrame:
        """All cells as a format has them.

        Args:
            text: how it writes a text.
            number: how it writes a mean and its half-width, which is empty where all values are one, bold or not.
        """
        columns = [[text(value) for value in column] for _, column in self.texts.items()]
        marked = self.numbers.mean.notna() & False if self.bold is None else self.bold
        for i, kind in enumerate(self.kinds):
            mean, half, n = (frame.iloc[:, i] for frame in self.numbers)
            lacking = (n < FLIPS_FROM).map({True: TOO_FEW, False: NONE}) if kind == "exact p" else [NONE] * len(self)
            written = zip(_written(kind, mean, half), marked.iloc[:, i], lacking, strict=True)
            columns.append([number(*found, bold) if found else text(none) for found, bold, none in written])
        names = [text(name) for frame in (self.texts, self.numbers.mean) for name in frame]
        return pd.DataFrame(dict(enumerate(columns)), dtype=object).set_axis(names, axis=1)


def _written(kind: Kind, mean: pd.Series, half: pd.Series) -> Iterator[tuple[str, str] | None]:
    """Means and half-widths as text; None without a mean. One decimal, and one more where an interval would be 0."""
    if kind in ("count", "p", "exact p"):
        for m in mean:
            p = "<0.001" if m < 0.001 else f"{m:.3f}"
            count = f"{m:,.0f}" if m <= MOST_NEEDED else f">{MOST_NEEDED:,}"
            yield (count if kind == "count" else p, "") if m == m else None
        return
    scale, sign = _SCALE.get(kind, 100), "+" if kind == "points" else ""
    decimals = 2 if ((half > 0) & (half < 0.0005)).any() else 1
    for m, h in zip(mean, half, strict=True):
        whole = kind == "times" and m % 1 == 0
        places = 0 if whole else _three_digits(scale * m) if scale <= 1 else decimals
        told = h > 0 or (h == 0 and scale > 1)  # that seeds agree; but not that all have as many parameters
        yield (f"{scale * m:{sign}z,.{places}f}", f"{scale * h:,.{places}f}" if told else "") if m == m else None


def _three_digits(value: float) -> int:
    """Decimals that show three digits, at most three."""
    return 0 if value == 0 or abs(value) >= 100 else 3 - sum(abs(value) >= 10**n for n in range(3))


def with_interval(mean: str, half: str) -> str:
    """A mean and its half-width as people read them."""
    return (f"{mean} ± {half}" if half else mean).replace("-", "−")


def markdown_text(text: str) -> str:
    """A text in which nothing is Markdown's or HTML's; an underscore within a word is none."""
    return re.sub(r"[\\`*\[\]<>|&$~#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def markdown(table: Table) -> str:
    """A Markdown table with its notes."""
    cells = table.cells(markdown_text, lambda mean, half, bold: "**" * bold + with_interval(mean, half) + "**" * bold)
    return f"{_tabulated(table, cells, 'pipe')}\n\n{markdown_text(table.note)}."


def terminal(table: Table, bold: bool) -> str:
    """The table as text for a terminal, with the best in bold if it can show that."""

    def number(mean: str, half: str, best: bool) -> str:
        text = with_interval(mean, half)
        return f"\033[1m{text}\033[0m" if bold and best else text

    lines = _tabulated(table, table.cells(str, number), "simple").splitlines()
    for row in sorted(table.rules, reverse=True):
        lines.insert(row + 2, "")  # below the headings and a line
    return "\n".join([table.title, "", *lines, "", *textwrap.wrap(table.note, 110), ""])


def _tabulated(table: Table, cells: pd.DataFrame, style: str) -> str:
    aligned = ["left"] * table.texts.shape[1] + ["right"] * len(table.kinds)
    return cells.to_markdown(index=False, tablefmt=style, disable_numparse=True, colalign=aligned)


def latex(table: Table) -> str:
    """A table for the package booktabs, its notes as comments above."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    def number(mean: str, half: str, bold: bool) -> str:
        mean, half = mean.replace(",", "{,}"), half.replace(",", "{,}")
        mean = rf"\mathbf{{{mean}}}" if bold else mean
        return rf"${mean} \pm {half}$" if half else f"${mean}$"

    cells = table.cells(escaped, number)
    head, *rows = (" & ".join(row) + r" \\" for row in [list(cells), *cells.to_numpy().tolist()])
    rows = [line for i, row in enumerate(rows) for line in ([r"\midrule", row] if i in table.rules else [row])]
    columns = "l" * table.texts.shape[1] + "r" * len(table.kinds)
    above = [f"% {table.title}", f"% {table.note}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*above, *rows, r"\bottomrule", r"\end{tabular}", ""])


def csv(table: Table) -> str:
    """For each number its mean, half-width and n, as shares of 1 where the table has percent."""
    columns = [(_csv_text(name), column.map(_csv_text)) for name, column in table.texts.items()]
    for i, name in enumerate(map(_csv_text, table.numbers.mean)):
        mean, half, n = (frame.iloc[:, i] for frame in table.numbers)
        n = n.where(mean.notna()).astype("Int64")
        scale = min(_SCALE.get(table.kinds[i], 1), 1)
        columns.append((name, scale * mean))
        if table.kinds[i] not in ("count", "p", "exact p"):
            columns += [(f"{name} half-width of 95 % interval", scale * half), (f"{name} n", n)]
    frame = pd.concat([column for _, column in columns], axis=1).set_axis([name for name, _ in columns], axis=1)
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _csv_text(text: str) -> str:
    """Without this table's marks."""
    return str(csv_text("" if text == NONE else text.removesuffix(FEW)))
