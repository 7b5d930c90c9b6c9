"""A search whose trials do not train."""

import pytest

from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import search_space
from tests.tuning.climbing import STEPS


@pytest.fixture(autouse=True)
def _no_disk_synchronization():
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="Optuna is an extra: ccpml[tune]")
    engine = sqlalchemy.engine.Engine

    def disable(connection, _):
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(engine, "connect", disable)
    yield
    sqlalchemy.event.remove(engine, "connect", disable)


@pytest.fixture
def search(tmp_path):
    base = Settings(validate_every=2, max_steps=2 * STEPS)
    space = search_space(base, [], "lambda-proxies")
    from ccpml.tuning.study import Search

    return Search(base, space, tmp_path / "out", "s", trials=4, startup_trials=2, warmup_validations=1)
