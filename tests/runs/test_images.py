import shutil
from pathlib import Path

import pytest

from ccpml.cli.hints import hint_for
from ccpml.data import build_cache
from ccpml.data.images.cache_index import CacheError
from ccpml.runs.images import RunImages, load_images
from tests.toy import quick_settings, toy_folder


def images_of(folder: Path) -> RunImages:
    return load_images(quick_settings(data=f"folder:{folder}").resolved(), progress=False)


def test_a_run_resumes_with_the_images_it_started_with(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy")
    run = tmp_path / "run"
    plain = images_of(folder).fingerprint()
    images_of(folder).check_fingerprint(plain, run)
    build_cache(f"folder:{folder}", progress=False)
    cached = images_of(folder).fingerprint()
    images_of(folder).check_fingerprint(cached, run)
    with pytest.raises(ValueError, match="run: a cache was built after the run started; move the folder"):
        images_of(folder).check_fingerprint(plain, run)
    shutil.rmtree(folder / ".ccpml-cache")
    with pytest.raises(CacheError, match="run: the run started with cached images, and the cache is missing") as caught:
        images_of(folder).check_fingerprint(cached, run)
    assert "ccpml data" not in str(caught.value)
    assert "`ccpml data cache`" in hint_for(caught.value)
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="run: the images, or those that cannot be read, differ"):
        images_of(folder).check_fingerprint(plain, run)
