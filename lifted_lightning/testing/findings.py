"""What a contract has found: a finding for each of its questions, and the table of them."""

import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from lifted_lightning.errors import UserError, one_line
from lifted_lightning.runs.modules import is_own

Verdict = Literal["holds", "fails", "told", "not asked"]
COLOURS: dict[Verdict, str] = {"holds": "green", "fails": "bold red", "told": "", "not asked": "dim"}
Answer = tuple[Verdict, str] | str | None  # to a question: the verdict and why; without a verdict it holds


_Part = TypeVar("_Part")


class Finding(NamedTuple):
    """A question of a contract and its answer.

    Attributes:
        question: what was asked, the same words for everything that the contract is asked of.
        verdict: ``holds`` or ``fails`` where it must hold; ``told`` where it is neither right nor wrong; ``not asked``
            where it cannot be asked here.
        detail: what was found, or why it was not asked, in a line.
        example: the smallest input found that shows a failure, as Python that can be pasted.
    """

    question: str
    verdict: Verdict
    detail: str = ""
    example: str = ""


class ContractError(Exception):
    """What must hold does not: why, and the smallest input that shows it, as code to paste."""

    def __init__(self, detail: str, example: str = "") -> None:
        super().__init__(detail)
        self.example = example


class Findings(list[Finding]):
    """The findings of a contract, in the order of its questions.

    Args:
        name: of what was asked, the title of the table.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def ask(self, question: str, answer: Callable[[], Answer]) -> bool:
        """Ask one question, note the answer (what raises fails), and say whether it did not fail."""
        try:
            found = answer() or ""
            self.append(Finding(question, *found) if isinstance(found, tuple) else Finding(question, "holds", found))
        except ContractError as error:
            self.append(Finding(question, "fails", str(error), error.example))
        except UserError as error:
            self.append(Finding(question, "fails", one_line(error)))
        except Exception as error:
            self.append(Finding(question, "fails", raised(error)))
        return self[-1].verdict != "fails"

    @property
    def failed(self) -> list[Finding]:
        """What must hold and does not."""
        return [finding for finding in self if finding.verdict == "fails"]

    def show(self) -> None:
        """Print the table, and below it the examples."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.name, box=None, title_justify="left", pad_edge=False)
        for column in ("question", "verdict", "what was found"):
            table.add_column(column, overflow="fold")
        for finding in self:
            table.add_row(finding.question, Text(finding.verdict, COLOURS[finding.verdict]), finding.detail)
        console = Console(markup=False, highlight=False, emoji=False)
        console.print(table)
        for finding in self.failed:
            if finding.example:
                console.print(f"\n# {finding.question}\n{finding.example}", soft_wrap=True)
        if self.failed and len(self) == 1:
            console.print("\nNo more is asked until this holds.")


def raised(error: Exception) -> str:
    """What an error says, and the line of the user's code that it arose in."""
    frames = traceback.extract_tb(error.__traceback__)
    place = ([frame for frame in frames if is_own(Path(frame.filename))] or frames)[-1]
    return f"raises {type(error).__name__}: {one_line(error)} ({Path(place.filename).name}:{place.lineno})"


def check_tensor(found: object, shape: tuple[int, ...], kind: torch.dtype | None, of: str) -> None:
    """Raise ContractError unless this is a tensor of a shape, of a kind (None: any floating point), and finite."""
    if not isinstance(found, Tensor):
        raise ContractError(f"{of}: gives {type(found).__name__}, not a tensor")
    if found.shape != shape or not found.is_floating_point() or kind not in (None, found.dtype):
        raise ContractError(f"{of}: gives {found.dtype} {tuple(found.shape)}, not {kind or 'float'} {shape}")
    if not found.isfinite().all():
        raise ContractError(f"{of}: {int((~found.isfinite()).sum())} numbers are not finite")


def copied(part: _Part) -> _Part:
    """A copy to ask, so that what was given stays as it is.

    Raises:
        UserError: if it holds something that cannot be copied.
    """
    try:
        return deepcopy(part)
    except Exception as error:
        raise UserError(f"{type(part).__name__}: cannot be copied ({one_line(error)}): keep what can be") from error
