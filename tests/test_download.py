import hashlib
import io
import socket
import urllib.error
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccpml.download import download, file_digest
from tests.server import serving

CONTENT = bytes(range(256)) * 3000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.download._PAUSES", (0.0, 0.0, 0.0))


def test_a_whole_file(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        download(site.url, tmp_path / "x.part", progress=False)
    assert (tmp_path / "x.part").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x.part"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(CONTENT) - 1), max_size=3), st.booleans())
def test_resumes_wherever_the_connection_breaks(tmp_path: Path, cuts: list[int], ranges: bool) -> None:
    part = tmp_path / "x.part"
    part.unlink(missing_ok=True)
    with serving(CONTENT) as site:
        site.cuts, site.ranges = list(cuts), ranges
        download(site.url, part, progress=False)
        assert part.read_bytes() == CONTENT
        assert all(asked for asked in site.asked[1:]), "only the rest is requested"


def test_a_killed_download_resumes(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serving(CONTENT) as site:
        site.cuts = [1000]

        class KilledError(BaseException):
            pass

        def kill(*args: object, **options: object) -> None:
            raise KilledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.sleep", kill)
            with pytest.raises(KilledError):
                download(site.url, part, progress=False)
        assert part.stat().st_size == 1000
        download(site.url, part, progress=False)
        assert site.asked == ["", "bytes=1000-"]
    assert part.read_bytes() == CONTENT


def test_another_version_restarts(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serving(CONTENT) as site:
        site.cuts = [1000, 0, 0, 0]
        with pytest.raises(ValueError, match="cannot be reached"):
            download(site.url, part, progress=False)
        site.etag, site.content = '"2"', CONTENT[::-1]
        download(site.url, part, progress=False)
    assert part.read_bytes() == CONTENT[::-1]


def test_a_part_of_unknown_version_is_not_resumed(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"something else")
    with serving(CONTENT) as site:
        download(site.url, part, progress=False)
        assert site.asked == [""]
    assert part.read_bytes() == CONTENT


def test_a_busy_server(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        site.statuses = [503, 429]
        download(site.url, tmp_path / "x.part", progress=False)
    assert (tmp_path / "x.part").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("statuses", "message"), [([404], "answered 404"), ([503] * 9, "cannot be reached .*answered 503")]
)
def test_a_missing_file_and_a_server_that_stays_busy(tmp_path: Path, statuses: list[int], message: str) -> None:
    with serving(CONTENT) as site:
        site.statuses = statuses
        with pytest.raises(ValueError, match=message):
            download(site.url, tmp_path / "x.part", progress=False)


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        url = site.url
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+: cannot be reached"):
        download(url, tmp_path / "x.part", progress=False)


def test_without_a_network_nothing_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def offline(*_: object, **__: object) -> None:
        tried.append(1)
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("ccpml.download.urllib.request.urlopen", offline)
    with pytest.raises(ValueError, match=r"example\.org: cannot be reached \(Temporary failure"):
        download("https://example.org/x.pth", tmp_path / "x.part")
    assert len(tried) == 1


def test_no_space(tmp_path: Path) -> None:
    with serving(CONTENT) as site, pytest.raises(ValueError, match="free some space"):
        download(site.url, tmp_path / "x.part", room=10**18, progress=False)


def test_ftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FTP has no status, version or ranges: each attempt restarts, and a truncated one is retried."""
    from email.message import Message
    from urllib.response import addinfourl

    bodies = [CONTENT[:500], CONTENT]

    def open_url(request: object, timeout: float) -> addinfourl:
        headers = Message()
        headers["Content-length"] = str(len(CONTENT))
        return addinfourl(io.BytesIO(bodies.pop(0)), headers, "ftp://host/x.zip")

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    download("ftp://host/x.zip", tmp_path / "x.part", progress=False)
    assert (tmp_path / "x.part").read_bytes() == CONTENT


def test_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert file_digest(tmp_path / "x") == hashlib.sha256(CONTENT).hexdigest()
    assert not capsys.readouterr().err
    assert file_digest(tmp_path / "x", "md5", progress=True) == hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert "checksum" in capsys.readouterr().err
