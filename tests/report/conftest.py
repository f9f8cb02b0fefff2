"""A synthetic run directory: a lithium crystal that disorders, with labels, cells, errors and training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.audit import estimate_audit
from ideal.config import Config, dump_config
from ideal.dataset.extxyz import format_frame
from ideal.engine import events
from ideal.engine.comparing import Comparison
from ideal.engine.held_out import evaluate_held_out
from ideal.engine.run_directory import RunDirectory
from ideal.records import Label
from ideal.report.data import read_run
from ideal.report.derived import Derived, derive
from ideal.uncertainty.assessment import assess
from ideal.uncertainty.calibration import Calibration

STEPS, EVERY, TIMESTEP = 1200, 10, 2.0
THRESHOLD = 2.4
DONE, FAILED = 14, 1
ROLLED_BACK = 9
AUDITS = 4
FORCE_ERROR, CONFIDENCE = 0.15, 0.8


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read it only, `copied_run` may be changed."""
    return build(tmp_path_factory.mktemp("report") / "heating")


@pytest.fixture(scope="session")
def derived(finished_run: Path) -> Derived:
    """The analysis of the finished run."""
    return derive(read_run(finished_run))


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


def build(
    path: Path, title: str = "Heating of lithium", trajectories: tuple[str, ...] = ("md",), every: int = EVERY
) -> Path:
    """Write the directory with the engine's own writers."""
    rng = np.random.default_rng(0)
    config = Config.model_validate(
        {
            "title": title,
            "seed": 7,
            "trajectories": [
                {
                    "name": name,
                    "structure": "Li.cif",
                    "repeat": [4, 4, 4],
                    "sampler": {
                        "timestep": TIMESTEP,
                        "steps": STEPS,
                        "temperature": [{"time": 0, "value": 200}, {"time": "2 ps", "value": 1000}],
                    },
                }
                for name in trajectories
            ],
            "uncertainty": {"soap": {"r_cut": 4.5, "n_max": 4, "l_max": 3}},
            "labelling": {"code": {"type": "gpaw", "cutoff": 200}},
            "dataset": {"initial": "initial.extxyz", "held_out": "held_out.extxyz"},
        }
    )
    with RunDirectory.create(path, dump_config(config)) as directory:
        directory.write_json(
            "provenance.json",
            {
                "seed": 7,
                "code": {"name": "gpaw", "version": "26.7.0"},
                "versions": {"ideal": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "ase": "3.29.0"},
                "git_revision": "0123456789abcdef",
                "platform": "Linux",
                "sessions": [{"time": 1.7e9, "pid": 1, "command": ["ideal-run", "run", "config.yaml"]}],
            },
        )
        _write_start(directory, rng)
        clock = _Clock(directory)
        comparisons = _Comparisons(directory, clock)
        comparisons.take([comparisons.make(f"v{k}", "validation") for k in range(6)], "", 0)
        for name in trajectories:
            _write_trajectory(directory, clock, name, rng, every, comparisons)
        directory.write_json("calibration.json", comparisons.content(resamples=40))
        clock.write(0.1, events.LabelBudgetSpent, trajectory=trajectories[-1], step=STEPS - 100, limit=DONE + AUDITS)
        directory.write_json("held_out_after.json", held_out(0.02, 0.0015, seed=2))
        clock.write(2.0, events.StageFinished, stage="evaluation", seconds=2.0)
        stages = {"md": 80.0, "uncertainty": 12.0, "embedding": 9.0, "labelling_wait": 310.0, "training": 95.0}
        directory.write_json("summary.json", {"wall_seconds": 540.0, "stage_seconds": {**stages, "io": 4.0}})
        clock.write(0.1, events.RunFinished, summary={})
    return path


