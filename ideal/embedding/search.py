"""Drawing, ranking and optimizing crops of one size, and remembering the best of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ideal.config import EmbeddingConfig
from ideal.embedding.composition import Composition, Crop, build_crop
from ideal.embedding.crop import Surroundings
from ideal.embedding.distances import CONTACT, ShortestDistances
from ideal.embedding.filler import CORE_TOLERANCE, FillerOptimization, FillerUncertainty, Optimized
from ideal.embedding.seam import seam_table
from ideal.records import FloatArray

OPTIMIZED_CROPS = 3
"""How many of the ranked crops are optimized."""

SCREEN = 30
"""Evaluations that each of them gets before the more promising ones go on."""

CONTINUED_CROPS = 2
"""How many of them go on to ``max_evaluations``."""

HOPELESS = 1.6
"""A crop that still exceeds the threshold by this factor after `SCREEN` evaluations does not go on."""

DISTINCT = 0.25
"""Two crops whose faces all lie within this (Å) of each other count as one."""

DRAWS = ((8, 0.12), (40, 0.25))
"""(best seams drawn from, tolerated relative deviation of the density): the second only where the first fails."""


class _Descriptor(Protocol):
    @property
    def species(self) -> Sequence[str]: ...
    @property
    def support(self) -> float: ...


class EmbeddingUncertainty(FillerUncertainty, Protocol):
    """What the embedding needs of an uncertainty (`ideal.uncertainty.mahalanobis.SoapMahalanobis` has it)."""

    @property
    def soap(self) -> _Descriptor:
        """Descriptor with ``species`` (chemical symbols) and ``support`` (Å)."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Environments learned, by chemical symbol."""
        ...


