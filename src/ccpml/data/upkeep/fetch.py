"""Fetching a benchmark where an official, stable address exists; saying what to do where none does."""

import hashlib
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ccpml.data.sources.benchmarks import Found, benchmark_folder, find_benchmark
from ccpml.data.upkeep.archives import unpack
from ccpml.data.upkeep.disk import NoSpaceError, only_one, require_space
from ccpml.data.upkeep.download import download
from ccpml.data_name import BENCHMARKS
from ccpml.progress import progress_bar

__all__ = ["fetch_benchmark"]

_GB: Final = 10**9
_CHUNK: Final = 2**22


class _Archive(NamedTuple):
    """An official archive: its addresses, tried in turn, and MD5, its folder, and how large that may become."""

    urls: tuple[str, ...]
    md5: str
    folder: str
    unpacked: int


_ARCHIVES: Final = {
    "cub": _Archive(
        ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
        "97eceeb196236b17998738112f37df78",
        "CUB_200_2011",
        2 * _GB,
    ),
    "sop": _Archive(
        (
            "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
            "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        ),
        "7f73d41a2f44250d4779881525aea32e",
        "Stanford_Online_Products",
        5 * _GB,
    ),
}

_BY_HAND: Final = {
    "cars196": (
        "the page of Cars196 is closed and no address has a published checksum: get CARS196.zip from a mirror that you "
        "trust (Stanford's vision group had it at http://ftp.cs.stanford.edu/cs/cvgl/CARS196.zip) and put "
        "cars_annos.mat and car_ims/, or cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat, into "
        "{root}/cars196"
    ),
    "inshop": (
        "In-Shop is given on request: ask the Multimedia Laboratory of the Chinese University of Hong Kong for "
        "DeepFashion's In-shop Clothes Retrieval Benchmark, and put its Eval/list_eval_partition.txt and Img/, with "
        "img.zip unpacked, into {root}/inshop"
    ),
}


def fetch_benchmark(
    name: str, data_root: Path | str, progress: bool = True, open_url: Callable[..., Any] = urllib.request.urlopen
) -> Path:
    """Download a benchmark's archive, check it, and unpack it.

    A download that was stopped goes on where it stopped; an archive that lies in the root already, fetched by hand, is
    used. It is unpacked beside its place and moved there when it is whole, so that what is there is complete.

    Args:
        name: ``cub``, ``cars196``, ``sop`` or ``inshop``.
        data_root: Folder that it shall lie in; made if it is not there.
        progress: Show progress bars on standard error.
        open_url: As ``urllib.request.urlopen``.

    Returns:
        The folder of the benchmark; one that is there already and whole is left as it is.

    Raises:
        ValueError: If there is no official address (the message says what to do), or the archive cannot be fetched, is
            not the published one, is refused, or the disk has no room or cannot be written to.
    """
    root = Path(data_root)
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: expected {', '.join(BENCHMARKS)}")
    if root.is_dir() and (found := _present(name, root)) is not None:
        if found.problems:
            raise ValueError(
                f"{found.folder}: {name} is there, but not whole: {'; '.join(found.problems)}; complete it, or remove "
                "or rename the folder and fetch it anew"
            )
        print(f"{found.folder}: {name} is there already", file=sys.stderr)
        return found.folder
    if name in _BY_HAND:
        raise ValueError(f"{name}: {_BY_HAND[name].format(root=root)}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with only_one(root / f".{name}.fetch.lock", f"fetching {name}"):
            return _fetch(_ARCHIVES[name], root, progress, open_url)
    except OSError as error:
        raise ValueError(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); choose a folder that can, with "
            "--data-root"
        ) from error


def _present(name: str, root: Path) -> Found | None:
    try:
        benchmark_folder(name, root)
    except ValueError:
        return None
    return find_benchmark(name, root)


def _fetch(archive: _Archive, root: Path, progress: bool, open_url: Callable[..., Any]) -> Path:
    file = root / archive.urls[0].rpartition("/")[2]
    target = root / archive.folder
    if target.exists():
        raise ValueError(f"{target}: in the way, and not what the archive holds; remove or rename it")
    by_hand = file.is_file()
    if by_hand:
        print(f"{file}: there already, so not downloaded", file=sys.stderr)
        _check(file, archive.md5, progress)
    else:
        part = file.with_name(f"{file.name}.part")
        _download(archive, part, progress, open_url)
        _check(part, archive.md5, progress)
        part.replace(file)
    require_space(root, archive.unpacked, f"what {file.name} holds")
    partial = root / f".{archive.folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        unpack(file, partial, archive.unpacked, progress)
        if not (partial / archive.folder).is_dir():
            raise ValueError(f"{file}: holds no folder {archive.folder}; remove it, and fetch it anew")
        (partial / archive.folder).rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not by_hand:
        file.unlink()
    return target


def _download(archive: _Archive, part: Path, progress: bool, open_url: Callable[..., Any]) -> None:
    """Download from the first address that answers.

    Raises:
        ValueError: If none does; what each says.
    """
    failures = []
    for url in archive.urls:
        try:
            download(url, part, archive.unpacked, progress, open_url)
        except NoSpaceError:
            raise
        except ValueError as error:
            failures.append(str(error))
        else:
            return
    way_out = f"try again later, or fetch {archive.urls[0]} elsewhere and put it into {part.parent}"
    raise ValueError(f"{'; '.join(failures)}; {way_out}")


def _check(file: Path, md5: str, progress: bool) -> None:
    """Compare a file with its published checksum; one that differs is put aside, so that it is not gone on with.

    Raises:
        ValueError: If it differs.
    """
    digest = hashlib.md5(usedforsecurity=False)
    megabytes = file.stat().st_size // 10**6
    with file.open("rb") as stream, progress_bar(megabytes, "MB", "checksum", shown=progress) as bar:
        done = 0
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            bar.update(done // 10**6 - bar.n)
    if digest.hexdigest() != md5:
        aside = file.with_name(f"{file.name.removesuffix('.part')}.damaged")
        file.replace(aside)
        raise ValueError(
            f"{aside}: not the published archive: its MD5 is {digest.hexdigest()} and not {md5}; it was put aside "
            "under this name, and the same command fetches it anew"
        )
