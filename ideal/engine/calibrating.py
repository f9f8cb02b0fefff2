"""What u is worth in eV/Å: pairs from new labels, the threshold that follows from them, estimates from audits.

    validation labels, once after pretraining \\
    answers, before they are learned          -> pairs.jsonl -> calibration -> threshold, calibration.json, an event

The bound that an atom was given before its error was known is kept with the pair, so that the coverage told is that of
predictions, not of a fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ideal.audit import AuditEstimates, estimate_audit
from ideal.config import Config
from ideal.engine.auditing import Auditor
from ideal.engine.comparing import Comparison
from ideal.engine.events import Calibrated
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.records import BoolArray
from ideal.uncertainty.assessment import Assessment, assess
from ideal.uncertainty.calibration import Calibration

RESAMPLES = 200
"""Bootstrap resamples behind the intervals of the assessment, which only the end of a run takes the time for."""


@dataclass
class _Compared:
    """What assessment and audit need of the comparisons so far.

    Attributes:
        u: of every core atom compared.
        error: its force error, eV/Å.
        bound: the bound that it was given before its error was known, eV/Å; infinite before there was one.
        cell: number of its cell.
        is_run: whether it comes from the run, not from the validation labels.
        audited: force errors of the audited centers, eV/Å.
        audit_weight: environments that each of them stands for.
        selected: force errors of the selected centers, eV/Å.
    """

    u: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    cell: list[int] = field(default_factory=list)
    is_run: list[bool] = field(default_factory=list)
    audited: list[float] = field(default_factory=list)
    audit_weight: list[float] = field(default_factory=list)
    selected: list[float] = field(default_factory=list)

    def add(self, comparison: Comparison, calibration: Calibration) -> None:
        """Take a comparison in that ``calibration`` does not know yet."""
        u, error = comparison.u[comparison.core], comparison.error[comparison.core]
        number = self.cell[-1] + 1 if self.cell else 0
        is_run = comparison.kind != "validation"
        self.u += u.tolist()
        self.error += error.tolist()
        self.bound += calibration.bound(u).tolist()
        self.cell += [number] * u.size
        self.is_run += [is_run] * u.size
        if comparison.kind == "audit" and comparison.weight is not None:
            self.audited.append(comparison.center_error)
            self.audit_weight.append(comparison.weight)
        elif comparison.kind == "selected":
            self.selected.append(comparison.center_error)

    def state(self) -> dict[str, Any]:
        """As arrays."""
        return {name: np.array(values) for name, values in vars(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Compared:
        """What `state` described."""
        return cls(**{name: np.asarray(values).tolist() for name, values in state.items()})


class Calibrator:
    """Takes comparisons in and keeps the threshold, the estimates and their files up to date.

    Args:
        config: force error, confidence.
        learner: its threshold follows the calibration.
        auditor: knows how many environments were certain and uncertain.
        journal: told; its run directory gets ``pairs.jsonl`` and ``calibration.json``.

    Example:
        >>> comparisons = compare(learner.potential, learner.uncertainty, labels, origins)
        >>> learner.learn(labels, progress)
        >>> calibrator.take(comparisons, "md", step=10)
    """

    def __init__(self, config: Config, learner: Learner, auditor: Auditor, journal: Journal) -> None:
        self._config = config.uncertainty.threshold
        self._learner = learner
        self._auditor = auditor
        self._journal = journal
        self._calibration = Calibration(self._config.confidence)
        self._compared = _Compared()

    def take(self, comparisons: Sequence[Comparison], trajectory: str, step: int) -> None:
        """Add comparisons, let the threshold follow, write and tell.

        Args:
            comparisons: of labels that nothing had learned when they were compared.
            trajectory: whose labels they are; empty for validation labels.
            step: its MD step.
        """
        for comparison in comparisons:
            self._add(comparison)
        with self._journal.times.stage("io"):
            log = self._journal.directory.log("pairs.jsonl")
            log.append("".join(comparison.to_json() + "\n" for comparison in comparisons))
        self._calibration.set_population(self._auditor.n_certain, self._auditor.n_uncertain)
        self._learner.recalibrate(self._calibration)
        self._tell(trajectory, step, self.write())

    def write(self, resamples: int = 0) -> dict[str, Any]:
        """Replace ``calibration.json`` by the present state; returns its content.

        Args:
            resamples: of the bootstrap that gives the assessment its intervals; 0: none.
        """
        content = self.as_dict(resamples)
        with self._journal.times.stage("io"):
            self._journal.directory.write_json("calibration.json", content, durable=False)
        return content

    def as_dict(self, resamples: int = 0) -> dict[str, Any]:
        """What ``calibration.json`` holds."""
        calibration, learner, config = self._calibration, self._learner, self._config
        assessment, audit = self._assess(resamples), self._audit()
        return {
            "ready": calibration.ready,
            "force_error": config.force_error if config.type == "calibrated" else None,
            "confidence": config.confidence,
            "scale": _finite(calibration.scale),
            "threshold_bound": _finite(float(calibration.bound(learner.threshold))) if calibration.ready else None,
            "bound": _bound_curve(calibration) if calibration.ready else None,
            "threshold": learner.threshold,
            "threshold_source": learner.threshold_source,
            "in_distribution": learner.in_distribution,
            "n_pairs": calibration.n_pairs,
            "n_cells": calibration.n_cells,
            "energy_slope": calibration.energy_slope,
            "stress_slope": calibration.stress_slope,
            "assessment": assessment and assessment.as_dict(),
            "audit": audit and audit.as_dict(),
            "audits_missing": self._journal.counters.audits_missing,
            "population": {"certain": self._auditor.n_certain, "uncertain": self._auditor.n_uncertain},
        }

    def _add(self, comparison: Comparison) -> None:
        self._compared.add(comparison, self._calibration)
        self._calibration.add(
            comparison.key,
            comparison.kind,
            comparison.u,
            comparison.error,
            comparison.energy_error,
            comparison.stress_error,
            comparison.center,
            core=comparison.core,
            threshold=comparison.threshold,
        )

    def _assess(self, resamples: int) -> Assessment | None:
        """u against the errors of the core atoms compared in the run (before there are any: of the validation labels).

        Every compared atom counts alike. To weigh them by how often the run met certain and uncertain ones would let
        the neighbors of the worst atoms stand for all that was held for certain; what is true of those, the audit says.
        The coverage is that of the atoms which were given a finite bound.
        """
        compared = self._compared
        if not compared.u:
            return None
        of_run = np.array(compared.is_run)
        counted = of_run if of_run.any() else np.ones(of_run.size, dtype=bool)
        u, error, bound, cell = (
            np.array(values)[counted] for values in (compared.u, compared.error, compared.bound, compared.cell)
        )

        def hold(chosen: BoolArray) -> Assessment:
            return assess(
                u[chosen],
                error[chosen],
                threshold=self._learner.threshold,
                force_error=self._config.force_error,
                bound=bound[chosen] if bounded.any() else None,
                cell=cell[chosen],
                resamples=resamples,
            )

        bounded = np.isfinite(bound)
        everything = hold(np.ones(u.size, dtype=bool))
        return replace(everything, coverage=hold(bounded).coverage) if bounded.any() else everything

    def _audit(self) -> AuditEstimates | None:
        if not self._compared.audited:
            return None
        return estimate_audit(
            self._compared.audited,
            self._compared.audit_weight,
            n_certain=self._auditor.n_certain,
            n_uncertain=self._auditor.n_uncertain,
            tolerance=self._config.force_error,
            uncertain_error=self._compared.selected,
        )

    def _tell(self, trajectory: str, step: int, content: Mapping[str, Any]) -> None:
        assessment = content["assessment"] or {}
        audit = content["audit"] or {}
        missed, error = audit.get("missed_error_rate") or {}, audit.get("force_error") or {}
        self._journal.tell(
            Calibrated(
                trajectory=trajectory,
                step=step,
                ready=content["ready"],
                threshold=content["threshold"],
                threshold_source=content["threshold_source"],
                in_distribution=content["in_distribution"],
                scale=content["scale"],
                threshold_bound=content["threshold_bound"],
                n_pairs=content["n_pairs"],
                coverage=(assessment.get("coverage") or {}).get("value"),
                auc=(assessment.get("auc") or {}).get("value"),
                missed_error_rate=missed.get("value"),
                missed_error_rate_low=missed.get("low"),
                missed_error_rate_high=missed.get("high"),
                force_error=error.get("value"),
                force_error_low=error.get("low"),
                force_error_high=error.get("high"),
            )
        )

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next, for a checkpoint."""
        return {"calibration": self._calibration.state(), "compared": self._compared.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned and write ``calibration.json`` anew."""
        self._calibration.restore(state["calibration"])
        self._compared = _Compared.from_state(state["compared"])
        self.write()


def _bound_curve(calibration: Calibration) -> dict[str, list[float]]:
    """The bound on the force error (eV/Å) along u."""
    u, error = calibration.bound_curve()
    return {"u": u.tolist(), "error": error.tolist()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
