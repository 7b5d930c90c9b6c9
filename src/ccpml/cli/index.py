"""``ccpml index``: make pictures searchable, bring an index up to date, verify or compact it."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ccpml.artifacts import expand_home, plain_path
from ccpml.cli.common.commas import check_single
from ccpml.cli.common.libraries import EMBEDDING, announce_libraries
from ccpml.cli.common.models import MODEL_HELP, check_model, is_model, load_model
from ccpml.cli.common.options import (
    UsageError,
    add_resume_note,
    add_store,
    check_data_root,
    check_each_once,
    check_index,
    check_no_address,
    check_writable_output,
    find_location,
    is_index,
    report_stop,
)
from ccpml.cli.common.parser import Parser
from ccpml.cli.common.scan_options import DTYPES, use_dtype
from ccpml.data_name import DataName, known_names
from ccpml.progress import print_note
from ccpml.system_errors import is_shortage

if TYPE_CHECKING:
    from ccpml.data.images.read import BadImageError
    from ccpml.serving import Embedder, PictureIndex, Pictures


def run(arguments: list[str]) -> int:
    """Build an index or bring one up to date, verify or compact one."""
    options = parse(arguments)
    if options.verify is not None:
        return _verify(options.verify)
    if options.compact is not None:
        return _compact(options.compact)
    if options.remove is not None:
        return _remove(options)
    for path in (options.path, *options.ensemble):
        check_model(path)
    check_each_once("--ensemble", [options.path, *options.ensemble])
    if DataName.is_valid(options.data) and not Path(options.data).exists():
        check_data_root(options.data, options.data_root)
    if options.output is not None:
        _check_target(options.output, options.sync)

    announce_libraries(needed=EMBEDDING)
    from ccpml.serving import QdrantError, index_exists
    from ccpml.serving.ensemble import EnsembleEmbedder, write_members

    location = find_location(options.output, options.store)
    exists = index_exists(location)
    found = _find(options)
    models = [load_model(path) for path in (options.path, *options.ensemble)]
    embedder = EnsembleEmbedder(models) if len(models) > 1 else models[0]
    command = _command_to_resume(arguments)
    with _open(options, location, embedder) if exists else _create(location, embedder, command) as index:
        try:
            if exists and isinstance(embedder, EnsembleEmbedder):  # they may have moved
                write_members(options.output, embedder)
            code = _fill(index, found, is_new=not exists)
            if options.dtype is not None:
                _set_dtype(index, options.dtype)
            return code
        except KeyboardInterrupt as stopped:
            return report_stop(stopped, command, "what was added is kept; ")
        except Exception as error:
            if isinstance(error, OSError | QdrantError) or is_shortage(error):
                add_resume_note(error, command)
            raise


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = "Make pictures searchable with a run: embed them, and keep them with thumbnails in a directory, an index."
    usage = """ccpml index <run> <data> -o <index> [--sync] [--ensemble <run>] [--dtype int8] [--data-root <folder>]
       ccpml index <run> <data> --store qdrant://<host>:6333/<collection>
       ccpml index --verify <index>
       ccpml index --compact <index>
       ccpml index --remove <source> -o <index>"""
    parser = Parser(prog="ccpml index", description=text, usage=usage)
    parser.add_argument("path", metavar="run", nargs="?", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "data",
        nargs="?",
        help="a folder, whose subfolders name the labels; a CSV file with the column path, perhaps label, and metadata "
        f"in all others; an image; a pattern in quotes, as 'photos/**/*.jpg'; or {known_names()}",
    )
    parser.add_argument("-o", "--output", metavar="<index>", type=Path, help="the index, a directory")
    add_store(parser)
    parser.add_argument(
        "--sync",
        action="store_true",
        help="bring an index up to date: embed new and changed files, remove vanished ones; also resumes",
    )
    parser.add_argument(
        "--ensemble",
        metavar="<run>",
        type=Path,
        action="append",
        default=[],
        help="embed with another run or .onnx file too, and join the embeddings; repeatable",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="scan rows of this type, and re-score with the float32 rows, unless `ccpml search` is told otherwise",
    )
    parser.add_argument("--data-root", help="folder that contains cub, cars196, sop and inshop (default: $CCPML_DATA)")
    parser.add_argument(
        "--verify",
        metavar="<index>",
        type=Path,
        help="check every row, thumbnail and count; the exit code is 0 if all is well",
    )
    parser.add_argument(
        "--compact", metavar="<index>", type=Path, help="write an index again without what removed pictures have left"
    )
    parser.add_argument(
        "--remove",
        metavar="<source>",
        help="remove all pictures of a source, such as folder:/data/photos, from the index; no file of theirs changes",
    )
    if arguments and not arguments[0].startswith("-"):  # the run is given, so that no other is expected
        check_single(arguments, {"--ensemble": is_model}, ["--ensemble"])
    options = parser.parse_intermixed_args(arguments)
    _check_form(options)
    return options


def _check_form(options: argparse.Namespace) -> None:
    upkeep = [name for name in ("verify", "compact") if getattr(options, name) is not None]
    if upkeep:
        names = ("path", "data", "output", "store", "sync", "dtype", "ensemble", "remove")
        others = [name for name in names if getattr(options, name)]
        if others or len(upkeep) > 1:
            raise UsageError(f"--{upkeep[0]}: expected an index alone; see ccpml index --help")
    elif options.remove is not None and (options.path or options.sync or options.ensemble or options.dtype):
        raise UsageError("--remove: expected a source and the index alone; see ccpml index --help")
    elif options.remove is None and options.data is None:
        raise UsageError("expected a run and data: ccpml index <run> <data> -o <index>; see ccpml index --help")
    elif options.output is None and options.store is None:
        raise UsageError("--output: expected the directory of the index, or --store; see ccpml index --help")
    elif options.store is not None and (options.dtype or options.ensemble):
        raise UsageError("--store: expected no --dtype and no --ensemble, which are of an index in a directory")


def _open(options: argparse.Namespace, location: str, embedder: "Embedder") -> "PictureIndex":
    """Open an index with its model; if it was made with another number of runs, say with which."""
    from ccpml.serving import OtherModelError, open_index
    from ccpml.serving.ensemble import read_members

    try:
        return open_index(location, embedder)
    except OtherModelError as error:
        members = [] if options.output is None else read_members(options.output)
        if not members and not options.ensemble:
            raise
        if not members:
            with open_index(location) as index:
                members = [index.model_path]
        got = " ".join(map(str, (options.path, *options.ensemble)))
        first, *others = map(str, members)
        command = ["ccpml", "index", first, options.data, "-o", location, "--sync"]
        command += [word for name in others for word in ("--ensemble", name)]
        raise OtherModelError(
            f"{location}: expected the {len(members)} run{'s' if others else ''} that the index was made with "
            f"({', '.join(map(str, members))}), got {got}; pass them in this order: `{shlex.join(command)}`"
        ) from error


def _create(location: str, embedder: "Embedder", command: list[str]) -> "PictureIndex":
    """Create an index; if another process has just done so, say how to add to it."""
    from ccpml.serving import create_index

    try:
        return create_index(location, embedder)
    except FileExistsError as error:
        add = f"once that is done, bring it up to date: `{shlex.join(['ccpml', *command])}`"
        raise FileExistsError(f"{location}: another process has made it meanwhile; {add}") from error


def _set_dtype(index: "PictureIndex", dtype: str) -> None:
    from ccpml.serving import Index
    from ccpml.serving.search.approximate import write_default_dtype

    if isinstance(index, Index):
        write_default_dtype(index.path, dtype)
        use_dtype(index)


def _check_target(output: Path, sync: bool) -> None:
    check_no_address(output)
    if output.exists() and not sync:
        state = "; --sync brings it up to date, or" if is_index(output) else " and is no index;"
        raise UsageError(f"--output: {output} already exists{state} choose another name")
    if output.exists():
        check_index(output)
    check_writable_output(output / "index.sqlite")


def _find(options: argparse.Namespace) -> "Pictures":
    """Find the pictures, and print what is ignored or unusual."""
    from ccpml.data.sources.source import SourceNotFoundError, count_ignored
    from ccpml.data.upkeep.depth import depth_note
    from ccpml.serving import find_pictures
    from ccpml.serving.collect import PicturesNotFoundError

    try:
        found = find_pictures(options.data, options.data_root)
    except (PicturesNotFoundError, SourceNotFoundError) as error:
        raise UsageError(f"{error}{_moved_advice(options)}") from error
    if options.output is not None:
        found = found.outside(options.output)
    dark = depth_note([one.file if one.image is None else one.image for one in found])
    for note in (*found.notes, *([dark] if dark else [])):
        print_note(note)
    if found.ignored:
        print(f"{options.data}: ignored {', '.join(count_ignored(found.ignored))}", file=sys.stderr)
    return found


def _moved_advice(options: argparse.Namespace) -> str:
    """Return what to do about data that are not found but are in the index, as the end of a sentence."""
    from ccpml.serving import index_exists, open_index

    location = find_location(options.output, options.store)
    if not (options.sync and index_exists(location)):
        return ""
    with open_index(location) as index:
        count = index.sources().get(_full_name(options.data), 0)
    found = f"; {location} has {_pictures(count)} of it: pass the new place if it has moved, or --remove to remove them"
    return found if count else ""


def _fill(index: "PictureIndex", found: "Pictures", is_new: bool) -> int:
    """Embed what is new, and print what was done."""
    from ccpml.progress import progress_bar
    from ccpml.serving.qdrant.address import is_address

    with progress_bar(len(found), "image", "indexing") as bar:
        result = index.sync(found, bar.update)
    count = len(index)
    _list_skipped(index, result.skipped, len(found), keep=bool(count) or not is_new)
    print(f"{index}: {_pictures(count)}" + ("" if is_new else f" ({result})"))
    for source, lost in result.lost.items():
        words = ["ccpml", "index", "--remove", source, "--store" if is_address(str(index)) else "-o", str(index)]
        print_note(
            f"{index}: has {_pictures(lost)} of {source}, which is not found; restore it, or remove them: "
            f"`{shlex.join(words)}`"
        )
    return 0


def _remove(options: argparse.Namespace) -> int:
    if options.output is not None:
        check_index(options.output)
    announce_libraries(needed=EMBEDDING)
    from ccpml.serving import open_index

    with open_index(find_location(options.output, options.store)) as index:
        known = index.sources()
        source = options.remove if options.remove in known else _full_name(options.remove)
        if source not in known:
            expected = "; ".join(f"{name} with {_pictures(count)}" for name, count in known.items()) or "it has none"
            raise UsageError(f"--remove: expected a source of {index} ({expected}), got {options.remove}")
        removed = index.remove_source(source)
        print(f"{index}: {_pictures(len(index))}; {removed:,} of {source} removed")
    return 0


def _full_name(data: str) -> str:
    """Return the name of a source from that of data, as `ccpml index` takes it."""
    from ccpml.serving.collect import is_pattern, source_name

    if is_pattern(data):
        return f"glob:{plain_path(expand_home(data))}"
    if not DataName.is_valid(data):
        data = f"{'csv' if data.lower().endswith('.csv') else 'folder'}:{data}"
    name = DataName.parse(data)
    return source_name(name.kind, expand_home(name.path)) if name.path else str(name.resolved())


def _list_skipped(index: "PictureIndex", skipped: "list[BadImageError]", total: int, keep: bool) -> None:
    """Print unreadable images, and write all to a file in the index if there are many."""
    from ccpml.data.images.read import MAX_LISTED, BadImage, BadImagesError, first_lines
    from ccpml.files import write_text
    from ccpml.numbers import counted

    file = index.path / "unreadable.txt"
    if not keep:
        bad = [BadImage(number, error.name, error.reason) for number, error in enumerate(skipped)]
        index.discard()
        raise BadImagesError.of(bad, total, "check that these are images")
    lines = [f"{error.name}: {error.reason}" for error in skipped]
    if len(lines) > MAX_LISTED:
        write_text(file, "\n".join([*lines, ""]))
    else:
        file.unlink(missing_ok=True)
    if lines:
        print(
            "\n".join([f"could not read {counted(len(lines), 'image')}:", *first_lines(lines, file)]), file=sys.stderr
        )


def _verify(path: Path) -> int:
    check_index(path)
    announce_libraries(needed=EMBEDDING)
    from ccpml.progress import progress_bar
    from ccpml.serving import Index

    with Index.open(path) as index, progress_bar(index.num_rows, "row", "verifying", delay=1.0) as bar:
        found = index.verify(bar.update)
    for sentence in found.leftovers:
        print_note(sentence)
    if not found.problems:
        print(f"{path}: {_pictures(found.items)}, complete: rows, thumbnails and counts are as they were written")
        return 0
    print(f"{path}: {len(found.problems):,} problem{'s' if len(found.problems) > 1 else ''}:")
    print("\n".join(f"  {sentence}" for sentence in found.problems))
    mend = f"`ccpml index <run> <data> -o {shlex.quote(str(path))} --sync` embeds damaged pictures again; otherwise "
    print(f"{mend if found.damaged else ''}restore all of the index from a copy, or build it again")
    return 1


def _compact(path: Path) -> int:
    check_index(path)
    announce_libraries(needed=EMBEDDING)
    from ccpml.serving import Index

    with Index.open(path) as index:
        done = index.compact()
    print(f"{path}: {_pictures(done.kept)}; rows of {done.dropped:,} removed ones dropped")
    return 0


def _pictures(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'}"


def _command_to_resume(arguments: list[str]) -> list[str]:
    is_complete = "--sync" in arguments or any(argument.startswith("--store") for argument in arguments)
    return ["index", *arguments, *([] if is_complete else ["--sync"])]
