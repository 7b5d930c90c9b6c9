import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccpml.data.upkeep.download import download
from tests.data.server import serving

CONTENT = bytes(range(256)) * 3000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.data.upkeep.download._PAUSES", (0.0, 0.0, 0.0))


def test_a_whole_file(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        download(site.url, tmp_path / "x.part", progress=False)
    assert (tmp_path / "x.part").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x.part"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(CONTENT) - 1), max_size=3), st.booleans())
def test_wherever_it_breaks_off_it_goes_on(tmp_path: Path, cuts: list[int], ranges: bool) -> None:
    part = tmp_path / "x.part"
    part.unlink(missing_ok=True)
    with serving(CONTENT) as site:
        site.cuts, site.ranges = list(cuts), ranges
        download(site.url, part, progress=False)
        assert part.read_bytes() == CONTENT
        assert all(asked for asked in site.asked[1:]), "it asks for the rest alone"


def test_a_download_that_was_killed_goes_on(tmp_path: Path) -> None:
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


def test_another_version_begins_anew(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with serving(CONTENT) as site:
        site.cuts = [1000, 0, 0, 0]
        with pytest.raises(ValueError, match="cannot reach"):
            download(site.url, part, progress=False)
        site.etag, site.content = '"2"', CONTENT[::-1]
        download(site.url, part, progress=False)
    assert part.read_bytes() == CONTENT[::-1]


def test_what_is_there_without_a_note_is_not_gone_on_with(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"something else")
    with serving(CONTENT) as site:
        download(site.url, part, progress=False)
        assert site.asked == [""]
    assert part.read_bytes() == CONTENT


def test_a_server_that_is_busy_for_a_while(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        site.statuses = [503, 429]
        download(site.url, tmp_path / "x.part", progress=False)
    assert (tmp_path / "x.part").read_bytes() == CONTENT


@pytest.mark.parametrize(("statuses", "message"), [([404], "answers 404"), ([503] * 9, "cannot reach .* answers 503")])
def test_a_server_that_has_it_not(tmp_path: Path, statuses: list[int], message: str) -> None:
    with serving(CONTENT) as site:
        site.statuses = statuses
        with pytest.raises(ValueError, match=message):
            download(site.url, tmp_path / "x.part", progress=False)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serving(CONTENT) as site:
        url = site.url
    with pytest.raises(ValueError, match=r"cannot reach 127\.0\.0\.1"):
        download(url, tmp_path / "x.part", progress=False)


def test_no_room(tmp_path: Path) -> None:
    with serving(CONTENT) as site, pytest.raises(ValueError, match="make room there"):
        download(site.url, tmp_path / "x.part", room=10**18, progress=False)


def test_an_answer_as_of_ftp(tmp_path: Path) -> None:
    """FTP gives no status, no version, and no parts: each try begins anew, and a short one is tried again."""
    from email.message import Message
    from urllib.response import addinfourl

    bodies = [CONTENT[:500], CONTENT]

    def open_url(request: object, timeout: float) -> addinfourl:
        headers = Message()
        headers["Content-length"] = str(len(CONTENT))
        return addinfourl(io.BytesIO(bodies.pop(0)), headers, "ftp://host/x.zip")

    download("ftp://host/x.zip", tmp_path / "x.part", progress=False, open_url=open_url)
    assert (tmp_path / "x.part").read_bytes() == CONTENT
