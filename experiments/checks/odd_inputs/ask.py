"""Asks, in this process, and says whether the answer is the stated one."""

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.checks.odd_inputs import files, others, settings  # noqa: F401 (their rules)
from experiments.checks.odd_inputs.right import (
    CHECKPOINT,
    EXPERIMENTS,
    FAILS,
    FIT,
    RUNS,
    TINY,
    Input,
    draw_images,
    merged,
    read,
)
from lifted_lightning.cli import main

SECONDS = 60  # an answer that takes longer is a hang
ENVIRONMENT = {"WANDB_MODE": "disabled", "LIFTED_DEBUG": ""}


@contextlib.contextmanager
def working_folder() -> Iterator[None]:
    """A folder of its own with what is right, to be removed at the end."""
    before, folder = Path.cwd(), Path(tempfile.mkdtemp(prefix="odd-inputs-"))
    os.environ.update(ENVIRONMENT | {"LIFTED_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)})
    os.environ.pop("LIFTED_DATA_DIR", None)
    os.chdir(folder)
    try:
        prepare()
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def prepare() -> None:
    """Fill the working folder: images, a configuration made of the quickstart's, a run of it, an index."""
    draw_images(Path("photos"), dict.fromkeys("abcdefghijkl", 4))
    Path("file.txt").write_text("text")
    Path("tiny.yaml").write_text(yaml.safe_dump(merged(read(EXPERIMENTS / "quickstart.yaml"), TINY)))
    for line in (
        (*FIT, "--runs_dir=right", "--name=run"),
        ("embed", "photos", f"--ckpt={CHECKPOINT}", "--out=index.npz"),
    ):
        code, _, told = answer(Input(line))
        assert code == 0, told


def answer(given: Input) -> tuple[Any, str, str]:
    """Exit code, standard output and error stream of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    variables = {name: os.environ.get(name, "") for name, _ in given.variables}
    os.environ.update(given.variables)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.argv = ["lifted", *given.arguments]
            code: Any = main(given.arguments)
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    finally:
        os.environ.update(variables)
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends what takes longer than an answer may take."""

    def ends(*_: Any) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    signal.signal(signal.SIGALRM, ends)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def fault(given: Input, code: Any, told: str) -> str | None:
    """What is not as stated."""
    lines = [line for line in told.splitlines() if line.startswith("lifted")]
    if code != given.code:
        return f"exit code {code}, not {given.code}: {told.strip()[-300:]}"
    if "Traceback" in told or ("--debug shows" in told and code != FAILS):  # what is a library's may fail so
        return f"a crash: {told.strip()[-300:]}"
    if code == RUNS:
        return None
    if len(lines) != 1 or told.rstrip("\n").split("\n")[-1] != lines[0]:
        return f"not one line: {told.strip()[-300:]}"
    absent = [word for word in given.words if word not in lines[0]]
    return f"nothing of {', '.join(absent)}: {lines[0][:300]}" if absent else None
