import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccpml.data.sources import benchmarks
from ccpml.data.upkeep import fetch
from ccpml.data.upkeep.fetch import fetch_benchmark
from tests.data.layouts import make_cub
from tests.server import Site, serving


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.download._PAUSES", (0.0, 0.0))


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """An archive like that of CUB: a folder, and a file beside it."""
    make_cub(tmp_path / "made")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "CUB_200_2011", "CUB_200_2011")
        tar.add(tmp_path / "made" / "CUB_200_2011" / "classes.txt", "attributes.txt")
    return file.getvalue()


@pytest.fixture
def site(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(archive, "CUB_200_2011.tgz") as site:
        official = fetch._ARCHIVES["cub"]
        md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
        here = official._replace(urls=(site.url,), md5=md5, max_size=10**7)
        monkeypatch.setitem(fetch._ARCHIVES, "cub", here)
        yield site


def test_downloads_and_unpacks(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "new" / "root"
    folder = fetch_benchmark("cub", root, progress=False)
    assert folder == root / "CUB_200_2011"
    assert len(list(folder.rglob("*.jpg"))) == 40
    assert sorted(path.name for path in root.iterdir()) == [".cub.fetch.lock", "CUB_200_2011"]
    with pytest.raises(
        ValueError, match=r"CUB_200_2011: cub exists but is incomplete: .*expected 100 training classes, got 4"
    ):
        fetch_benchmark("cub", root, progress=False)
    monkeypatch.setitem(benchmarks._BENCHMARKS, "cub", benchmarks._BENCHMARKS["cub"]._replace(parts=()))
    assert fetch_benchmark("cub", root, progress=False) == folder
    assert len(site.asked) == 1, "an existing benchmark is not fetched again"


def test_an_interrupted_fetch_resumes(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.cuts = [2000]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_benchmark("cub", tmp_path / "root", progress=False)
    assert not (tmp_path / "root" / "CUB_200_2011").exists()
    fetch_benchmark("cub", tmp_path / "root", progress=False)
    assert site.asked == ["", "bytes=2000-"]


def test_an_interrupted_unpacking_leaves_nothing(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack_some(archive: Path, folder: Path, *args: object) -> None:
        (folder / "CUB_200_2011").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "unpack", unpack_some)
        with pytest.raises(KeyboardInterrupt):
            fetch_benchmark("cub", tmp_path / "root", progress=False)
    assert not (tmp_path / "root" / "CUB_200_2011").exists()
    left = tmp_path / "root" / ".CUB_200_2011.partial" / "CUB_200_2011"
    left.mkdir(parents=True)  # as kill -9 leaves it
    folder = fetch_benchmark("cub", tmp_path / "root", progress=False)
    assert len(list(folder.rglob("*.jpg"))) == 40
    assert len(site.asked) == 1, "a complete archive is not fetched again"


def test_a_wrong_checksum(site: Site, tmp_path: Path) -> None:
    good, site.content = site.content, site.content[:99] + b"?" + site.content[100:] + b"?"
    with pytest.raises(ValueError, match=r"CUB_200_2011\.tgz\.damaged: MD5: expected \w+, as published, got "):
        fetch_benchmark("cub", tmp_path, progress=False)
    assert not (tmp_path / "CUB_200_2011").exists()
    site.content, site.etag = good, '"2"'
    assert fetch_benchmark("cub", tmp_path, progress=False).is_dir()


def test_an_archive_downloaded_by_hand_is_used_and_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011.tgz").write_bytes(site.content)
    assert fetch_benchmark("cub", tmp_path, progress=False).is_dir()
    assert site.asked == []
    assert (tmp_path / "CUB_200_2011.tgz").read_bytes() == site.content


def test_the_next_address_is_tried(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fetch._ARCHIVES["cub"]
    with serving(b"") as gone:
        gone.statuses = [404]
        monkeypatch.setitem(fetch._ARCHIVES, "cub", here._replace(urls=(gone.url, site.url)))
        assert fetch_benchmark("cub", tmp_path, progress=False).is_dir()


def test_no_address_works(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(ValueError, match=r"answered 404 .*or download .* on another machine and put it into"):
        fetch_benchmark("cub", tmp_path, progress=False)


@pytest.mark.parametrize("name", ["cars196", "inshop"])
def test_instructions_without_an_official_address(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .* into {tmp_path}/{name}$"):
        fetch_benchmark(name, tmp_path)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="benchmark: expected cub, cars196, sop, inshop, got 'mnist'"):
        fetch_benchmark("mnist", tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written"):
        fetch_benchmark("cub", tmp_path / "file" / "root")
    (tmp_path / "CUB_200_2011").mkdir()
    with pytest.raises(ValueError, match="already exists, but is not the benchmark"):
        fetch_benchmark("cub", tmp_path)


def test_no_space(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch._ARCHIVES, "cub", fetch._ARCHIVES["cub"]._replace(max_size=10**18))
    with pytest.raises(ValueError, match="free some space"):
        fetch_benchmark("cub", tmp_path, progress=False)
