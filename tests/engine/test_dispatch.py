"""Cells made by other processes: the same run, killed and resumed or not, and nobody waits who need not."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ideal.embedding.pool import CellPool, Order
from ideal.engine import engine as engine_module
from ideal.engine.engine import Engine
from ideal.engine.engine_state import read_checkpoint
from ideal.labelling.store import LabelStore

from .conftest import Finished
from .runs import calculated, committed, copper_config, events, in_child, named
from .test_concurrent import slow_config
from .test_resume import assert_same_run, kill_at


class SlowPool(CellPool):
    """Makes cells in a thread, each after a while."""

    def __init__(self, config: Any, seconds: float = 0.4) -> None:
        super().__init__(config)
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(1)

    def order(self, job: Any, uncertainty: Any, version: int) -> Order:
        order = super().order(job, uncertainty, version)

        def make() -> Any:
            time.sleep(self._seconds)
            return order.cell()

        return Order(future=self._threads.submit(make))

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        super().close()


def test_processes_make_the_same_run(reference: Finished, tmp_path: Path) -> None:
    """Labels, model, files and events, bit for bit; killed while cells are made or not."""
    config = copper_config(tmp_path, embedding__workers=2)
    path = tmp_path / "run"
    assert in_child(lambda: Engine.create(config, path, kill_at("embedded", 2)).run()) == -signal.SIGKILL
    before = committed(path)
    Engine.resume(path).run()
    assert_same_run(path, reference, before)


def test_a_cell_in_the_making_is_made_again(reference: Finished, tmp_path: Path) -> None:
    """The checkpoint comes when the frame asks: it holds open cells and no request."""
    path = tmp_path / "run"
    assert in_child(lambda: Engine.create(reference.config, path, kill_at("embedded")).run()) == -signal.SIGKILL
    latest = (path / "checkpoints" / "LATEST").read_text().strip()
    state = read_checkpoint(path / "checkpoints" / latest)["trajectories"]["md"]
    assert state["open_cells"]["cells"] and not state["requests"] and state["status"] == "waiting"
    assert len(state["open_cells"]["frames"]) == 1
    before = committed(path)
    Engine.resume(path).run()
    assert_same_run(path, reference, before)


def test_slow_cells_do_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one trajectory's cells are made, the other one moves."""
    monkeypatch.setattr(engine_module, "CellPool", SlowPool)
    config = slow_config(tmp_path, seconds=0.0)
    path = tmp_path / "run"
    summary = Engine.create(config, path).run()
    assert summary.status == "finished" and summary.labels.done == summary.labels.asked > 0
    told = [row for row in events(path) if row["event"] in ("check", "embedded")]
    made = next(k for k, row in enumerate(told) if row["event"] == "embedded")
    place = (told[made]["trajectory"], told[made]["step"])
    asked = next(k for k, row in enumerate(told) if (row["trajectory"], row["step"]) == place)
    between = told[asked + 1 : made]
    assert between and all(row["event"] == "check" and row["trajectory"] != place[0] for row in between)


def test_killed_concurrent_run_with_open_cells_loses_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr(engine_module, "CellPool", SlowPool)
    config = slow_config(tmp_path, seconds=0.1)
    assert in_child(lambda: Engine.create(config, path, kill_at("embedded", 3)).run()) == -signal.SIGKILL
    before = committed(path)
    summary = Engine.resume(path).run()
    assert summary.status == "finished"
    done = Counter(calculated(path))
    assert all(done[structure] == 1 for structure in before)
    with LabelStore(path / "labels.db", read_only=True) as store:
        after = {label.key for label in store.labels()}
    assert after == {event["key"] for event in named(path, "label_submitted")}
