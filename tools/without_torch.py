"""Build an environment without torch and run an exported model in it: embed, index, search and serve.

    python tools/without_torch.py runs/photos folder:photos

The run is exported in this environment, which has torch. The other one is a new virtual environment with the packages
of ``requirements-deploy.txt``, in the versions of ``constraints.txt``, and the wheel of ccpml; pip downloads what it
has not cached. The embeddings of both are compared. Prints the size of the packages that each needs, and what it takes
to load a model and embed one image.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import venv
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-5
ABSENT = ("torch", "lightning", "scipy", "sklearn", "matplotlib", "onnx")


def main() -> None:
    """Build the environment, run all, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("data", help="images to embed and index, such as folder:photos")
    parser.add_argument("--folder", type=Path, help="where to build (default: a folder that is removed at the end)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        compare(options.run, options.data, folder)


def compare(run: Path, data: str, folder: Path) -> None:
    """Run the verbs in both environments."""
    here, there = Path(sys.executable), build(folder / "venv")
    for name in ABSENT:
        missing = run_code(there, "import sys, importlib.util as u; print(u.find_spec(sys.argv[1]) is None)", name)
        assert missing == "True\n", f"{name} is installed"
    model, picture = folder / "model.onnx", folder / "picture.png"
    ccpml(here, "export", run, "--format", "onnx", "-o", model)
    write_picture(picture)

    index = folder / "images.index"
    ccpml(here, "embed", run, data, "-o", folder / "here.npz")
    ccpml(there, "embed", model, data, "-o", folder / "there.npz")
    with np.load(folder / "here.npz") as expected, np.load(folder / "there.npz") as found:
        assert expected.files == found.files
        for name in set(found.files) - {"embeddings"}:
            assert np.array_equal(found[name], expected[name]), name
        count, difference = len(found["paths"]), float(np.abs(found["embeddings"] - expected["embeddings"]).max())
    print(f"{count:,} images embedded without torch; largest difference to the run {difference:.1e}")
    assert difference <= TOLERANCE

    ccpml(there, "index", model, data.removeprefix("folder:"), "-o", index)
    for python, extra in ((there, ()), (here, ("--run", run))):  # the index of the file is searched with the run too
        answer = json.loads(ccpml(python, "search", index, picture, "-k", "3", "--json", *extra))
        print("search:", [round(hit["distance"], 6) for hit in answer["queries"][0]["hits"]])
    print("serve:", serve(there, index, picture))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(f"\n{'':16}{'packages':>10}{'size':>10}{'processor time':>17}{'memory':>10}")
    for name, python, path, needed in (
        ("with torch", here, run, "\n".join((*project["dependencies"], *project["optional-dependencies"]["serve"]))),
        ("without torch", there, model, (ROOT / "requirements-deploy.txt").read_text(encoding="utf-8")),
    ):
        count, size = map(int, run_code(python, SIZE, needed).split())
        seconds, memory = min(tuple(map(float, run_code(python, EMBED, path, picture).split())) for _ in range(3))
        print(f"{name:16}{count:>10}{size / 1e6:>7,.0f} MB{seconds:>15.1f} s{memory:>6.0f} MiB")


def build(folder: Path) -> Path:
    """Build the environment as the documentation says; return its Python."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    lists = ("-r", ROOT / "requirements-deploy.txt", "-c", ROOT / "constraints.txt")
    subprocess.run([python, *pip, *lists], check=True)
    with tempfile.TemporaryDirectory() as wheels:
        options = ("--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}")
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
        [wheel] = Path(wheels).glob("ccpml-*.whl")
        subprocess.run([python, *pip, "--no-deps", "--force-reinstall", wheel], check=True)
    return python


SIZE = """
import sys
from importlib.metadata import distribution
from packaging.requirements import Requirement

lines = [line.strip() for line in sys.argv[1].splitlines()]
seen, left = {}, [(Requirement(line), "") for line in lines if line and not line.startswith("#")]
while left:
    each, wanted = left.pop()
    if each.marker is not None and not each.marker.evaluate({"extra": wanted}):
        continue
    for extra in ("", *each.extras):
        if (each.name.lower(), extra) not in seen:
            found = seen[each.name.lower(), extra] = distribution(each.name)
            left += [(Requirement(text), extra) for text in found.requires or ()]
packages = {found.metadata["Name"].lower().replace("_", "-"): found for found in seen.values()}
files = [file.locate() for found in packages.values() for file in found.files or () if file.suffix != ".pyc"]
print(len(packages), sum(file.stat().st_size for file in files if file.is_file()))
"""
"""Count the packages that are installed with requirements, and the bytes of their files."""

EMBED = """
import resource, sys
from pathlib import Path

if Path(sys.argv[1]).is_dir():
    from ccpml import load_run as load
else:
    from ccpml.exported import ExportedModel as load
load(sys.argv[1]).embed([sys.argv[2]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""Print the seconds of processor time and the most MiB of memory to load a model and embed a picture."""


def environment(python: Path) -> dict[str, str]:
    """Return the environment of a process; this Python imports ccpml from the repository."""
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**others, "PYTHONPATH": str(ROOT / "src")} if python == Path(sys.executable) else others


def run_code(python: Path, code: str, *arguments: object) -> str:
    """Run code; return what it prints."""
    command = [str(python), "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, env=environment(python), stdout=subprocess.PIPE, text=True).stdout


def ccpml(python: Path, *arguments: object) -> str:
    """Run a verb; return what it prints."""
    command = [str(python), "-m", "ccpml.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, env=environment(python), stdout=subprocess.PIPE, text=True).stdout


def write_picture(file: Path) -> None:
    """Write a picture to search for."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(file)


def serve(python: Path, index: Path, picture: Path) -> str:
    """Start the service, search, stop it; return the nearest image."""
    command = [str(python), "-m", "ccpml.cli", "serve", str(index), "--port", "0"]
    with subprocess.Popen(command, env=environment(python), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        boundary = "x" * 32
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="p.png"\r\n\r\n'
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"{address[0]}/api/search", body, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            hit = json.load(response)["hits"][0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    return f"{hit['name']} at {hit['distance']:.6f}"


if __name__ == "__main__":
    main()