class _Clock:
    """Writes events at invented times."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.time = 1_760_000_000.0
        self.write(0.0, events.RunStarted, directory="", seed=7, mode="serial", code="gpaw 26.7.0", trajectories={})
        self.write(0.1, events.StageStarted, stage="pretrain")
        self.write(40.0, events.StageFinished, stage="pretrain", seconds=40.0)

    def write(self, passed: float, event: Callable[..., events.Event], /, **values: Any) -> None:
        self.time += passed
        self.directory.write_event(event(time=self.time, **values))


class _Comparisons:
    """Compares invented labels as the engine does, and writes what it writes."""

    def __init__(self, directory: RunDirectory, clock: _Clock) -> None:
        self.directory, self.clock = directory, clock
        self.rng = np.random.default_rng(5)
        self.calibration = Calibration(CONFIDENCE, run_cells=8)
        self.population = (0, 0)
        self.all: list[Comparison] = []

    def make(self, key: str, kind: Any, trajectory: str = "", step: int = 0) -> Comparison:
        """A cell whose errors grow with u."""
        u = self.rng.lognormal(0.2 if kind != "selected" else 0.6, 0.35, 40)
        return Comparison(
            key=key,
            kind=kind,
            trajectory=trajectory,
            step=step,
            atom=None if kind == "validation" else 3,
            u=u,
            error=0.04 * u * self.rng.lognormal(0, 0.5, 40),
            core=np.arange(40) < (40 if kind == "validation" else 12),
            center=None if kind == "validation" else 0,
            energy_error=float(self.rng.normal(0, 0.004)),
            stress_error=0.2,
            weight=20_000.0 if kind == "audit" else None,
            threshold=None if kind == "validation" else THRESHOLD,
        )

    def take(self, comparisons: list[Comparison], trajectory: str, step: int) -> None:
        """Write pairs, calibration and event."""
        self.all += comparisons
        for c in comparisons:
            arguments = (c.key, c.kind, c.u, c.error, c.energy_error, c.stress_error, c.center)
            self.calibration.add(*arguments, core=c.core, threshold=c.threshold)
            self.directory.log("pairs.jsonl").append(c.to_json() + "\n")
        self.population = (self.population[0] + 8000, self.population[1] + 20)
        self.calibration.set_population(*self.population)
        content = self.content()
        self.directory.write_json("calibration.json", content)
        audit = content["audit"] or {"missed_error_rate": {}, "force_error": {}}
        flat = {
            f"{name}{suffix}": audit[name].get(key)
            for name in ("missed_error_rate", "force_error")
            for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        same = ("ready", "threshold", "threshold_bound", "threshold_source", "in_distribution", "scale", "n_pairs")
        self.clock.write(
            0.1,
            events.Calibrated,
            trajectory=trajectory,
            step=step,
            coverage=None,
            auc=None,
            **{name: content[name] for name in same},
            **flat,
        )

    def content(self, resamples: int = 0) -> dict[str, Any]:
        """``calibration.json`` as the engine's calibrator gives it."""
        calibration = self.calibration
        of_run = [c for c in self.all if c.kind != "validation"] or self.all
        u, error = (np.concatenate([getattr(c, name)[c.core] for c in of_run]) for name in ("u", "error"))
        audits = [c for c in self.all if c.kind == "audit"]
        ready = calibration.ready
        threshold = calibration.threshold(FORCE_ERROR) if ready else THRESHOLD
        assessment = assess(
            u,
            error,
            threshold=threshold,
            force_error=FORCE_ERROR,
            bound=calibration.bound(u) if ready else None,
            cell=np.repeat(np.arange(len(of_run)), [int(c.core.sum()) for c in of_run]),
            resamples=resamples,
        )
        audit = estimate_audit(
            [c.center_error for c in audits],
            [c.weight for c in audits],
            n_certain=self.population[0],
            n_uncertain=self.population[1],
            tolerance=FORCE_ERROR,
            uncertain_error=[c.center_error for c in of_run if c.kind == "selected"],
        )
        return {
            "ready": ready,
            "force_error": FORCE_ERROR,
            "confidence": CONFIDENCE,
            "scale": calibration.scale if np.isfinite(calibration.scale) else None,
            "threshold_bound": float(calibration.bound(threshold)) if ready else None,
            "bound": dict(zip(("u", "error"), map(list, calibration.bound_curve()), strict=True)) if ready else None,
            "threshold": threshold,
            "threshold_source": "calibrated" if ready else "quantile",
            "in_distribution": THRESHOLD,
            "n_pairs": calibration.n_pairs,
            "n_cells": calibration.n_cells,
            "energy_slope": calibration.energy_slope,
            "stress_slope": calibration.stress_slope,
            "assessment": assessment.as_dict(),
            "audit": audit.as_dict() if audits else None,
            "audits_missing": 0,
            "population": {"certain": self.population[0], "uncertain": self.population[1]},
        }


