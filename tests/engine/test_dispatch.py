"""Cells made by other processes: the same run, killed and resumed or not, and nobody waits who need not."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ideal.embedding.pool import CellPool, Order
from ideal.engine import engine as engine_module
from ideal.engine.engine import Engine
from ideal.engine.engine_state import read_checkpoint
from ideal.engine.events import Event
from ideal.labelling.store import LabelStore

from .conftest import Finished
from .runs import calculated, committed, copper_config, events, in_child, named
from .test_concurrent import slow_config
from .test_resume import assert_same_run, kill_at


class GatedPool(CellPool):
    """Makes cells in a thread, the first one only when the gate has been opened."""

    gate: threading.Event

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._threads = ThreadPoolExecutor(1)

    def order(self, job: Any, uncertainty: Any, version: int) -> Order:
        order = super().order(job, uncertainty, version)

        def make() -> Any:
            assert self.gate.wait(200), "nobody moved"
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
    """The first cell is made only when, after it was ordered, the other trajectory has moved."""
    ordered, moved = threading.Event(), threading.Event()
    make_order = GatedPool.order

    def order(pool: GatedPool, *arguments: Any) -> Order:
        ordered.set()
        return make_order(pool, *arguments)

    def listener(event: Event) -> None:
        if event.name == "check" and ordered.is_set():
            moved.set()

    monkeypatch.setattr(GatedPool, "order", order)
    monkeypatch.setattr(GatedPool, "gate", moved, raising=False)
    monkeypatch.setattr(engine_module, "CellPool", GatedPool)
    path = tmp_path / "run"
    summary = Engine.create(slow_config(tmp_path), path, listener).run()
    assert summary.status == "finished" and summary.labels.done == summary.labels.asked > 0
    told = [row for row in events(path) if row["event"] in ("check", "embedded")]
    made = next(k for k, row in enumerate(told) if row["event"] == "embedded")
    place = (told[made]["trajectory"], told[made]["step"])
    asked = next(k for k, row in enumerate(told) if (row["trajectory"], row["step"]) == place)
    between = told[asked + 1 : made]
    assert between and all(row["event"] == "check" and row["trajectory"] != place[0] for row in between)


def test_killed_concurrent_run_with_open_cells_loses_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    is_open = threading.Event()
    is_open.set()
    monkeypatch.setattr(GatedPool, "gate", is_open, raising=False)
    monkeypatch.setattr(engine_module, "CellPool", GatedPool)
    config = slow_config(tmp_path, seconds=0.1)
    assert in_child(lambda: Engine.create(config, path, kill_at("embedded", 2)).run()) == -signal.SIGKILL
    before = committed(path)
    summary = Engine.resume(path).run()
    assert summary.status == "finished"
    done = Counter(calculated(path))
    assert all(done[structure] == 1 for structure in before)
    with LabelStore(path / "labels.db", read_only=True) as store:
        after = {label.key for label in store.labels()}
    assert after == {event["key"] for event in named(path, "label_submitted")}
