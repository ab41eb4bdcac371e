"""Reading the text files that say which image is of which class."""

from pathlib import Path

from lifted_lightning.errors import UserError


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, whatever its line ends.

    Raises:
        UserError: if the file is missing or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to the data set") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    return [line for line in text.splitlines() if line.strip()]


def read_columns(path: Path, count: int) -> list[list[str]]:
    """The lines of a text file as columns between white space; the last one may hold spaces.

    Raises:
        UserError: naming a line with fewer columns.
    """
    lines = [line.split(maxsplit=count - 1) for line in read_lines(path)]
    for number, line in enumerate(lines, start=1):
        if len(line) < count:
            raise UserError(f"{path}: line {number} of its text has {len(line)} columns instead of {count}")
    return [[column.rstrip() for column in line] for line in lines]


def read_table(path: Path, header: str) -> list[list[str]]:
    """The columns below a header line.

    Raises:
        UserError: if the header is another one.
    """
    names = header.split()
    lines = read_columns(path, len(names))
    if not lines or lines[0] != names:
        raise UserError(f"{path}: its header line is not {header!r}; is it the original file?")
    return lines[1:]


def whole_number(text: str, path: Path) -> int:
    """A number of a metadata file.

    Raises:
        UserError: if it is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{path}: {text[:40]!r} is no number; is it the original file?") from error
