"""What a run keeps of the user's own code: modules that its class paths name, and those loaded from beside them."""

import itertools
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lifted_lightning.runs.folder import CODE
from lifted_lightning.runs.settings import each_value

LARGEST = 1_000_000  # bytes of code that a run keeps
LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
PACKAGE = Path(__file__).parents[1]


def own_modules(config: Mapping[str, Any]) -> dict[str, Path]:
    """The source files of the user's own modules that a configuration names.

    A module is one's own if it is part neither of Python, nor of what is installed, nor of this package. Where one is
    named all count that have been loaded from the same place, so that what it imports is among them.

    Args:
        config: the settings, the classes of which have been imported.

    Returns:
        The files by where they lie below the place that they are imported from: ``my_loss.py``, ``my_paper/loss.py``.
    """
    named = set[str]()
    each_value(config, lambda value: named.add(str(value).rpartition(".")[0]))
    there = {name: found for name, module in list(sys.modules.items()) if (found := _source(name, module))}
    places = {place for name, (place, _) in there.items() if name in named}
    return {path.relative_to(place).as_posix(): path for place, path in there.values() if place in places}


def keep_modules(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Copy the user's own modules that a configuration names into ``code/`` of the run's folder.

    One that differs from the copy that is there has the copy's name; the copy gets a number.

    Returns:
        Lines to say: which have changed, and which are left out, for no more than :data:`LARGEST` bytes are kept.
    """
    told, room = list[str](), LARGEST
    for name, path in sorted(own_modules(config).items()):
        copy = folder / CODE / name
        try:
            source = path.read_bytes()
        except OSError as error:
            told.append(f"{path}: is not kept in {copy.parent} ({error.strerror})")
            continue
        if len(source) > room:
            told.append(f"{path}: is not kept in {copy.parent}, which is full at {LARGEST:,} bytes; copy it yourself")
            continue
        room -= len(source)
        if copy.exists():
            if copy.read_bytes() == source:
                continue
            numbers = (copy.with_name(f"{copy.name}.{number}") for number in itertools.count(1))
            before = copy.rename(next(other for other in numbers if not other.exists()))
            told.append(f"{path}: has changed since the run began; as it was then it is kept as {before}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source)
    return told


def is_own(path: Path) -> bool:
    """Whether a file is part neither of Python, nor of what is installed, nor of this package."""
    installed = {"site-packages", "dist-packages"} & {*path.parts}
    return not installed and not any(path.is_relative_to(place) for place in (*LIBRARIES, PACKAGE))


def _source(name: str, module: object) -> tuple[Path, Path] | None:
    """Where a loaded module of the user's is imported from, and its file; None for any other."""
    named = ModuleType.__getattribute__(module, "__dict__") if isinstance(module, ModuleType) else {}
    file = named.get("__file__")  # so a lazy one stays unloaded
    if not (isinstance(file, str) and file.endswith(".py") and Path(file).is_absolute()) or name == "__main__":
        return None
    path = Path(file)
    if not is_own(path):
        return None
    imported = Path(name.replace(".", "/"))
    imported = imported / path.name if path.name == "__init__.py" else imported.with_name(f"{imported.name}.py")
    if not path.as_posix().endswith(f"/{imported.as_posix()}"):  # what a compiler has written, and named as it likes
        return None
    return path.parents[len(imported.parts) - 1], path