def _write_start(directory: RunDirectory, rng: np.random.Generator) -> None:
    crystals = [bulk("Li", a=3.44 * rng.uniform(0.98, 1.03), cubic=True).repeat((3, 3, 2)) for _ in range(12)]
    for crystal in crystals:
        crystal.positions += rng.normal(0, 0.12, crystal.positions.shape)
        directory.log("initial_labels.extxyz").append(format_frame(crystal, {"energy": -1.9 * len(crystal)}))
    directory.write_json("held_out_before.json", held_out(0.055, 0.006, seed=1))
    for epoch in range(60):
        decay = np.exp(-epoch / 15)
        _write_epoch(directory, "pretrain", epoch + 1, 60, 0.03 * decay + 0.001, 0.4 * decay + 0.03, rng)


def _write_epoch(
    directory: RunDirectory, phase: str, epoch: int, epochs: int, energy: float, force: float, rng: np.random.Generator
) -> None:
    noise = rng.normal(1, 0.08, 2)
    directory.write_event(
        events.TrainingEpoch(
            phase=phase,
            epoch=epoch,
            epochs=epochs,
            loss=force**2,
            energy_mae=energy * noise[0],
            force_mae=force * noise[1],
            stress_mae=0.1,
            time=0.0,
        )
    )


def _write_trajectory(
    directory: RunDirectory,
    clock: _Clock,
    name: str,
    rng: np.random.Generator,
    every: int,
    comparisons: _Comparisons,
) -> None:
    crystal = bulk("Li", a=3.5, cubic=True).repeat(4)
    walk = np.zeros_like(crystal.positions)
    asking = iter(np.linspace(150, 1050, DONE + FAILED).round(-1).astype(int))
    ask_at = next(asking)
    asked = 0
    for step in range(0, STEPS + 1, every):
        progress = step / STEPS
        temperature = min(1000.0, 200 + 0.4 * step * TIMESTEP) * rng.normal(1, 0.06)
        walk += rng.normal(0, 0.02 + 0.10 * max(0.0, progress - 0.4), walk.shape)
        atoms = crystal.copy()
        atoms.positions += walk + rng.normal(0, 0.25 * np.sqrt(progress + 0.1), walk.shape)
        atoms.wrap()
        info = {"step": step, "time_fs": step * TIMESTEP}
        directory.log(f"trajectories/{name}.extxyz").append(format_frame(atoms, info))
        asks = 0 < ask_at <= step
        clock.write(
            0.8,
            events.Check,
            trajectory=name,
            step=step,
            time_fs=step * TIMESTEP,
            temperature=temperature,
            potential_energy=-1.9 * len(atoms) + 0.02 * temperature,
            kinetic_energy=1.5 * 8.617e-5 * temperature * len(atoms),
            max_u=THRESHOLD * (1.3 + rng.exponential(0.8)) if asks else THRESHOLD * rng.uniform(0.5, 0.98),
            threshold=THRESHOLD,
            n_uncertain=3 if asks else 0,
            volume=atoms.get_volume(),
        )
        if asks:
            _write_label(directory, clock, name, step, asked, atoms, rng)
            new = [comparisons.make(f"{name}-{asked}", "selected", name, step)]
            if asked % 4 == 3:
                new.append(comparisons.make(f"{name}-audit-{asked}", "audit", name, step))
            comparisons.take(new, name, step)
            asked += 1
            ask_at = next(asking, -1)
    clock.write(0.1, events.TrajectoryFinished, trajectory=name, step=STEPS)


