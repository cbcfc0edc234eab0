"""A database of any earlier version opens in the newest with all its rows."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lineas_core.studio.storage.recovery.backups import backups
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.schema import MIGRATIONS, migrate
from lineas_core.studio.storage.store import Store
from tests.studio.storage.recovery.test_recovery import rows_of

PROMPTS = '{"name": "n", "source": ["a", "b", "c", "d"], "target": ["e", "f", "g", "h"]}'
# Version -> rows of each kind, in the SQL of that version. A released one never changes.
VERSIONS = {
    1: f"""
        INSERT INTO meta VALUES ('secret', '{"ab" * 32}');
        INSERT INTO jobs VALUES (3, 'j1', 'ada', 9, 'done', '', 'm', 'First', '{PROMPTS}',
            '{{"steps": 2}}', 'Once', 2, 2, 0.5, 1.5, 0.0, 0.25, x'000000000000f03f', x'', 1,
            NULL, NULL, '', NULL, 4, 0, 10.0, 11.0, 12.0);
        INSERT INTO jobs VALUES (4, 'j2', 'bob', 2, 'queued', '', 'm', 'Second', '{PROMPTS}',
            '{{}}', '', 0, 5, NULL, 0.0, 0.0, NULL, x'', x'', 0,
            'j1', NULL, 'waits', NULL, 0, 1, 13.0, 0.0, 0.0);
        INSERT INTO maps VALUES (7, 'm1', 'ada', 'My map', '["t"]', 'm', 'text', 'lineas', 'n',
            'c', 'digest', 0.25, 0.7, NULL, '{PROMPTS}', '{{"steps": 2}}', x'000000000000f03f',
            'j1', 12.0, NULL, 5);
        UPDATE jobs SET map_id = 'm1' WHERE id = 'j1';
        INSERT INTO prompt_sets VALUES (1, 'p1', 'ada', '{PROMPTS}', 14.0, 15.0);
    """,
    2: f"""
        INSERT INTO meta VALUES ('secret', '{"ab" * 32}');
        INSERT INTO jobs VALUES (3, 'j1', 'ada', 9, 'done', '', 'm', 'First', '{PROMPTS}',
            '{{"steps": 2}}', 'Once', 2, 2, 0.5, 1.5, 0.0, 0.25, x'000000000000f03f', x'', 1,
            NULL, NULL, '', NULL, 4, 0, 10.0, 11.0, 12.0, 'lineas');
        INSERT INTO jobs VALUES (4, 'j2', 'bob', 2, 'queued', '', 'm', 'Second', '{PROMPTS}',
            '{{}}', '', 0, 5, NULL, 0.0, 0.0, NULL, x'', x'', 0,
            'j1', NULL, 'waits', NULL, 0, 1, 13.0, 0.0, 0.0, 'lineas');
        INSERT INTO maps VALUES (7, 'm1', 'ada', 'My map', '["t"]', 'm', 'text', 'lineas', 'n',
            'c', 'digest', 0.25, 0.7, NULL, '{PROMPTS}', '{{"steps": 2}}', x'000000000000f03f',
            'j1', 12.0, NULL, 5);
        UPDATE jobs SET map_id = 'm1' WHERE id = 'j1';
        INSERT INTO prompt_sets VALUES (1, 'p1', 'ada', '{PROMPTS}', 14.0, 15.0);
    """,
    3: f"""
        INSERT INTO meta VALUES ('secret', '{"ab" * 32}');
        INSERT INTO jobs VALUES (3, 'j1', 'ada', 9, 'done', '', 'm', 'First', '{PROMPTS}',
            '{{"steps": 2}}', 'Once', 2, 2, 0.5, 1.5, 0.0, 0.25, x'000000000000f03f', x'', 1,
            NULL, NULL, '', NULL, 4, 0, 10.0, 11.0, 12.0, 'lineas');
        INSERT INTO jobs VALUES (4, 'j2', 'bob', 2, 'queued', '', 'm', 'Second', '{PROMPTS}',
            '{{}}', '', 0, 5, NULL, 0.0, 0.0, NULL, x'', x'', 0,
            'j1', NULL, 'waits', NULL, 0, 1, 13.0, 0.0, 0.0, 'lineas');
        INSERT INTO maps VALUES (7, 'm1', 'ada', 'My map', '["t"]', 'm', 'text', 'lineas', 'n',
            'c', 'digest', 0.25, 0.7, NULL, '{PROMPTS}', '{{"steps": 2}}', x'000000000000f03f',
            'j1', 12.0, NULL, 5, NULL);
        UPDATE jobs SET map_id = 'm1' WHERE id = 'j1';
        INSERT INTO prompt_sets VALUES (1, 'p1', 'ada', '{PROMPTS}', 14.0, 15.0);
    """,
}
# Of the statements of each version.
RELEASED = ["bba1bd523c492007", "d3ac16ff929c05f1", "8b86d44b9a766de6", "b7937958c843ccdc"]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_database_of_every_earlier_version_comes_forward_with_its_rows(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "studio.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, MIGRATIONS[:version])
        db.executescript(VERSIONS[version])
    old = rows_of(path)
    store = Store(path)
    new = rows_of(path)
    for table, rows in old.items():
        assert rows.keys() == new[table].keys() != set()
        for row_id, row in rows.items():
            assert {name: new[table][row_id][name] for name in row} == row
    job = store.job("j1")
    assert job is not None
    assert (job.losses, job.method, job.changes, job.map_id) == (
        (1.0,),
        "lineas",
        {"steps": 2},
        "m1",
    )
    assert [row.id for row in store.maps("ada")] == ["m1"]
    assert store.prompts("p1") is not None
    assert store.secret() == "ab" * 32
    # New rows come after the old ones.
    assert store.position("j2") == 1
    store.add_job(replace(job, id="j3", status="queued", map_id=""))
    assert [row.id for row in store.jobs("ada")] == ["j3", "j1"]
    store.close()


def test_a_released_migration_never_changes() -> None:
    released = [hashlib.sha256("\n".join(m).encode()).hexdigest()[:16] for m in MIGRATIONS]
    assert released == RELEASED


def test_a_database_is_backed_up_before_it_becomes_a_newer_version(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "studio.db", isolation_level=None)) as db:
        migrate(db, MIGRATIONS[:1])
        db.executescript(VERSIONS[1])
    open_state(tmp_path).store.close()
    [backup] = backups(tmp_path / "backups")
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    open_state(tmp_path).store.close()
    assert len(backups(tmp_path / "backups")) == 2
