"""Databases with bytes changed at random: what the backup holds is not lost, nothing crashes."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.studio.storage.recovery.integrity import flaw_of
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.schema import MIGRATIONS
from lineas_core.studio.storage.store import StoreError
from tests.studio.storage.recovery.test_recovery import Clock, cut, fill, garble, rows_of

pytestmark = pytest.mark.thorough


def harm_at_random(path: Path, dice: random.Random) -> None:
    """Other bytes in the header, in pages or anywhere, or an early end."""
    size = path.stat().st_size
    kind = dice.choice(("header", "pages", "bytes", "cut"))
    if kind == "header":
        at = dice.randrange(100)
        garble(path, at, dice.randrange(1, 101 - at), dice.random())
    elif kind == "pages":
        for _ in range(dice.randrange(1, 5)):
            garble(path, dice.randrange(size // 4096) * 4096, 4096, dice.random())
    elif kind == "bytes":
        for _ in range(dice.randrange(1, 30)):
            garble(path, dice.randrange(size), 1, dice.random())
    else:
        cut(path, dice.random())


@pytest.mark.parametrize("cases", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_at_random_what_the_backup_holds_is_not_lost(
    tmp_path: Path, prompts: lc.PromptSet, cases: int
) -> None:
    home, clock, dice = tmp_path / "home", Clock(), random.Random(20260104)
    state = open_state(home, clock=clock)
    fill(state, prompts, "x", 6)
    state.store.close()
    open_state(home, clock=clock).store.close()
    before = rows_of(home / "studio.db")
    for case in range(cases):
        damaged = tmp_path / f"case {case}"
        shutil.copytree(home, damaged)
        harm_at_random(damaged / "studio.db", dice)
        with closing(sqlite3.connect(damaged / "studio.db")) as db, suppress(sqlite3.Error):
            version = db.execute("PRAGMA user_version").fetchone()[0]
            # What was damaged may be the number of the version, alone.
            if version > len(MIGRATIONS) and flaw_of(damaged / "studio.db") == "":
                with pytest.raises(StoreError, match="Update lineas_core"):
                    open_state(damaged, clock=clock)
                continue
        state = open_state(damaged, clock=clock)
        state.store.close()
        after = rows_of(damaged / "studio.db")
        for table, rows in before.items():
            assert rows.keys() <= after[table].keys(), case
            # Bytes within a text or a number may change unseen, but then nothing was mended.
            assert not state.notes or rows.items() <= after[table].items(), case
        shutil.rmtree(damaged)
