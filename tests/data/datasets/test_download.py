"""Downloads from a local server: whole, broken off, wrong; and archives that must not be unpacked."""

import contextlib
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lifted_lightning.data.datasets import download as module
from lifted_lightning.data.datasets.download import Archive, download, fetch_and_unpack, unpack
from lifted_lightning.errors import UserError

CONTENT = bytes(range(256)) * 2_000


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any address; breaks the connection off after ``cut`` bytes, or says nothing more."""

    content = CONTENT
    cut: int | None = None
    refuse = 0
    asked = 0
    hangs: threading.Event | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.refuse:
            self.send_error(self.server.refuse)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut])
        if self.server.hangs:
            self.server.hangs.wait(60)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "set.zip"


def failure(url: str, file: Path, checksum: str = md5(CONTENT)) -> str:
    with pytest.raises(UserError) as caught:
        download(url, file, checksum)
    assert not list(file.parent.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cut", "refuse", "hangs", "message"),
    [
        (300_000, 0, False, "ended after 300,000 of 512,000 bytes"),
        (300_000, 0, True, "timed out"),
        (None, 404, False, "404"),
    ],
)
def test_server_that_fails(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch, cut: int | None, refuse: int, hangs: bool, message: str
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2 if hangs else 30)
    server.cut, server.refuse, server.hangs = cut, refuse, threading.Event() if hangs else None
    found = failure(server.url, file)
    if server.hangs:
        server.hangs.set()
    assert found.startswith(f"{server.url}: cannot be had (")
    assert message in found
    assert f"put the file at {file} yourself" in found
    assert server.asked == 1


def test_wrong_checksum(server: Server, file: Path) -> None:
    assert f"checksum {md5(CONTENT)} instead of {md5(b'')}" in failure(server.url, file, md5(b""))


def test_never_from_https_to_http(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = module.urllib.request.urlopen
    # As if an https server sent us on.
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: opened(server.url, timeout=timeout))
    assert f"leads to {server.url}, which is not encrypted" in failure("https://127.0.0.1/set.zip", file)


# Unpacking

Members = dict[str, bytes]
GOOD: Members = {"set/a b.txt": b"1", "set/ä/b.txt": b"22", "._set": b"x", "attributes.txt": b"x"}


def make_zip(file: Path, members: Members) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def make_tar(file: Path, members: Members) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def tree(folder: Path) -> Members:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


makers = pytest.mark.parametrize("make", [make_zip, make_tar])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data" / "root").mkdir(parents=True)
    return tmp_path / "data" / "root"


@makers
def test_unpacks_the_folder_and_nothing_else(root: Path, file: Path, make: Callable) -> None:
    make(file, GOOD)
    unpack(file, root / "set")
    assert tree(root) == {"set/a b.txt": b"1", "set/ä/b.txt": b"22"}
    assert [p.name for p in root.iterdir()] == ["set"]
    with pytest.raises(UserError, match="is there already"):
        unpack(file, root / "set")
    with pytest.raises(UserError, match="holds no other"):
        unpack(file, root / "other")


@makers
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/evil"])
def test_nothing_is_written_outside(root: Path, file: Path, make: Callable, name: str) -> None:
    make(file, GOOD | {name: b"x"})
    with contextlib.suppress(UserError):  # of a tar; a zip's names are made harmless
        unpack(file, root / "set")
    assert {path.split("/")[0] for path in tree(root)} <= {"set"}
    assert tree(root.parent.parent).keys() == {
        "set.zip",
        *(f"{root.relative_to(root.parents[1])}/{path}" for path in tree(root)),
    }


@pytest.mark.parametrize(("kind", "target"), [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.FIFOTYPE, "")])
def test_no_links_outside_or_devices_in_tar(root: Path, file: Path, kind: bytes, target: str) -> None:
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("set/a"))
        info = tarfile.TarInfo("set/b")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    with pytest.raises(UserError, match=r"cannot be unpacked .*'set/b'"):
        unpack(file, root / "set")
    assert not list(root.iterdir())


@pytest.mark.parametrize(
    ("make", "damage"),
    # A tar's contents have no checksum of their own: that of the whole archive is for them.
    [(make_zip, "changed"), *((make, how) for make in (make_zip, make_tar) for how in ("cut", "foreign", "empty"))],
)
def test_damaged_archive_leaves_nothing(root: Path, file: Path, make: Callable, damage: str) -> None:
    make(file, {"set/a": bytes(100_000), "set/b": CONTENT})
    content = file.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes(9) + content[middle + 9 :]
    broken = {"cut": content[:middle], "foreign": b"x" * 2_000, "empty": b"", "changed": changed}[damage]
    file.write_bytes(broken)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(file, root / "set")
    assert not list(root.iterdir())


# All of it


@pytest.fixture
def archive(server: Server, tmp_path: Path) -> Archive:
    make_zip(tmp_path / "made.zip", GOOD)
    server.content = (tmp_path / "made.zip").read_bytes()
    return Archive(name="sub/set.zip", md5=md5(server.content), target="sub/set", url=server.url)


def test_fetch_and_unpack(archive: Archive, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_and_unpack(archive, root, "")
    assert tree(root / "sub") == {"set.zip": server.content, "set/a b.txt": b"1", "set/ä/b.txt": b"22"}
    monkeypatch.setattr(module, "unpack", lambda *_: pytest.fail("unpacked before the checksum"))
    with pytest.raises(UserError, match="checksum"):
        fetch_and_unpack(Archive("again.zip", md5(b""), "again", archive.url), root, "")


def test_archive_that_the_user_brought(archive: Archive, root: Path, server: Server) -> None:
    brought = Archive("set.zip", archive.md5, "set")
    with pytest.raises(UserError, match=r"set\.zip is not there: ask its authors"):
        fetch_and_unpack(brought, root, "ask its authors")
    (root / "set.zip").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"set\.zip: has the checksum"):
        fetch_and_unpack(brought, root, "")
    (root / "set.zip").write_bytes(server.content)
    fetch_and_unpack(brought, root, "")
    assert len(tree(root / "set")) == 2
    assert not server.asked
    (root / "annos.mat").write_bytes(b"x")  # a file that is no archive
    fetch_and_unpack(Archive("annos.mat", md5(b"x"), "annos.mat"), root, "")


def test_root_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(UserError, match="a file"):
        fetch_and_unpack(archive, tmp_path / "a file", "")
