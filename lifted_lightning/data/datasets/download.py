"""Getting published archives: download, checksum, then unpacking that is all or nothing and stays in its folder."""

import hashlib
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from lifted_lightning.errors import UserError, one_line

TIMEOUT = 30.0  # seconds without a byte


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


def fetch_and_unpack(archive: Archive, root: Path, remedy: str) -> None:
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
    """Download a file, which has its name only once it is whole.

    Raises:
        UserError: if the connection fails or ends early, leads from https to http, or the checksum is wrong.
    """
    from rich.console import Console
    from rich.progress import wrap_file

    part = file.with_name(f"{file.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as sink:
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise UserError(f"{url}: leads to {response.url}, which is not encrypted; get the file yourself")
            size = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, size, description=file.name, console=Console(stderr=True)) as source:
                shutil.copyfileobj(source, sink, 1 << 20)
            if sink.tell() < size:
                raise ConnectionError(f"the connection ended after {sink.tell():,} of {size:,} bytes")
        check_md5(part, md5)
        part.replace(file)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(f"{url}: cannot be had ({error}); try again, or put the file at {file} yourself") from error
    finally:
        part.unlink(missing_ok=True)


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


def unpack(file: Path, target: Path) -> None:
    """Unpack an archive (zip or tar) that holds a folder of the target's name: completely, or not at all.

    Args:
        file: the archive.
        target: where that folder goes; what else the archive holds is dropped.

    Raises:
        UserError: if the archive is damaged, lacks the folder, or is a tar with a path or link that leads outside or a
            device; or if the target exists.
    """
    if target.exists():
        raise UserError(f"{target}: is there already, so {file} was not unpacked; move it away")
    print(f"unpacking {file}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as folder:
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as zipped:
                    zipped.extractall(folder)  # which makes no links, and leaves out of names what leads outside
            else:
                with tarfile.open(file) as archive:
                    archive.extractall(folder, filter="data")
        except OSError:
            raise
        except Exception as error:  # an archive that is damaged raises nearly anything
            raise UserError(f"{file}: cannot be unpacked ({one_line(error)})") from error
        if not Path(folder, target.name).exists():
            raise UserError(f"{file}: holds no {target.name}")
        Path(folder, target.name).rename(target)
