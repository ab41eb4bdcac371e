"""Which lines a figure has on which axes: groups of runs as panels."""

from collections.abc import Sequence
from dataclasses import dataclass

from lifted_lightning.report.compare import Comparison, Group

LINES, PANELS = 9, 4  # at most; of more, the best


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows: its title, and the groups that make each line, by the line's name."""

    title: str
    lines: dict[str, list[Group]]

    @property
    def dataset(self) -> str:
        return dataset_of(self.groups[0])

    @property
    def groups(self) -> list[Group]:
        return [group for groups in self.lines.values() for group in groups]


def panels_of(comparison: Comparison) -> tuple[list[Panel], str]:
    """A panel for each block of rows, lines for its losses; and a note if the best alone are shown."""
    keys = comparison.context
    if all(len(block) == 1 for block in comparison.blocks()):
        keys = [key for key in keys if key == "dataset"]
    others = [key for key in comparison.context if key not in keys]
    panels = [
        Panel(comparison.title(block[0], keys) or dataset_of(block[0]), lines_of(comparison, block, others))
        for block in best(comparison.blocks(keys), PANELS)
    ]
    return panels, left_out(comparison, panels)


def lines_of(comparison: Comparison, block: Sequence[Group], others: Sequence[str]) -> dict[str, list[Group]]:
    """The groups of each line: those with the same loss and the same of the other columns; the best lines."""
    lines: dict[str, list[Group]] = {}
    for group in sorted(block, key=lambda group: comparison.losses.index(group.loss)):
        rest = comparison.title(group, others)
        name = rest if rest and len(comparison.losses) == 1 else ", ".join(filter(None, [group.loss, rest]))
        lines.setdefault(name, []).append(group)
    kept = best(list(lines.values()), LINES)
    return {name: groups for name, groups in lines.items() if groups in kept}


def best(blocks: Sequence[list[Group]], most: int) -> list[list[Group]]:
    """The blocks with the best groups, in their order."""
    scores = [max(group.score for group in block) for block in blocks]
    kept = sorted(range(len(blocks)), key=lambda i: -scores[i])[:most]
    return [blocks[i] for i in sorted(kept)]


def left_out(comparison: Comparison, panels: Sequence[Panel]) -> str:
    """A note where the panels show the best rows alone."""
    shown = sum(len(panel.groups) for panel in panels)
    return f"the best {shown} of {len(comparison.groups)} rows" if shown < len(comparison.groups) else ""


def dataset_of(group: Group) -> str:
    """The name of the data set that a group's runs are of."""
    return str(group.settings.get("dataset"))
