"""The store of outcomes: whole batches only, damage is told and nothing is lost."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import BanksideError, ConfigError
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.store import CampaignStore
from bankside.sim.faults import OUTCOME


def outcomes(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = np.zeros(count, OUTCOME)
    rows["cycles"] = random.integers(0, 1 << 20, count)
    rows["status"] = np.uint64((1 << 64) - 1)  # SQLite has signed integers only
    rows["first"] = -1
    rows["output"] = random.integers(0, 2, count)
    return rows


def texts(count: int) -> list[str]:
    return [Fault("core.x", "seu", cycle).to_json() for cycle in range(count)]


def filled(path: Path) -> None:
    with CampaignStore(path, "k", {"seed": 1}) as store:
        store.put(0, 1, [3, 4], texts(2), outcomes(2, 1))
        store.put(0, 0, [0, 1, 2], texts(3), outcomes(3))


def test_round_trip_by_id(tmp_path: Path) -> None:
    filled(tmp_path / "s.sqlite")
    with CampaignStore(tmp_path / "s.sqlite", "k", {}) as store:
        assert store.done(0) == {0, 1} and store.done(1) == set()
        ids, faults, rows = store.read(0)
        assert ids.tolist() == [0, 1, 2, 3, 4] and faults == [*texts(3), *texts(2)]
        assert (rows == np.concatenate([outcomes(3), outcomes(2, 1)])).all()
        fault, row = store.fault(4)
        assert fault.cycle == 1 and row == outcomes(2, 1)[1]


def test_the_first_batch_under_a_number_stays(tmp_path: Path) -> None:
    filled(tmp_path / "s.sqlite")
    with CampaignStore(tmp_path / "s.sqlite", "k", {}) as store:
        store.put(0, 0, [0, 1, 2], texts(3), outcomes(3, 9))
        assert (store.read(0)[2][:3] == outcomes(3)).all()


def test_what_a_killed_writer_leaves_is_not_counted(tmp_path: Path) -> None:
    """Rows without their batch do not come from `put`; they stand for a torn transaction."""
    filled(tmp_path / "s.sqlite")
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("DELETE FROM batches WHERE number = 1")
    with CampaignStore(tmp_path / "s.sqlite", "k", {}) as store:
        assert store.done(0) == {0} and len(store.read(0)[0]) == 3


def test_another_campaign_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "s.sqlite")
    with pytest.raises(BanksideError, match="holds another campaign .*choose another --store"):
        CampaignStore(tmp_path / "s.sqlite", "other", {})


@pytest.mark.parametrize(
    "change",
    ["UPDATE results SET output = 1 - output WHERE id = 2",
     "DELETE FROM results WHERE id = 3", "UPDATE batches SET faults = 9 WHERE number = 0",
     """UPDATE results SET fault = '{"site":"core.y","model":"seu"}' WHERE id = 1"""],
)  # fmt: skip
def test_changed_rows_are_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "s.sqlite"
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute(change)
    with CampaignStore(path, "k", {}) as store, pytest.raises(BanksideError) as error:
        store.read(0)
    assert f"{path}: damaged: batch" in str(error.value)
    assert "nothing was changed. Bring back a copy" in str(error.value)


def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with CampaignStore(path, "k", {}) as store:
        for number in range(40):
            store.put(0, number, range(50 * number, 50 * number + 50), texts(50), outcomes(50))
    damaged = bytearray(path.read_bytes())
    for at in range(5 * 4096, len(damaged), 4096):
        damaged[at : at + 64] = b"\xff" * 64
    path.write_bytes(damaged)
    with pytest.raises(BanksideError, match="damaged|cannot be used"):
        CampaignStore(path, "k", {})
    assert path.read_bytes() == bytes(damaged)


def test_no_database_at_all(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, but of some length" * 50)
    with pytest.raises(BanksideError, match="cannot be used as a store of results"):
        CampaignStore(path, "k", {})


def test_unknown_fault_names_the_range(tmp_path: Path) -> None:
    filled(tmp_path / "s.sqlite")
    with CampaignStore(tmp_path / "s.sqlite", "k", {}) as store:
        with pytest.raises(ConfigError, match="no fault 5 .* expected 0 to 4"):
            store.fault(5)


def test_texts_are_kept_and_watched(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with CampaignStore(path, "k", {}) as store:
        store.put_text("some", 25, "b\n")
        store.put_text("some", 0, "a\n")
        store.put_text("other", 0, "c\n")
        store.put_text("some", 0, "not the first\n")
        assert store.texts("some") == {0: "a\n", 25: "b\n"} and store.texts("none") == {}
    with sqlite3.connect(path) as db:
        db.execute("UPDATE texts SET text = 'x' WHERE kind = 'some' AND number = 25")
    with CampaignStore(path, "k", {}) as store:
        assert store.texts("other") == {0: "c\n"}
        with pytest.raises(BanksideError, match="damaged: text 25 of 'some' is not what was wri"):
            store.texts("some")
