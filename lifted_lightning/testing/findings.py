"""What a contract has found: a finding for each of its questions, and the table of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lifted_lightning.errors import one_line

Verdict = Literal["holds", "fails", "told", "not asked"]
COLOURS: dict[Verdict, str] = {"holds": "green", "fails": "bold red", "told": "", "not asked": "dim"}


class Answer(NamedTuple):
    """What a question is answered with: the verdict, why, and the smallest input that shows it, as code to paste."""

    verdict: Verdict
    detail: str = ""
    example: str = ""


@dataclass(frozen=True)
class Finding:
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
    """What must hold does not: why, and an input that shows it, as code to paste."""

    def __init__(self, detail: str, example: str = "") -> None:
        super().__init__(detail)
        self.answer = Answer("fails", detail, example)


class Findings(list[Finding]):
    """The findings of a contract, in the order of its questions.

    Args:
        name: of what was asked, the title of the table.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def ask(self, question: str, answer: Callable[[], Answer]) -> Answer:
        """Ask one question, and note the answer; what raises fails."""
        try:
            found = answer()
        except ContractError as error:
            found = error.answer
        except Exception as error:
            found = Answer("fails", raised(error))
        self.append(Finding(question, *found))
        return found

    @property
    def failed(self) -> list[Finding]:
        """What must hold and does not."""
        return [finding for finding in self if finding.verdict == "fails"]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each question."""
        return {finding.question: finding.verdict for finding in self}

    def show(self) -> None:
        """Print the table, and below it the examples."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.name, box=None, title_justify="left", pad_edge=False)
        for column in ("question", "verdict", "what was found"):
            table.add_column(column, overflow="fold")
        for finding in self:
            verdict = Text(finding.verdict, COLOURS[finding.verdict])
            table.add_row(Text(finding.question), verdict, Text(finding.detail))
        console = Console(markup=False, highlight=False)
        console.print(table)
        for finding in self.failed:
            if finding.example:
                console.print(f"\n# {finding.question}\n{finding.example}", soft_wrap=True)


def raised(error: Exception) -> str:
    """What an error says, and the line of the user's code that it arose in."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{place.tb_lineno})" if place else ""
    return f"raises {type(error).__name__}: {one_line(error)}{where}"
