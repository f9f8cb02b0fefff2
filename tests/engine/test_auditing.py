"""The audit: what it draws from, how much of it there is, what is limited, and that a kill changes nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from ideal.config import Config
from ideal.embedding import pool
from ideal.engine.auditing import Auditor
from ideal.engine.budget import LabelBudget
from ideal.engine.engine import Engine
from ideal.engine.events import Event
from ideal.engine.journal import Journal
from ideal.engine.open_cells import OpenCell
from ideal.engine.run_directory import RunDirectory
from ideal.errors import EmbeddingError

from .conftest import Finished
from .runs import committed, copper_config, events, in_child, named
from .test_resume import assert_same_run


def with_audit(folder: Path, share: float, **changes: Any) -> Config:
    return copper_config(folder, selection__audit=share, **changes)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_draws_are_certain_atoms_and_as_many_as_stated(tmp_path: Path) -> None:
    auditor = Auditor(with_audit(tmp_path, 0.25))
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True).repeat(2)
    drawn = selected = offered = 0
    for step in range(300):
        u = rng.uniform(0, 3, len(atoms))
        u[0] = np.inf
        auditor.offer("md", step, atoms, u, threshold=2.0)
        offered += len(atoms)
        if step % 3 == 2:
            draws = auditor.close(n_selected=2)
            drawn, selected = drawn + len(draws), selected + 2
            assert all(draw.atom != 0 and step - 3 < draw.step <= step for draw in draws)
            if draws and draws[0].step == step:
                assert u[draws[0].atom] <= 2.0
    assert auditor.n_certain + auditor.n_uncertain == offered and auditor.n_uncertain > offered / 3
    assert abs(drawn / (drawn + selected) - 0.25) < 0.005


def test_without_audit_nothing_is_kept_and_the_population_is_counted(tmp_path: Path) -> None:
    auditor = Auditor(with_audit(tmp_path, 0.0))
    atoms = bulk("Cu", cubic=True)
    auditor.offer("md", 0, atoms, np.array([1.0, 2.0, 3.0, np.inf]), threshold=2.0)
    assert (auditor.n_certain, auditor.n_uncertain) == (2, 2)
    assert auditor.close(2) == [] and auditor.close_last(20, 10) == []


def test_state_of_the_auditor_is_exact(tmp_path: Path) -> None:
    def offered(auditor: Auditor, steps: range) -> list[tuple[int, int, float]]:
        for step in steps:
            auditor.offer("md", step, bulk("Cu", cubic=True).repeat(2), np.linspace(0, step % 7, 32), threshold=2.0)
        return [(draw.step, draw.atom, draw.weight) for draw in auditor.close_last(100, 5)]

    first, second = (Auditor(with_audit(tmp_path, 0.4)) for _ in range(2))
    offered(first, range(10))
    first.offer("md", 10, bulk("Cu"), np.ones(1), threshold=2.0)
    second.restore(first.state())
    assert (second.n_certain, second.n_uncertain) == (first.n_certain, first.n_uncertain)
    assert offered(first, range(11, 40)) == offered(second, range(11, 40)) != []


@pytest.mark.parametrize(
    ("limit", "share", "asked", "audits", "selected_left", "audits_left"),
    [
        (None, 0.05, 100, 5, np.inf, np.inf),
        (40, 0.05, 0, 0, 38, 40),
        (40, 0.05, 38, 0, 0, 2),
        (40, 0.05, 39, 2, 1, 1),
        (40, 0.05, 40, 3, 0, 0),
        (1, 0.05, 0, 0, 1, 1),
        (10, 0.0, 9, 0, 1, 1),
        (0, 0.05, 0, 0, 0, 0),
    ],
)
def test_budget_keeps_the_share_of_the_audit(
    tmp_path: Path,
    limit: int | None,
    share: float,
    asked: int,
    audits: int,
    selected_left: float,
    audits_left: float,
) -> None:
    config = with_audit(tmp_path, share, engine__max_labels=limit)
    with RunDirectory.create(tmp_path / "run", "") as directory:
        journal = Journal(directory)
        journal.counters.asked, journal.counters.audits = asked, audits
        budget = LabelBudget(config, journal)
        assert (budget.selected, budget.audits) == (selected_left, audits_left)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_audited_atoms_were_certain_when_their_frame_was_checked(reference: Finished) -> None:
    audits = [event for event in named(reference.path, "embedded") if event["purpose"] == "audit"]
    frames = {frame.info["step"]: frame for frame in read(reference.path / "trajectories" / "md.extxyz", index=":")}
    thresholds = {event["step"]: event["threshold"] for event in named(reference.path, "check")}
    assert audits
    for audit in audits:
        assert frames[audit["step"]].arrays["u"][audit["atom"]] <= thresholds[audit["step"]]
    with_weight = [row for row in pairs(reference.path) if row["kind"] == "audit"]
    assert len(with_weight) == reference.summary.labels.audits
    assert all(row["weight"] >= 1 and row["core"][row["center"]] for row in with_weight)


def pairs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "pairs.jsonl").read_text().splitlines()]


def test_without_audit_the_run_asks_as_it_would_have(reference: Finished, tmp_path: Path) -> None:
    """Draws take no random numbers from anything else: until an audit is learned, the runs are equal."""
    summary = Engine.create(with_audit(tmp_path, 0.0, engine__max_labels=2), tmp_path / "run").run()
    assert summary.labels.audits == summary.labels.audits_missing == 0 < summary.labels.done
    assert summary.calibration is not None and summary.calibration["audit"] is None
    first_ask = named(tmp_path / "run", "embedded")[0]
    assert first_ask in [event for event in named(reference.path, "embedded") if event["purpose"] == "selected"]
    assert not [event for event in named(tmp_path / "run", "label_submitted") if event["purpose"] == "audit"]


def open_end(folder: Path) -> Config:
    """The last frames may not ask, so that an interval is open when the trajectory is over."""
    return copper_config(
        folder,
        selection__min_steps_between=10,
        selection__audit=0.3,
        uncertainty__threshold={"type": "quantile", "factor": 1.2},
        engine__restarts=0,
    )


def test_last_interval_is_audited_and_learned_also_when_killed_amid(tmp_path: Path) -> None:
    config = open_end(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    summary = Engine.create(config, whole).run()
    rows = events(whole)
    over = next(i for i, row in enumerate(rows) if row["event"] == "trajectory_finished")
    last = [row for row in rows[over:] if row["event"] == "label_submitted"]
    assert last and all(row["purpose"] == "audit" and row["step"] > 4 for row in last)
    assert [row["labels"] for row in rows[over:] if row["event"] == "updated"] == [len(last)]
    told = [row["event"] for row in rows[over:] if row.get("stage") == "final_audit"]
    assert told == ["stage_started", "stage_finished"]
    assert summary.calibration is not None
    assert summary.calibration["audit"]["n_audited"] == summary.labels.audits >= len(last)
    assert json.loads((whole / "calibration.json").read_text()) == summary.as_dict()["calibration"]

    finished = sum(row["event"] == "label_finished" for row in rows)
    kill = kill_when_finished(finished)
    assert in_child(lambda: Engine.create(config, cut, kill).run()) == -signal.SIGKILL
    before = committed(cut)
    Engine.resume(cut).run()
    reference = Finished(tmp_path, whole, config, summary)
    assert_same_run(cut, reference, before)
    again = Engine.resume(cut).run()  # nothing is audited twice
    assert again.labels == summary.labels
    assert_same_run(cut, reference, before)


def kill_when_finished(count: int) -> Any:
    from .test_resume import kill_at

    return kill_at("label_finished", count)


def test_interrupted_run_does_not_audit_its_end(tmp_path: Path) -> None:
    def stop_at_the_last_check(event: Event) -> None:
        if event.name == "check" and getattr(event, "step", 0) == 16:
            signal.raise_signal(signal.SIGINT)

    summary = Engine.create(open_end(tmp_path), tmp_path / "run", stop_at_the_last_check).run()
    assert summary.status == "interrupted" and summary.calibration is not None
    assert not [event for event in named(tmp_path / "run", "label_submitted") if event["step"] > 4]


def test_spent_budget_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    summary = Engine.create(copper_config(tmp_path, engine__max_labels=0), path).run()
    spent = named(path, "label_budget_spent")
    assert [(event["trajectory"], event["limit"]) for event in spent] == [("md", 0)]
    uncertain = [event["step"] for event in named(path, "check") if event["n_uncertain"]]
    assert spent[0]["step"] == uncertain[0] and len(uncertain) > 1
    assert summary.status == "finished" and summary.labels.asked == 0 and summary.steps == 16


def test_an_audit_that_cannot_be_embedded_is_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the labels of a frame and at the end alike; no trajectory fails for it."""
    marked = -7
    seed = OpenCell.seed
    monkeypatch.setattr(OpenCell, "seed", lambda cell, s: marked if cell.purpose == "audit" else seed(cell, s))
    make = pool.embed

    def embed(*arguments: Any, rng: int, **options: Any) -> Any:
        if rng == marked:
            raise EmbeddingError("no such cell")
        return make(*arguments, rng=rng, **options)

    monkeypatch.setattr(pool, "embed", embed)
    summary = Engine.create(with_audit(tmp_path, 0.5), tmp_path / "run").run()
    told = [event for event in named(tmp_path / "run", "embedded") if event["purpose"] == "audit"]
    assert summary.status == "finished" and summary.labels.audits == 0 < summary.labels.done
    assert summary.labels.audits_missing == len(told) >= 1
    assert all(event["reason"] == "no such cell" and not event["accepted"] for event in told)
