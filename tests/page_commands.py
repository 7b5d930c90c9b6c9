"""The commands of a page of the documentation, run in order in one folder, in seconds."""

import os
import re
import shlex
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from signal import SIGINT

from ccpml.cli import main
from tests.toy import QUICK

#: Programs that a page may name and that are not run: they install something, or need a daemon or a server.
NOT_RUN = frozenset({"docker", "mlflow", "pip", "sudo", "systemctl", "tensorboard", "wandb"})

_QUICK = [f"--{name}={value}" for name, value in {**QUICK, "max_steps": 2}.items()]


def page_commands(page: Path) -> list[list[str]]:
    """Return the commands of all blocks without a language; each line of these blocks is one, or a comment."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for name, block in blocks if not name for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_commands(commands: list[list[str]], addresses: dict[str, str]) -> list[list[str]]:
    """Run commands in the working directory; return those that were not run.

    ``ccpml`` runs in this process. ``ccpml serve`` answers until the ``curl`` commands after it are done. Settings of a
    run of seconds replace the budget of ``ccpml train``.

    Args:
        commands: Words of each command.
        addresses: Parts of words, such as ``localhost:6333``, and what to use in place of them.
    """
    left = [[_replaced(word, addresses) for word in words] for words in commands]
    skipped = []
    while left:
        words = left.pop(0)
        if words[0] in NOT_RUN:
            skipped.append(words)
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            os.environ[name] = value
        elif words[:2] == ["ccpml", "serve"]:
            requests = []
            while left and left[0][0] == "curl":
                requests.append(left.pop(0))
            _serve(words[1:], requests)
        elif words[0] == "ccpml":
            code = main(_quick(words[1:]))
            promised_nothing = words[1] == "calibrate" and Path(words[2], "certificate.json").is_file()
            assert code in ({0, 1} if promised_nothing else {0}), shlex.join(words)  # of few classes, nothing can be
        else:
            subprocess.run(words, check=True, stdout=subprocess.PIPE)
    return skipped


def _replaced(word: str, addresses: dict[str, str]) -> str:
    for old, new in addresses.items():
        word = word.replace(old, new)
    return word


def _quick(arguments: list[str]) -> list[str]:
    if arguments[0] != "train":
        return arguments
    kept = re.sub(r"--epochs \S+", "", shlex.join(arguments[1:]))
    return ["train", *_QUICK, *shlex.split(kept)]


def _serve(arguments: list[str], requests: list[list[str]]) -> None:
    """Start a service, send the requests, and stop it with Ctrl-C."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    arguments = [*arguments, "--port", str(port)]
    failures, ended = list[BaseException](), threading.Event()

    def ask() -> None:
        try:
            _wait_for(port, ended)
            for words in requests:
                subprocess.run([_replaced(w, {":8000": f":{port}"}) for w in words], check=True, stdout=subprocess.PIPE)
        except BaseException as error:
            failures.append(error)
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), SIGINT)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        code = main(arguments)
    finally:
        ended.set()
        thread.join()
    assert failures == []
    assert code == 0, shlex.join(arguments)


def _wait_for(port: int, ended: threading.Event) -> None:
    """Wait until a service listens and answers, whatever it says."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not ended.is_set():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError("the service does not answer")
