"""Calibration and audits on made-up errors whose truth is known; writes ``docs/benchmarks/calibration_synthetic.md``.

    python benchmarks/calibration_synthetic.py

Two minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ideal.audit import AuditSchedule, estimate_audit
from ideal.records import FloatArray
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.conformal import conformal_scale, fit_error_bound

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "calibration_synthetic.md"
CONFIDENCE = 0.9


def heavy_tailed(
    rng: np.random.Generator, cells: int, atoms: int, alike: float
) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """u, error, cell: a floor, growth as u², Student's t with 2.1 degrees; ``alike`` correlates the atoms of a cell."""
    u = rng.lognormal(0, 0.4, (cells, 1)) * rng.lognormal(0, 0.4, (cells, atoms))
    z = np.sqrt(alike) * rng.standard_normal((cells, 1)) + np.sqrt(1 - alike) * rng.standard_normal((cells, atoms))
    chi = np.sqrt(rng.chisquare(2.1, (cells, 1 if alike else atoms)) / 2.1)
    return u.ravel(), ((0.05 + 0.05 * u**2) * np.abs(z / chi)).ravel(), np.repeat(np.arange(cells), atoms)


def coverage_rows() -> list[str]:
    rows = []
    for cells, atoms, alike in (
        (20, 1, 0.0),
        (60, 1, 0.0),
        (200, 1, 0.0),
        (10, 40, 0.95),
        (20, 40, 0.95),
        (60, 40, 0.5),
    ):
        rng = np.random.default_rng(0)
        covered = []
        for _ in range(400):
            u, error, cell = heavy_tailed(rng, cells, atoms, alike)
            new_u, new_error, _ = heavy_tailed(rng, 1000, 1, 0.0)
            by_atom = conformal_scale(u, error, np.arange(u.size), CONFIDENCE)
            by_cell = conformal_scale(u, error, cell, CONFIDENCE)
            shaped = fit_error_bound(u, error, cell, CONFIDENCE)
            bounds = by_atom * new_u, by_cell * new_u, shaped(new_u)
            covered.append([(new_error <= bound).mean() for bound in bounds])
        mean, deviation = np.mean(covered, axis=0), np.std(covered, axis=0) / np.sqrt(len(covered))
        columns = " | ".join(f"{m:.3f} ± {d:.3f}" for m, d in zip(mean, deviation, strict=True))
        rows.append(f"| {cells} | {atoms} | {alike:g} | {columns} |")
    return rows


RUNS: dict[str, Callable[[int], float]] = {
    "nothing changes": lambda k: 1.0,
    "errors fall as 1/√n": lambda k: (1 + k / 20) ** -0.5,
    "error / g doubles gradually": lambda k: 2 * (1 + k / 20) ** 0.5 / 4,
    "doubles at once after 150 cells": lambda k: 1.0 if k < 150 else 2.0,
}


def fading_rows() -> list[str]:
    """Coverage of the next cells of a run of 300 cells, in four stretches."""
    stretches = ((20, 60), (60, 150), (150, 200), (200, 300))

    def cell(rng: np.random.Generator, level: float) -> tuple[FloatArray, FloatArray]:
        u = rng.lognormal(0, 0.3) * rng.lognormal(0, 0.4, 15)
        return u, level * (0.05 + 0.05 * u) * np.exp(
            0.7 * (0.7 * rng.standard_normal() + 0.71 * rng.standard_normal(15))
        )

    rows = []
    for name, level in RUNS.items():
        for half_life in (25.0, 50.0, 100.0, math.inf):
            covered: list[list[float]] = [[] for _ in stretches]
            for seed in range(6):
                rng, calibration = np.random.default_rng(seed), Calibration(CONFIDENCE, half_life=half_life)
                for k in range(300):
                    inside = next((i for i, (low, high) in enumerate(stretches) if low <= k < high), None)
                    if inside is not None and k % 4 == 0:
                        u, error = (
                            np.concatenate(x) for x in zip(*[cell(rng, level(k)) for _ in range(20)], strict=True)
                        )
                        covered[inside].append(float((error <= calibration.bound(u)).mean()))
                    calibration.add(str(k), "selected", *cell(rng, level(k)))
            rows.append(f"| {name} | {half_life:g} | {' | '.join(f'{np.mean(c):.3f}' for c in covered)} |")
    return rows


