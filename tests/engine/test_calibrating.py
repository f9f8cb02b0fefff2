"""Pairs of u and error, the thresholds that follow from them, and the files that tell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from ideal.dataset import Dataset
from ideal.engine.comparing import compare
from ideal.engine.engine import Engine
from ideal.engine.learner import LARGEST_THRESHOLD, Learner
from ideal.models.base import Evaluation
from ideal.records import Frame, Label
from ideal.selection import select
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.mahalanobis import SoapMahalanobis
from ideal.uncertainty.threshold import MAX_STEP, MovingAverageThreshold

from .conftest import Finished
from .runs import copper_config, events, named, trajectory
from .test_auditing import pairs
from .test_resume import interrupt_at_checks


class OffBy:
    """A potential whose errors are known."""

    def __init__(self, labels: Sequence[Label], force: Sequence[float], energy_per_atom: float, stress: float) -> None:
        self.labels = {id(label.atoms): label for label in labels}
        self.offsets = np.asarray(force), energy_per_atom, stress

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        force, energy, stress = self.offsets
        labels = [self.labels[id(atoms)] for atoms in structures]
        return [
            Evaluation(
                label.energy + energy * len(label.atoms),
                label.forces + force,
                None if label.stress is None else label.stress + stress,
                np.zeros(len(label.atoms)),
            )
            for label in labels
        ]


class AtomNumber:
    """u of an atom is its index."""

    def atomic(self, atoms: Atoms) -> np.ndarray:
        return np.arange(len(atoms), dtype=float)


def label(n_atoms: int = 4, stress: bool = True) -> Label:
    atoms = bulk("Cu", cubic=True)[:n_atoms]
    return Label("k" * 64, atoms, -3.0, np.ones((n_atoms, 3)), np.arange(6.0) if stress else None, "emt")


def test_comparison_measures_what_it_says() -> None:
    labels = [label(), label(stress=False)]
    origin = {"purpose": "audit", "trajectory": "md", "step": 4, "atom": 17, "core": [1, 3], "center": 3,
              "weight": 20.0, "threshold": 2.0}  # fmt: skip
    potential = OffBy(labels, [0.3, 0.0, -0.4], 0.002, -0.1 * GPa)
    audit, validation = compare(potential, AtomNumber(), labels, [origin, {}])  # type: ignore[arg-type]
    assert audit.error.tolist() == pytest.approx([0.5] * 4) and audit.u.tolist() == [0, 1, 2, 3]
    assert audit.energy_error == pytest.approx(0.002) and audit.stress_error == pytest.approx(0.1)
    assert audit.core.tolist() == [False, True, False, True] and audit.center_error == pytest.approx(0.5)
    row = json.loads(audit.to_json())
    assert (row["kind"], row["trajectory"], row["step"], row["atom"], row["center"], row["weight"]) == (
        "audit", "md", 4, 17, 3, 20.0,
    )  # fmt: skip
    assert validation.kind == "validation" and validation.core.all() and validation.threshold is None
    assert validation.stress_error is None and validation.center is None
    assert compare(potential, AtomNumber(), []) == []  # type: ignore[arg-type]


# --- thresholds of the learner ----------------------------------------------------------------------------------------


def learner(folder: Path, structures: Sequence[Atoms], **threshold: object) -> Learner:
    config = copper_config(folder, uncertainty__threshold=threshold)
    labels = [
        Label(f"{i:064d}", atoms, 0.0, np.zeros((len(atoms), 3)), None, "emt") for i, atoms in enumerate(structures)
    ]
    new = Learner.new(config, labels[:1], ["Cu"])
    return replace(new, dataset=Dataset(labels))


def rattled(count: int) -> list[Atoms]:
    structures = [bulk("Cu", cubic=True).repeat(2) for _ in range(count)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05 + 0.02 * seed, seed=seed)
    return structures


def test_embedding_has_a_threshold_of_its_own(tmp_path: Path) -> None:
    fixed = learner(tmp_path, rattled(4), type="fixed", value=7.0)
    quantile = learner(tmp_path, rattled(4), type="quantile")
    for each in (fixed, quantile):
        each.fit_distribution()
    assert (fixed.threshold, fixed.threshold_source) == (7.0, "fixed")
    assert fixed.in_distribution == quantile.in_distribution == quantile.threshold != 7.0
    alike = learner(tmp_path, [bulk("Cu", cubic=True)] * 3, type="fixed", value=7.0)
    alike.fit_distribution()
    assert alike.in_distribution == 7.0, "no quantile of environments that are all alike"


@pytest.mark.parametrize(("amplitude", "count", "falls"), [(0.4, 1, False), (0.08, 8, True)])
def test_in_distribution_follows_the_distribution_down_and_the_quantile_stays(
    tmp_path: Path, amplitude: float, count: int, falls: bool
) -> None:
    """Outliers that were learned do not make the next outlier known; more of the same makes the estimate sharper."""
    known = learner(tmp_path, rattled(4), type="quantile")
    known.fit_distribution()
    before = known.threshold
    for seed in range(count):
        more = bulk("Cu", cubic=True).repeat(2)
        more.rattle(amplitude, seed=100 + seed)
        known.dataset.add([Label(f"h{seed:063d}", more, 0.0, np.zeros((len(more), 3)), None, "emt")])
        known.uncertainty.update([more])
    known._follow_distribution()
    assert known.threshold == before
    assert known.in_distribution < before if falls else known.in_distribution == before


def test_no_threshold_makes_an_unseen_species_certain(tmp_path: Path) -> None:
    known = learner(tmp_path, rattled(2), type="moving_average", window=1)
    known.fit_distribution()
    atoms = bulk("Cu", cubic=True)
    atoms.numbers[2] = 79
    soap = known.uncertainty.soap
    both = SoapMahalanobis(type(soap)(**{**soap.parameters, "species": ["Cu", "Au"]}))
    both.update(rattled(2))
    u = both.atomic(atoms)
    assert np.isinf(u[2]) and np.isfinite(u[0])
    for max_u in (math.inf, 1e308, math.inf):
        known.observe(max_u)
        assert known.threshold <= LARGEST_THRESHOLD < u[2]
        assert select(Frame(atoms, "md", 0), u, known.threshold, known.config.selection).indices.tolist()[0] == 2
    assert isinstance(known.selection, MovingAverageThreshold) and known.threshold_source == "moving_average"


# --- runs -------------------------------------------------------------------------------------------------------------


def test_calibrated_threshold_takes_over_when_it_is_ready(reference: Finished) -> None:
    rows = [row for row in events(reference.path) if row["event"] in ("calibrated", "check")]
    assert rows[0]["event"] == "calibrated" and not rows[0]["ready"]
    latest = rows[0]
    sources = []
    for row in rows:
        if row["event"] == "calibrated":
            latest = row
            sources.append(row["threshold_source"])
            assert row["ready"] == (row["threshold_source"] == "calibrated")
        else:
            assert row["threshold"] == latest["threshold"], "it changes when labels arrive"
    assert sources[0] == "quantile" and sources[-1] == "calibrated"


def test_threshold_follows_from_the_pairs_that_were_written(reference: Finished) -> None:
    content = json.loads((reference.path / "calibration.json").read_text())
    config = reference.config.uncertainty.threshold
    calibration = Calibration(config.confidence)
    for row in pairs(reference.path):
        names = ("key", "kind", "u", "error", "energy_error", "stress_error", "center")
        calibration.add(*(row[name] for name in names), core=row["core"], threshold=row["threshold"])
    calibration.set_population(content["population"]["certain"], content["population"]["uncertain"])
    assert calibration.ready
    before = named(reference.path, "calibrated")[-2]["threshold"]
    least = content["in_distribution"] / config.factor  # not reached: the tiny model errs by more
    wanted = max(calibration.threshold(config.force_error), min(least, before))
    assert content["threshold"] == min(max(wanted, before / MAX_STEP), before * MAX_STEP), "it goes there in steps"
    assert (content["scale"], content["energy_slope"]) == (calibration.scale, calibration.energy_slope)


def test_pairs_are_those_of_the_model_that_had_not_learned_them(reference: Finished) -> None:
    rows = pairs(reference.path)
    learned = [event["labels"] for event in named(reference.path, "updated")]
    assert len(rows) == sum(learned)
    first = 0
    for update in named(reference.path, "updated"):
        errors = np.concatenate([row["error"] for row in rows[first : first + update["labels"]]])
        first += update["labels"]
        # The mean norm of the error vector lies between the mean absolute component and three times it.
        assert update["before"]["force_mae"] <= errors.mean() <= 3 * update["before"]["force_mae"]


def test_files_and_summary_agree(reference: Finished) -> None:
    content = json.loads((reference.path / "calibration.json").read_text())
    assert content == reference.summary.as_dict()["calibration"]
    last = named(reference.path, "calibrated")[-1]
    for name in ("ready", "threshold", "threshold_source", "in_distribution", "scale", "n_pairs"):
        assert content[name] == last[name]
    n_cells = content["n_cells"]
    assert (n_cells["selected"], n_cells["audit"]) == (
        reference.summary.labels.done - reference.summary.labels.audits,
        reference.summary.labels.audits,
    )
    checks = named(reference.path, "check")
    assert content["population"]["uncertain"] == sum(check["n_uncertain"] for check in checks)
    assert sum(content["population"].values()) == 72 * len(checks)
    assert content["assessment"]["auc"]["low"] is not None, "intervals at the end"


def test_validation_labels_are_compared_once(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path,
        dataset__validation_fraction=0.5,
        engine__max_labels=1,
        trajectories=[trajectory("md", sampler={"steps": 4})],
    )
    summary = Engine.create(config, tmp_path / "run").run()
    rows = pairs(tmp_path / "run")
    kinds = [row["kind"] for row in rows]
    assert kinds[:2] == ["validation", "validation"] and set(kinds[2:]) <= {"selected", "audit"}
    assert all(row["trajectory"] == "" and row["center"] is None and row["threshold"] is None for row in rows[:2])
    assert summary.calibration is not None and summary.calibration["n_cells"]["validation"] == 2


def test_moving_average_goes_on_where_it_was(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path, uncertainty__threshold={"type": "moving_average", "window": 3, "margin": 0.5}, engine__max_labels=0
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    Engine.create(config, whole).run()
    checks = named(whole, "check")
    assert len({check["threshold"] for check in checks}) > 2
    window = [check["max_u"] for check in checks[-3:]]
    assert checks[-1]["threshold"] == pytest.approx(1.5 * np.mean(window))
    assert Engine.create(config, cut, interrupt_at_checks({3})).run().status == "interrupted"
    assert Engine.resume(cut).run().status == "finished"
    assert named(cut, "check") == checks
