"""Download of the benchmarks that have an official, stable address; instructions for the others."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ccpml.data.sources.benchmarks import BenchmarkNotFoundError, find_benchmark
from ccpml.data.upkeep.archives import unpack
from ccpml.download import download, file_digest
from ccpml.files import NoSpaceError, exclusive_lock, require_space

__all__ = ["fetch_benchmark"]

_GB: Final = 10**9


class _Archive(NamedTuple):
    """An official archive: its addresses in order of preference, its MD5, its folder, and the folder's maximum size."""

    urls: tuple[str, ...]
    md5: str
    folder: str
    max_size: int


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
        "its web page is closed and no address has a published checksum; download CARS196.zip from a mirror that you "
        "trust (Stanford's vision group had it at http://ftp.cs.stanford.edu/cs/cvgl/CARS196.zip) and put "
        "cars_annos.mat and car_ims/, or cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat, into "
        "{root}/cars196"
    ),
    "inshop": (
        "available on request only; ask the Multimedia Laboratory of the Chinese University of Hong Kong for "
        "DeepFashion's In-shop Clothes Retrieval Benchmark, and put its Eval/list_eval_partition.txt and Img/, with "
        "img.zip unpacked, into {root}/inshop"
    ),
}


def fetch_benchmark(name: str, data_root: Path | str, progress: bool = True) -> Path:
    """Download the archive of a benchmark, verify its checksum, and unpack it.

    An interrupted download resumes. An archive that was downloaded by hand into the data root is used. The archive is
    unpacked into a temporary folder that is renamed when it is complete.

    Args:
        name: ``cub``, ``cars196``, ``sop`` or ``inshop``.
        data_root: Folder in which to create the benchmark's folder; created if necessary.
        progress: Whether to show progress bars on standard error.

    Returns:
        Folder of the benchmark. If it is complete already, nothing is downloaded.

    Raises:
        ValueError: If the benchmark has no official address (the message says how to obtain it), the archive cannot
            be downloaded, is not the published one or is refused, or the disk is full or not writable.
    """
    root = Path(data_root)
    with suppress(BenchmarkNotFoundError):
        found = find_benchmark(name, root)
        if found.problems:
            raise ValueError(
                f"{found.folder}: {name} exists but is incomplete: {'; '.join(found.problems)}; complete it, or remove "
                "or rename the folder and fetch it again"
            )
        print(f"{found.folder}: {name} already exists", file=sys.stderr)
        return found.folder
    if name in _BY_HAND:
        raise ValueError(f"{name}: {_BY_HAND[name].format(root=root)}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(root / f".{name}.fetch.lock", f"fetching {name}"):
            return _fetch(_ARCHIVES[name], root, progress)
    except OSError as error:
        raise ValueError(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def _fetch(archive: _Archive, root: Path, progress: bool) -> Path:
    file = root / archive.urls[0].rpartition("/")[2]
    target = root / archive.folder
    if target.exists():
        raise ValueError(f"{target}: already exists, but is not the benchmark; remove or rename it")
    by_hand = file.is_file()
    if by_hand:
        print(f"{file}: already exists, not downloaded", file=sys.stderr)
        _check(file, archive.md5, progress)
    else:
        part = file.with_name(f"{file.name}.part")
        _download(archive, part, progress)
        _check(part, archive.md5, progress)
        part.replace(file)
    require_space(root, archive.max_size, f"the contents of {file.name}")
    partial = root / f".{archive.folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        unpack(file, partial, archive.max_size, progress)
        if not (partial / archive.folder).is_dir():
            raise ValueError(f"{file}: folder {archive.folder} not found in it; remove it and fetch it again")
        (partial / archive.folder).rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not by_hand:
        file.unlink()
    return target


def _download(archive: _Archive, part: Path, progress: bool) -> None:
    """Download from the first address that works; the error has the reason for each if none does."""
    failures = []
    for url in archive.urls:
        try:
            download(url, part, archive.max_size, progress)
        except NoSpaceError:
            raise
        except ValueError as error:
            failures.append(str(error))
        else:
            return
    advice = f"try again later, or download {archive.urls[0]} on another machine and put it into {part.parent}"
    raise ValueError(f"{'; '.join(failures)}; {advice}")


def _check(file: Path, md5: str, progress: bool) -> None:
    """Compare a file with its published checksum; one that differs is renamed, so that it is not resumed."""
    digest = file_digest(file, "md5", progress)
    if digest != md5:
        renamed = file.with_name(f"{file.name.removesuffix('.part')}.damaged")
        file.replace(renamed)
        raise ValueError(f"{renamed}: MD5: expected {md5}, as published, got {digest}; fetch it again")
