"""Every command that the documentation shows is one that the program takes, and every file it names is there."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lifted_lightning import cli
from lifted_lightning.commands.fit import parse
from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import read_sweep
from lifted_lightning.sweep.trials import ordered_arguments

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *map(ROOT.joinpath, ("docs/guide.md", "tests/README.md", "experiments/results/README.md")),
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def commands_of(text: str) -> Iterator[str]:
    """The commands of a Markdown text: the lines of its bash blocks, and `lifted ...` with options in the running text.

    In the text, a name in capitals or an ellipsis stands for what the reader fills in; such are left out.
    """
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from split(block)
    for inline in re.findall(r"(?<!`)`(lifted [^`]*--[^`]+)`(?!`)", text):
        if not re.search(r"\b[A-Z]{2,}\b|\.\.\.", inline):
            yield from split(inline)


def split(script: str) -> Iterator[str]:
    """The single commands of a script."""
    for line in script.replace("\\\n", " ").splitlines():
        if not line.startswith(("%%", "#", "!")):
            line = re.split(r"\s\d?>", line)[0]  # redirections, and what follows them
            yield from (part.strip() for part in re.split(r"&&|\|\||;", line) if part.strip())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like a clone that someone works in, with the files that the README has its reader write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("experiments", "tests", "notebooks", "lifted_lightning"):
        (tmp_path / name).symlink_to(ROOT / name)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, block in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", readme, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(block, encoding="utf-8")
    yield tmp_path
    for path in tmp_path.glob("*.py"):  # another page's file may have its name
        sys.modules.pop(path.stem, None)


def check_lifted(words: list[str]) -> None:
    """Parse a command of `lifted` as it would; files that it reads must be there."""
    if not words or words[0].startswith("--"):
        assert words in ([], ["--help"], ["--version"])
        return
    command, *arguments = words
    if command in cli.TRAINER:
        for path in map(Path, re.findall(r"runs/\S+?/config\.yaml", " ".join(arguments))):  # of a run that has been
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "experiments" / "quickstart.yaml", path)
        if "--help" not in arguments:
            parse(command, arguments)
        return
    parser = importlib.import_module(f"lifted_lightning.{cli.OWN[command][1]}").parser()
    if command == "check":  # the settings of classes are not its own
        parser.parse_known_args(arguments)
        return
    options = parser.parse_args(arguments)
    if command == "sweep":
        sweep = read_sweep(options.file)
        parse("fit", [*sweep.fixed, *ordered_arguments(next(sweep.examples()))])


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def check_pytest(words: list[str]) -> None:
    markers = {line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    if "-m" in words:
        assert words[words.index("-m") + 1] in markers
    for word in words:
        if "/" in word or word in ("tests", "notebooks"):
            path, _, name = word.partition("::")
            assert name in (ROOT / path).read_text(encoding="utf-8") if name else (ROOT / path).exists()


def check_wandb(words: list[str]) -> None:
    from wandb.cli.cli import cli as wandb

    assert words[0] in wandb.commands


def check_file(words: list[str]) -> None:
    """Of programs that are given a file of the project first, or a module of it after ``-m``."""
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
    else:
        assert (ROOT / words[0]).is_file()


PROGRAMS: dict[str, Callable[[list[str]], object]] = {
    "lifted": check_lifted,
    "pip": check_pip,
    "pytest": check_pytest,
    "bash": check_file,
    "wandb": check_wandb,
    "python": check_file,
    "sbatch": lambda words: check_file([word for word in words if not word.startswith("-")]),
    ".ci/run": lambda words: check_file([".ci/run"]),
    **dict.fromkeys(
        ("ruff", "mypy", "git", "cd", "export", "pre-commit", "jupyter", "conda"), len
    ),  # not ours to check
}


def check(command: str) -> None:
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words.pop(0)
    if words:
        PROGRAMS[words[0]](words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_of_the_documentation_is_one_that_the_program_takes(page: Path, folder: Path) -> None:
    for command in dict.fromkeys(commands_of(page.read_text(encoding="utf-8"))):
        try:
            check(command)
        except BaseException as error:
            error.add_note(f"in {page.name}: {command}")
            raise


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_commands_are_such_too(path: Path, folder: Path) -> None:
    """Without running the notebook: the files that it writes are written, its commands parsed in order."""
    for source in ("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if match := re.fullmatch(r"%%writefile (\S+)\n(.*)", source, re.DOTALL):
            (folder / match[1]).write_text(match[2], encoding="utf-8")
        elif source.startswith("%%bash"):
            for command in split(source):
                if command.startswith("lifted"):
                    check(command)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("lifted fit --config experiments/nothing.yaml", UserError),
        ("lifted data lst", UserError),
        ("lifted sweep nothing.yaml", UserError),
        ('pip install -e ".[nothing]"', AssertionError),
        ("lifted nothing", KeyError),
    ],
)
def test_a_wrong_command_would_be_found(command: str, error: type[BaseException], folder: Path) -> None:
    with pytest.raises(error):
        check(command)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+?)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:", "#", "data:")):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name} links to {target}"


def test_the_workflow_runs_the_readme_s_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    two = ["pip install -e . && lifted fit --config experiments/quickstart.yaml", 'pip install -e ".[dev]" && pytest']
    assert [line for line in readme if re.match("pip install -e .* && ", line)] == two
    steps = [step for job in yaml.safe_load(WORKFLOW.read_text())["jobs"].values() for step in job["steps"]]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    assert [line for line in lines if line in two] == two
    for line in lines:
        check(line)
