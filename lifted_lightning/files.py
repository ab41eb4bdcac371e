"""Files that a reader sees whole or not at all, cells of CSV, locks that end with their process, YAML or why not."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from lifted_lightning.errors import UserError, one_line

LONGEST = 10_000_000  # characters of a YAML file


@contextmanager
def atomic(path: Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Open a file beside ``path``, which takes that name when the block ends and its bytes are on the disk.

    If the block raises, ``path`` stays as it was; a process killed before the end leaves ``.NAME.PID.tmp``.
    Text is UTF-8, with the line ends that are written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text: dict[str, Any] = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    try:
        with open(unfinished, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def writing(what: str, remedy: str = "give another") -> Iterator[None]:
    """What the operating system has against the block becomes a UserError of one line: what, why, and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: cannot be written ({error.strerror or error}); {remedy}") from error


def csv_text(cell: Any) -> Any:
    """A CSV file's cell, marked as text where a spreadsheet would take a name for a formula; numbers stay."""
    formula = isinstance(cell, str) and re.match(r"[=+@-]", cell) and not re.fullmatch(r"-[\d.e-]+", cell)
    return f"'{cell}" if formula else cell


def lock(path: Path, wait: bool = False) -> int:
    """Lock a file, made if need be, for this process alone: processes that it starts do not hold the lock.

    Args:
        path: the file.
        wait: whether to wait while another process holds the lock.

    Returns:
        A descriptor; the lock is free when that is closed, or when the process ends, however that happens.

    Raises:
        BlockingIOError: if another process holds it, and it is not to be waited for.
        OSError: if the file cannot be made, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether another process holds a file's lock; to look does not take it."""
    try:
        with open(path, "rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which any number of processes may hold
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def read_yaml(path: Path, name: str) -> Any:
    """What a YAML file holds.

    Args:
        path: the file, for a reader of the message relative to here.
        name: what the message calls it: the path, with the option before it that names it.

    Raises:
        UserError: if it cannot be read or is no YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
            again = [key for i, key in enumerate(keys) if key.value in (before.value for before in keys[:i])]
            if again:  # the first would be lost
                raise yaml.MarkedYAMLError(problem=f"{again[0].value} is there twice", problem_mark=again[0].start_mark)
            return super().construct_mapping(node, deep)

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise UserError(f"{name}: is longer than {LONGEST:,} characters, and no configuration; give a YAML file")
        return yaml.load(text, Loader)
    except FileNotFoundError:
        brought = path.parts[:1] == ("experiments",) and not Path("experiments").is_dir()
        remedy = "lifted init FOLDER writes a folder that has it" if brought else "the path is relative to here"
        raise UserError(f"{name}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = one_line(str(error).replace(' in "<unicode string>"', ""))
        raise UserError(f"{name}: is no YAML ({reason}); mend it there") from error