def audit_rows() -> list[str]:
    """Audited runs: fixed environments in intervals, 5 % audits; estimate over truth, and coverage of its interval."""
    rows = []
    for sigma in (0.5, 1.0):
        for intervals in (40, 150, 600):
            rng = np.random.default_rng(12345)
            sizes, asks = rng.integers(20, 400, intervals), rng.integers(1, 4, intervals)
            errors = [np.exp(-2 + 0.3 * rng.standard_normal() + sigma * rng.standard_normal(n)) for n in sizes]
            uncertain = np.exp(-0.5 + sigma * rng.standard_normal(int(asks.sum())))
            certain = np.concatenate(errors)
            everything = np.concatenate([certain, uncertain])
            truth = np.array(
                [(certain > 0.3).mean(), certain.mean(), everything.mean(), np.sqrt((everything**2).mean())]
            )
            values, covered, numbers = [], [], []
            for seed in range(200):
                schedule, draws = AuditSchedule(0.05, seed), np.random.default_rng([seed, 1])
                error: list[float] = []
                weight: list[float] = []
                for n, ask, interval in zip(sizes.tolist(), asks.tolist(), errors, strict=True):
                    m = schedule.due(ask)
                    error += draws.choice(interval, m, replace=False).tolist()
                    weight += [n / schedule.expected(ask)] * m
                found = estimate_audit(
                    error,
                    weight,
                    n_certain=certain.size,
                    n_uncertain=uncertain.size,
                    tolerance=0.3,
                    uncertain_error=uncertain,
                    confidence=CONFIDENCE,
                )
                four = (found.missed_error_rate, found.certain_force_error, found.force_error, found.rms_force_error)
                values.append([estimate.value for estimate in four])
                covered.append(
                    [e.low <= true and (e.high is None or true <= e.high) for e, true in zip(four, truth, strict=True)]
                )
                numbers.append(found.n_audited)
            ratios = np.array(values) / truth
            spread = ratios.std(axis=0) / np.sqrt(len(ratios))
            columns = " | ".join(
                f"{r:.2f} ± {s:.2f}, {c:.2f}"
                for r, s, c in zip(ratios.mean(axis=0), spread, np.mean(covered, axis=0), strict=True)
            )
            rows.append(f"| {sigma:g} | {np.mean(numbers):.0f} | {columns} |")
    return rows


TEMPLATE = """# Calibration and audits on errors whose truth is known

    python benchmarks/calibration_synthetic.py

## Coverage at nominal 0.9

Errors with a floor, growing as u², with Student's t tails of 2.1 degrees; the atoms of a cell are alike to the stated
degree. Mean and standard error over 400 calibrations.

| cells | atoms per cell | alike | error / u, atoms counted | error / u, cells counted | error / g(u), cells counted |
| --- | --- | --- | --- | --- | --- |
{coverage}

## Fading

Coverage at nominal 0.9 of the next cells of a run, by stretches of cells, for different half-lives (in cells; the
default at 0.9 is 50). Six runs.

| run | half-life | 20-60 | 60-150 | 150-200 | 200-300 |
| --- | --- | --- | --- | --- | --- |
{fading}

## Audits

Estimate over truth with the standard error of its mean, and share of the 90 % intervals that hold the truth. Errors are
log-normal with the stated sigma, intervals differ in size and level. 200 audited runs.

| sigma | audits | missed-error rate | mean error, certain | mean error, all | rms error, all |
| --- | --- | --- | --- | --- | --- |
{audit}
"""


def main() -> None:
    PAGE.write_text(
        TEMPLATE.format(
            coverage="\n".join(coverage_rows()), fading="\n".join(fading_rows()), audit="\n".join(audit_rows())
        )
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