class Search:
    """Draws, ranks and optimizes crops, and remembers the best."""

    def __init__(
        self,
        uncertainty: EmbeddingUncertainty,
        threshold: float,
        limit: float,
        shortest: ShortestDistances,
        config: EmbeddingConfig,
        rng: np.random.Generator,
    ) -> None:
        self.uncertainty, self.threshold, self.limit = uncertainty, threshold, limit
        self.shortest, self.config, self.rng = shortest, config, rng
        self.best: Optimized | None = None
        self.frame_u: dict[int, float] = {}
        self.notes: list[str] = []
        self.composition = Composition()
        self.lost = _Lost()
        self.drawn = 0
        self.optimized = 0

    def attempt(self, surroundings: Surroundings, periods: FloatArray) -> bool:
        """Try cells of one size; true when one is accepted."""
        seams = {
            c: seam_table(surroundings, c, periods[c] or np.inf, self.rng)
            for c, axis in enumerate(surroundings.axes)
            if axis.kind == "cut"
        }
        density = _density(surroundings)
        structure, core, parents = surroundings.open_structure()
        u = self.uncertainty.atomic(structure, core)
        self.frame_u = dict(zip(parents.tolist(), u.tolist(), strict=True))
        for best_seams, tolerance in DRAWS:
            crops: list[Crop] = []
            lost = _Lost()
            for _ in range(3 * self.config.n_crops):
                if len(crops) == self.config.n_crops:
                    break
                lo, hi = surroundings.largest_box()
                for c, axis in enumerate(surroundings.axes):
                    if c in seams:
                        lo[c], hi[c] = seams[c].draw(self.rng, best_seams)
                    elif axis.kind == "surface":
                        face = surroundings.r_core + self.rng.uniform(0.0, surroundings.margin)
                        lo[c], hi[c] = (lo[c], face) if axis.open_low else (-face, hi[c])
                rule = self.composition
                crop = build_crop(surroundings, lo, hi, self.shortest, rule.ratio, charges=rule.charges)
                if lost.keep(crop, density, tolerance, self.config.max_atoms):
                    assert crop is not None
                    crops.append(crop)
            self.lost.add(lost)
            self.drawn += len(crops)
            if self._optimize(_distinct(self._ranked(crops))[:OPTIMIZED_CROPS]):
                return True
            if crops:
                break
        return self.best is not None and self.accepts(self.best)

    def accepts(self, result: Optimized) -> bool:
        """Whether the cell may be labelled and learned."""
        return result.excess(self.limit) < 1.0 and not result.in_contact

    def _ranked(self, crops: list[Crop]) -> list[Crop]:
        def score(crop: Crop) -> float:
            squared = self.uncertainty.atomic(crop.atoms()) ** 2
            known = np.maximum(self._reference(crop), self.threshold)[crop.core]
            filler = float(np.log1p(squared[~crop.core]).sum()) / max(int((~crop.core).sum()), 1)
            core = float(np.log1p(np.maximum(squared[crop.core] - known**2, 0.0)).mean())
            return (filler + core) * (1 + crop.removed)

        scores = [score(crop) for crop in crops]
        return [crops[k] for k in np.argsort(scores, kind="stable")]

    def _reference(self, crop: Crop) -> FloatArray:
        """u (n,) of the core atoms in the frame, 0 for filler."""
        reference = np.zeros(len(crop))
        reference[crop.core] = [self.frame_u[parent] for parent in crop.parents[crop.core].tolist()]
        return reference

    def _optimize(self, crops: list[Crop]) -> bool:
        """Optimize crops until one is below the threshold, the cell fixed at first; the promising ones for longer."""
        runs = []
        for crop in crops:
            runs.append(
                FillerOptimization(crop, self._reference(crop), self.uncertainty, self.threshold, self.shortest)
            )
            self.optimized += 1
            if self._improve(runs[-1], min(SCREEN, self.config.max_evaluations)):
                return True
        if self.best is not None and self.accepts(self.best):
            return True
        runs = [run for run in runs if run.result.excess(self.threshold) < HOPELESS]
        runs = sorted(runs, key=lambda run: self._badness(run.result))[:CONTINUED_CROPS]
        for run in runs:
            if self._improve(run, self.config.max_evaluations):
                return True
        if self.config.optimize_cell:
            for run in sorted(runs, key=lambda run: self._badness(run.result))[:1]:
                if run.crop.cut.any():
                    strained = FillerOptimization(
                        run.crop, run.reference, self.uncertainty, self.threshold, self.shortest, True, run.result
                    )
                    if self._improve(strained, self.config.max_evaluations // 3):
                        return True
        return self.best is not None and self.accepts(self.best)

    def _improve(self, run: FillerOptimization, max_evaluations: int) -> bool:
        """Go on with one optimization; true when it came below the threshold itself."""
        result = run.run(max_evaluations)
        if self.best is None or self._badness(result) < self._badness(self.best):
            self.best = result
        return result.excess(self.threshold) < 1.0 and not result.in_contact

    def _badness(self, result: Optimized) -> tuple[bool, float]:
        return result.in_contact, result.excess(self.limit)

    def reason(self) -> str:
        """Why nothing was accepted, in numbers, and what to do."""
        remedy = (
            "raise embedding.margin, growth_attempts or max_atoms, or let the distribution learn a frame of this state"
        )
        if self.lost.total:
            dropped = f"{self.lost.total} of {self.lost.total + self.drawn} drawn crops were dropped: "
            self.notes.append(dropped + self.lost.describe(self.config.max_atoms))
        if self.best is None:
            return f"{'; '.join(self.notes)}; {remedy}"
        text = (
            f"the filler reaches u = {self.best.max_u:.2f}, allowed is {self.limit:.2f}, in the best of "
            f"{self.optimized} optimized crops ({len(self.best.crop)} atoms)"
        )
        core = self.best.u / np.maximum(self.limit, CORE_TOLERANCE * self.best.reference)
        core[~self.best.crop.core] = 0.0
        if core.max() >= 1.0:
            k = int(np.argmax(core))
            text += f"; a core atom reaches u = {self.best.u[k]:.2f} (in the frame {self.best.reference[k]:.2f})"
        if self.best.in_contact:
            text += f"; two atoms are at {self.best.closest:.2f} of the shortest known distance, allowed is {CONTACT}"
        return "; ".join([text, *self.notes, remedy])


def _distinct(crops: list[Crop]) -> list[Crop]:
    """The crops without those that all but repeat an earlier one."""
    kept: list[Crop] = []
    for crop in crops:
        if not any(
            max(float(np.abs(crop.corner - other.corner).max()), float(np.abs(crop.cell - other.cell).max())) < DISTINCT
            for other in kept
        ):
            kept.append(crop)
    return kept


@dataclass
class _Lost:
    """Why drawn crops were dropped."""

    broken: int = 0
    dense: int = 0
    large: int = 0

    def keep(self, crop: Crop | None, density: float | None, tolerance: float, max_atoms: int) -> bool:
        if crop is None:
            self.broken += 1
            return False
        if len(crop) > max_atoms:
            self.large += 1
            return False
        if density is not None:
            own = len(crop) / abs(float(np.linalg.det(crop.cell)))
            if abs(own / density - 1.0) > tolerance:
                self.dense += 1
                return False
        return True

    @property
    def total(self) -> int:
        """All dropped crops."""
        return self.broken + self.dense + self.large

    def add(self, other: _Lost) -> None:
        """Count those of ``other`` too."""
        self.broken += other.broken
        self.dense += other.dense
        self.large += other.large

    def describe(self, max_atoms: int) -> str:
        """How many for which cause."""
        tolerances = " or ".join(f"{tolerance:.0%}" for _, tolerance in DRAWS)
        causes = (
            (self.broken, "broke the core or the composition"),
            (self.dense, f"missed the local density by more than {tolerances}"),
            (self.large, f"held more than max_atoms = {max_atoms} atoms"),
        )
        return ", ".join(f"{n} {what}" for n, what in causes if n)


def _density(surroundings: Surroundings) -> float | None:
    """Atoms per Å³ near the center; None where a surface or a particle's end leaves it undefined."""
    if any(axis.kind == "surface" for axis in surroundings.axes) or surroundings.hold_open_space():
        return None
    weights, volume = surroundings.weights()
    return float(weights.sum()) / volume
