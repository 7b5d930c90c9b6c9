import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ccpml.data.upkeep.archives import unpack

FILES = {"set/a.txt": b"a", "set/deep/er/b #1 é.txt": b"bb" * 5000, "set/empty": b""}


def make_tar(file: Path, *members: tuple[str, bytes | dict[str, Any]], mode: str = "w:gz") -> Path:
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(member, key, value)
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def make_zip(file: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "to"
    folder.mkdir(parents=True)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_unpacks_all_members(tmp_path: Path, to: Path, kind: str) -> None:
    if kind == "zip":
        file = make_zip(tmp_path / "x", *FILES.items(), ("set/folder/", b""))
    else:
        folder = ("set/folder", {"type": tarfile.DIRTYPE, "mode": 0o755})
        file = make_tar(tmp_path / "x", *FILES.items(), folder, mode=kind)
    unpack(file, to, 10**6, progress=False)
    assert content(to) == FILES
    assert (to / "set" / "folder").is_dir()


NAMES = ["../out.txt", "set/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt", "set/..\\..\\out.txt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_is_written_outside(tmp_path: Path, to: Path, name: str, kind: str) -> None:
    members = (("set/a.txt", b"a"), (name, b"out"))
    file = make_tar(tmp_path / "x", *members) if kind == "tar" else make_zip(tmp_path / "x", *members)
    with pytest.raises(ValueError, match=r"x: refused \(.*\); download it again"):
        unpack(file, to, 10**6, progress=False)
    assert content(to.parent).keys() <= {"to/set/a.txt"}


@pytest.mark.parametrize(
    "member",
    [
        {"type": tarfile.SYMTYPE, "linkname": "../../outside"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"type": tarfile.LNKTYPE, "linkname": "../outside"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_that_lead_out_and_devices_are_refused(tmp_path: Path, to: Path, member: dict[str, Any]) -> None:
    file = make_tar(tmp_path / "x", ("set/thing", member), ("set/thing/a.txt", b"a"))
    with pytest.raises(ValueError, match="refused"):
        unpack(file, to, 10**6, progress=False)
    assert content(to.parent) == {}


def test_nothing_is_written_through_a_link(tmp_path: Path, to: Path) -> None:
    link = {"type": tarfile.SYMTYPE, "linkname": "other"}
    file = make_tar(tmp_path / "x", ("set/other/b.txt", b"b"), ("set/link", link), ("set/link/b.txt", b"changed"))
    with pytest.raises(ValueError, match="is below a link"):
        unpack(file, to, 10**6, progress=False)
    assert (to / "set/other/b.txt").read_bytes() == b"b"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_too_many_files(tmp_path: Path, to: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.data.upkeep.archives._MAX_MEMBERS", 2)
    members = tuple((f"set/{n}", b"") for n in range(3))
    file = make_tar(tmp_path / "x", *members) if kind == "tar" else make_zip(tmp_path / "x", *members)
    with pytest.raises(ValueError, match="in 2 files, got more"):
        unpack(file, to, 10**6, progress=False)
    assert "set/2" not in content(to)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_too_large(tmp_path: Path, to: Path, kind: str) -> None:
    members = (("set/bomb", bytes(10**6)),)
    file = make_tar(tmp_path / "x", *members) if kind == "tar" else make_zip(tmp_path / "x", *members)
    with pytest.raises(ValueError, match=r"expected at most 100\.0 kB"):
        unpack(file, to, 10**5, progress=False)
    assert content(to) == {}


def test_links_in_a_zip_are_refused(tmp_path: Path, to: Path) -> None:
    link = zipfile.ZipInfo("set/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        unpack(make_zip(tmp_path / "x", (link, b"../../outside")), to, 10**6, progress=False)
    assert content(to) == {}


def test_an_encrypted_member(tmp_path: Path, to: Path) -> None:
    file = make_zip(tmp_path / "x", ("set/a.txt", b"a"))
    data = bytearray(file.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="refused"):
        unpack(file, to, 10**6, progress=False)


@pytest.mark.parametrize("kind", ["w:gz", "w:xz", "zip"])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_truncated(tmp_path: Path, to: Path, kind: str, keep: float) -> None:
    members = tuple((f"set/{n}", bytes(range(256)) * 40) for n in range(8))
    file = make_zip(tmp_path / "x", *members) if kind == "zip" else make_tar(tmp_path / "x", *members, mode=kind)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"x: damaged, .*or not an archive"):
        unpack(file, to, 10**6, progress=False)


def test_not_an_archive(tmp_path: Path, to: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"x: damaged, .*or not an archive"):
        unpack(tmp_path / "x", to, 10**6, progress=False)