def _write_label(
    directory: RunDirectory, clock: _Clock, name: str, step: int, number: int, frame: Atoms, rng: np.random.Generator
) -> None:
    key = f"{name}-{number:060d}"
    place = {"trajectory": name, "step": step, "atom": number}
    size = int(rng.integers(40, 75))
    clock.write(
        0.3,
        events.Embedded,
        **place,
        accepted=True,
        reason="",
        n_atoms=size,
        max_u=THRESHOLD * rng.uniform(0.6, 0.9),
        seconds=0.3,
        key=key,
    )
    if number % 6 == 5:
        reason = "the filler stays at u 3.1 > 2.4"
        clock.write(
            0.5,
            events.Embedded,
            **(place | {"atom": 99}),
            accepted=False,
            reason=reason,
            n_atoms=size + 20,
            max_u=3.1,
            seconds=0.5,
            key="",
        )
    cell = bulk("Li", a=3.5, cubic=True).repeat((3, 3, 3))
    cell.positions += rng.normal(0, 0.3, cell.positions.shape)
    crop = frame[(frame.positions < 9.5).all(axis=1)]
    crop.set_cell([10.0] * 3)
    info = {"key": key, "trajectory": name, "step": step, "accepted": True}
    directory.log("substructures.extxyz").append(format_frame(cell, info))
    directory.log("crops.extxyz").append(format_frame(crop, info))
    clock.write(0.1, events.LabelSubmitted, **place, key=key, n_atoms=size)
    if number == 4:
        clock.write(30.0, events.LabelFailed, key=key, trajectory=name, cause="SCF not converged after 150 iterations")
        return
    clock.write(22.0, events.LabelFinished, key=key, trajectory=name, seconds=22.0, energy=-100.0)
    before = 0.06 * np.exp(-number / 8) + 0.02
    clock.write(
        6.0,
        events.Updated,
        trajectory=name,
        step=step,
        labels=1,
        before={"energy_mae": 0.004, "force_mae": before, "stress_mae": 0.2},
        after={"energy_mae": 0.002, "force_mae": 0.6 * before, "stress_mae": 0.1},
        seconds=6.0,
        rolled_back=number == ROLLED_BACK,
        model="ab12",
    )
    for epoch in range(5):
        _write_epoch(directory, "update", epoch + 1, 5, 0.0015, 0.03, rng)


def held_out(force_error: float, energy_error: float, seed: int) -> dict[str, Any]:
    """A model that is wrong by about these errors (eV/Å, eV/atom), in the engine's own form."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(seed)
    labels = [
        Label(
            key=str(k),
            atoms=bulk("Li", cubic=True).repeat(2),
            energy=16 * float(truth.normal(-1.9, 0.03)),
            forces=truth.normal(0, 0.3, (16, 3)),
            stress=truth.normal(0, 0.01, 6) if k else None,
            code="gpaw 26.7.0",
        )
        for k in range(25)
    ]
    evaluations = [
        SimpleNamespace(
            energy=label.energy + 16 * noise.normal(energy_error, energy_error),
            forces=label.forces + noise.normal(0, force_error, (16, 3)),
            stress=np.zeros(6) if label.stress is None else label.stress + noise.normal(0, 0.001, 6),
        )
        for label in labels
    ]
    potential: Any = SimpleNamespace(evaluate_batch=lambda atoms: evaluations)
    return evaluate_held_out(potential, labels)


@pytest.fixture
def many_trajectories(tmp_path: Path) -> Iterator[Path]:
    """A run of three trajectories."""
    yield build(tmp_path / "many", trajectories=("cold", "hot", "surface"), every=60)
