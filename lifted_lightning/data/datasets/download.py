"""Getting published archives: download that resumes, checksum, then unpacking that stays in its folder."""

import hashlib
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath

from lifted_lightning.errors import UserError


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as.

    Attributes:
        name: of the file, below the data root: where it is looked for, and where a download goes.
        md5: of the file, checked before anything is made of it.
        target: path below the data root that is there once the archive is unpacked.
        url: where it may be had from; None if no lawful address is known.
    """

    name: str
    md5: str
    target: str
    url: str | None = None


BLOCK = 1 << 20


ATTEMPTS = 5  # connections that bring something before it is left to the user to call again


TIMEOUT = 30.0  # seconds without a byte


def fetch_and_unpack(archive: "Archive", root: Path, remedy: str) -> None:
    """See that an archive lies below the data root, unharmed and unpacked.

    An archive that the user put there is taken; else it is downloaded, if an address is known. It is kept.

    Raises:
        UserError: if there is no archive and no address, the download or the checksum fails, the archive
            holds what may not be unpacked, or the disk is full or read-only.
    """
    file = root / archive.name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            check_md5(file, archive.md5)
        elif archive.url is None:
            raise UserError(f"{file} is not there: {remedy}")
        else:
            download(archive.url, file, archive.md5)
        if file != root / archive.target:
            unpack(file, root / archive.target)
    except OSError as error:
        raise UserError(f"{error.filename or file}: {error.strerror or error}") from error


def download(url: str, file: Path, md5: str) -> None:
    """Download a file; what an earlier call left unfinished in ``<file>.part`` is gone on with.

    Raises:
        UserError: if the connection fails or ends early (call again to resume), the checksum is wrong, or the
            disk has too little room.
    """
    part = file.with_name(f"{file.name}.part")
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        complete, problem = _receive(url, part)
        if complete:
            break
        if attempt == ATTEMPTS - 1 or part.stat().st_size <= before:
            raise UserError(
                f"{url}: {problem} after {_size(part.stat().st_size)}; call again to go on from there, or "
                f"put the file at {file} yourself"
            )
    try:
        check_md5(part, md5)
    except UserError:
        part.unlink()
        raise
    part.replace(file)


def _receive(url: str, part: Path) -> tuple[bool, str]:
    """Append to ``part`` what one connection brings; tells whether the file is complete, and else why not."""
    part.touch()
    have = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server sends all of it, whatever was asked for
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            check_space(part.parent, (total or have) - have, part)
            with part.open("ab" if have else "wb") as stream, _progress(part.stem, total, have) as advance:
                while block := response.read(BLOCK):
                    stream.write(block)
                    advance(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what is there: the checksum tells whether it is right
            return True, ""
        return False, f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return False, f"cannot be reached ({error.reason})"
    except (HTTPException, TimeoutError, ConnectionError) as error:
        return False, f"the connection broke ({error or type(error).__name__})"
    have = part.stat().st_size
    return total is None or have == total, f"ended early, at {_size(have)} of {_size(total or 0)},"


def check_md5(file: Path, md5: str) -> None:
    """The file is the published one.

    Raises:
        UserError: if its checksum is another.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{file}: has the checksum {found} instead of {md5}, so it is damaged or another version and was "
            "not unpacked; remove it and get it again"
        )


def check_space(folder: Path, needed: int, file: Path) -> None:
    """The disk has room.

    Raises:
        UserError: if it has not, with 1 % to spare.
    """
    free = shutil.disk_usage(folder).free
    if needed * 1.01 > free:
        raise UserError(f"{file}: needs {_size(needed)} more below {folder}, where {_size(free)} are free")


def unpack(file: Path, target: Path) -> None:
    """Unpack an archive (zip or tar) that holds a folder of the target's name: completely, or not at all.

    Args:
        file: the archive.
        target: where that folder goes; what else the archive holds is dropped.

    Raises:
        UserError: if the archive is damaged, lacks the folder, or holds a path outside its own folder, a
            link, or anything but files and folders; if the target exists; if the disk has too little room.
    """
    if target.exists():
        raise UserError(f"{target}: is there already, so {file} was not unpacked; move it away")
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as temporary:
        try:
            if zipfile.is_zipfile(file):
                _unpack_zip(file, Path(temporary))
            else:
                _unpack_tar(file, Path(temporary))
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise UserError(f"{file}: cannot be unpacked ({error})") from error
        made = Path(temporary) / target.name
        if not made.exists():
            raise UserError(f"{file}: holds no {target.name}")
        made.rename(target)


def _unpack_zip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            _check_name(file, member.filename)
            mode = stat.S_IFMT(member.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{file}: holds {member.filename!r}, a link or device; not unpacked")
        check_space(folder, sum(member.file_size for member in members), file)
        with _progress(f"unpacking {file.name}", sum(m.file_size for m in members), 0) as advance:
            for member in members:
                archive.extract(member, folder)
                advance(member.file_size)


def _unpack_tar(file: Path, folder: Path) -> None:
    with tarfile.open(file) as archive:
        members = archive.getmembers()
        for member in members:
            _check_name(file, member.name)
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{file}: holds {member.name!r}, a link or device; not unpacked")
        check_space(folder, sum(member.size for member in members), file)
        with _progress(f"unpacking {file.name}", sum(m.size for m in members), 0) as advance:
            for member in members:
                target = folder / member.name
                (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                if source is not None:  # contents alone: owners and modes are the user's own
                    with target.open("xb") as sink:
                        shutil.copyfileobj(source, sink, BLOCK)
                advance(member.size)


def _check_name(file: Path, name: str) -> None:
    """A member's path stays inside, on whatever system."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise UserError(f"{file}: holds {name!r}, a path outside its folder; not unpacked")


@contextmanager
def _progress(title: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes with rate and time left on the standard error stream."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
