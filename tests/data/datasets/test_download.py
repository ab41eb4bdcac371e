"""Downloads from a local server: whole, broken off, wrong; and archives that must not be unpacked."""

import hashlib
import io
import socket
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
    """Serves ``content``; breaks a connection off after ``cuts[0]`` bytes, then ``cuts[1]`` and so on."""

    content = CONTENT
    ranges = True
    refuse = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.refuse:
            self.send_error(self.server.refuse)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if first >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[first:]
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

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


def part(file: Path) -> Path:
    return file.with_name("set.zip.part")


def test_whole(server: Server, file: Path) -> None:
    download(server.url, file, md5(CONTENT))
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == ["set.zip"]
    assert server.asked == [None]


def test_goes_on_after_the_connection_breaks(server: Server, file: Path) -> None:
    server.cuts = [1_000, 200_000]
    download(server.url, file, md5(CONTENT))
    assert file.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=201000-"]


def test_early_end_is_said_and_the_next_call_resumes(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.cuts = [300_000]
    with pytest.raises(UserError, match=r"ended early, at 0\.3 MB of 0\.5 MB.* call again") as caught:
        download(server.url, file, md5(CONTENT))
    assert server.url in str(caught.value)
    assert not file.exists()
    assert part(file).read_bytes() == CONTENT[:300_000]
    download(server.url, file, md5(CONTENT))
    assert file.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_server_that_knows_no_ranges(server: Server, file: Path) -> None:
    server.ranges = False
    server.cuts = [1_000]
    download(server.url, file, md5(CONTENT))
    assert file.read_bytes() == CONTENT


def test_complete_part_is_taken(server: Server, file: Path) -> None:
    part(file).write_bytes(CONTENT)
    download(server.url, file, md5(CONTENT))
    assert file.read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(server: Server, file: Path) -> None:
    with pytest.raises(UserError, match=f"checksum {md5(CONTENT)} instead of {md5(b'')}"):
        download(server.url, file, md5(b""))
    assert not list(file.parent.iterdir())


@pytest.mark.parametrize(("refuse", "message"), [(404, "404 Not Found"), (503, "503")])
def test_refusal_is_said_at_once(server: Server, file: Path, refuse: int, message: str) -> None:
    server.refuse = refuse
    with pytest.raises(UserError, match=message):
        download(server.url, file, md5(CONTENT))
    assert len(server.asked) == 1


def test_no_server(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/set.zip"
        with pytest.raises(UserError, match="cannot be reached") as caught:
            download(url, file, md5(CONTENT))
    assert f"put the file at {file} yourself" in str(caught.value)


def test_too_little_disk(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
    with pytest.raises(UserError, match=r"needs 0\.5 MB more"):
        download(server.url, file, md5(CONTENT))
    assert not file.exists()


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


@makers
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "set/../evil"])
def test_no_path_outside(root: Path, file: Path, make: Callable, name: str) -> None:
    make(file, GOOD | {name: b"x"})
    with pytest.raises(UserError, match="a path outside its folder; not unpacked") as caught:
        unpack(file, root / "set")
    assert str(file) in str(caught.value)
    assert not list(root.iterdir())
    assert tree(root.parent.parent).keys() == {"set.zip"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_no_links_or_devices_in_tar(root: Path, file: Path, kind: bytes) -> None:
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("set/a"))
        info = tarfile.TarInfo("set/b")
        info.type, info.linkname = kind, "set/a"
        archive.addfile(info)
    with pytest.raises(UserError, match="'set/b', a link or device"):
        unpack(file, root / "set")
    assert not list(root.iterdir())


def test_no_links_in_zip(root: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("set/b")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="'set/b', a link or device"):
        unpack(file, root / "set")
    assert not list(root.iterdir())


@pytest.mark.parametrize(
    ("make", "damage"),
    # A tar's contents have no checksum of their own: that of the whole archive is for them.
    [
        (m, d)
        for m in (make_zip, make_tar)
        for d in ("cut", "foreign", "empty", "changed")
        if (m, d) != (make_tar, "changed")
    ],
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


@makers
def test_never_over_what_is_there(root: Path, file: Path, make: Callable) -> None:
    make(file, GOOD)
    (root / "set").mkdir()
    with pytest.raises(UserError, match="is there already"):
        unpack(file, root / "set")
    assert not list((root / "set").iterdir())


@makers
def test_archive_of_something_else(root: Path, file: Path, make: Callable) -> None:
    make(file, {"other/a": b"x"})
    with pytest.raises(UserError, match="holds no set"):
        unpack(file, root / "set")


@makers
def test_too_little_disk_to_unpack(root: Path, file: Path, make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make(file, {"set/a": bytes(500_000)})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
    with pytest.raises(UserError, match=r"needs 0\.5 MB more"):
        unpack(file, root / "set")


# All of it


@pytest.fixture
def archive(server: Server, tmp_path: Path) -> Archive:
    make_zip(tmp_path / "made.zip", GOOD)
    server.content = (tmp_path / "made.zip").read_bytes()
    return Archive(name="sub/set.zip", md5=md5(server.content), target="sub/set", url=server.url)


def test_fetch_and_unpack(archive: Archive, root: Path) -> None:
    fetch_and_unpack(archive, root, "")
    assert tree(root / "sub" / "set") == {"a b.txt": b"1", "ä/b.txt": b"22"}


def test_wrong_checksum_is_found_before_unpacking(
    archive: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "unpack", lambda *_: pytest.fail("unpacked"))
    wrong = Archive(archive.name, md5(b""), archive.target, archive.url)
    with pytest.raises(UserError, match="checksum"):
        fetch_and_unpack(wrong, root, "")
    assert not tree(root)


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


def test_file_that_is_no_archive(root: Path) -> None:
    (root / "annos.mat").write_bytes(b"x")
    fetch_and_unpack(Archive("annos.mat", md5(b"x"), "annos.mat"), root, "")


def test_root_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(UserError, match="a file"):
        fetch_and_unpack(archive, tmp_path / "a file", "")
