"""Embed one atom's surroundings into a small periodic cell whose filler looks like known environments.

    frame, center -> crops with matched seams -> repaired -> ranked -> best three optimized -> accepted or refused

Small cells come first: core radius and margin start at the configured values and grow only where the small
cell is refused. A crop is ranked by the mean of log(1 + u²) over its filler, plus the same of what its core
exceeds the frame by, times (1 + atoms removed to repair its formula). The filler of the best three is optimized,
first in a fixed cell, then with the cut axes free. A cell is accepted when every filler atom's u is below the
threshold (times ``young_factor`` while the distribution is young), no core atom is much less known than it was in
the frame, and no filler is in contact.

A frame that a crop could hardly undercut is returned whole; so is a refused one that has at most
``max_atoms`` atoms.

Kong et al. (2023), section 2.1 and S1; `ideal.embedding` lists what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

from ideal.config import EmbeddingConfig
from ideal.embedding.composition import Crop, build_crop, formula_ratio, holds_near, parse_ratio
from ideal.embedding.crop import FrameView, Surroundings
from ideal.embedding.distances import CONTACT, ShortestDistances
from ideal.embedding.filler import CORE_TOLERANCE, FillerOptimization, FillerUncertainty, Optimized
from ideal.embedding.seam import seam_table
from ideal.errors import EmbeddingError
from ideal.records import BoolArray, FloatArray, IntArray, Provenance, Substructure

DEFAULT_THRESHOLD = 2.0
"""u above which an environment counts as unknown when the caller names no threshold."""

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

GROWTH_MARGIN = 1.0
"""The margin grows by this (Å) at the first, third ... repetition."""

GROWTH_CORE = 0.5
"""The core grows by this (Å) at the second, fourth ... repetition."""

MOVED = 0.01
"""Filler displaced by more than this (Å) counts as moved."""


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


def embed(
    atoms: Atoms,
    index: int,
    uncertainty: EmbeddingUncertainty,
    rng: int | np.random.Generator = 0,
    config: EmbeddingConfig | None = None,
    threshold: float | None = None,
    ratio: str | Mapping[str, int] | None = None,
    min_distances: Mapping[tuple[int, int], float] | None = None,
) -> Substructure:
    """A small periodic cell around one atom of a frame.

    Args:
        atoms: the frame: bulk, slab, wire or cluster, with a cell of any shape.
        index: the center; a negative index counts from the end.
        uncertainty: the distribution of known environments, usually a `SoapMahalanobis`.
        rng: seed or generator; the same seed gives the same cell.
        config: sizes and limits; None: the defaults.
        threshold: u above which an environment is unknown; None: `DEFAULT_THRESHOLD` (2).
        ratio: formula unit that the cell shall be made of, such as "Al2O3"; None: the frame's own reduced formula
            where it is small and holds near the center, else the composition is left as it was cut.
        min_distances: shortest distances of the training set (`minimum_distances`); None: from covalent radii.

    Returns:
        The cell. A refused one has ``accepted`` false and a ``reason``; it is the best that was found. The positions
        before the filler was optimized are in ``atoms.arrays["crop_positions"]``, the cell before it, where it changed,
        in ``atoms.info["crop_cell"]``.

    Raises:
        EmbeddingError: the index is out of range, a position is not finite, an element is unknown to the
            uncertainty, the cell is degenerate, or an argument is out of range.

    Example:
        >>> from ase.build import bulk
        >>> from ideal import SoapMahalanobis, SoapPowerSpectrum
        >>> frame = bulk("Cu", cubic=True).repeat(6)
        >>> frame.rattle(0.05, seed=1)
        >>> known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=5.0, n_max=4, l_max=3, sigma=0.5))
        >>> known.update([frame])
        >>> cell = embed(frame, 17, known)
        >>> cell.accepted, len(cell.atoms) < len(frame)
        (True, True)
    """
    config = config or EmbeddingConfig()
    threshold = DEFAULT_THRESHOLD if threshold is None else float(threshold)
    index = _check(atoms, index, uncertainty, threshold)
    generator = np.random.default_rng(rng)
    shortest = ShortestDistances(min_distances)
    view = FrameView(atoms, index, vacuum=float(uncertainty.soap.support))
    young = sum(uncertainty.counts.values()) < config.young_environments
    limit = threshold * (config.young_factor if young else 1.0)

    wanted = None if ratio is None else parse_ratio(ratio)
    search = _Search(uncertainty, threshold, limit, shortest, config, generator)
    for r_core, margin in _sizes(config):
        surroundings = view.surroundings(r_core, margin, config.max_atoms)
        touching = _core_contact(surroundings, shortest)
        if touching:
            return _refused_core(atoms, surroundings, uncertainty, limit, touching)
        if _hardly_smaller(surroundings, len(atoms)):
            if len(atoms) <= config.max_atoms:
                return _whole_frame(atoms, index, uncertainty, limit)
            search.notes.append(
                f"a cell with r_core {r_core:g} Å and margin {margin:g} Å is the whole frame of {len(atoms)} atoms"
            )
            break
        formula = wanted if wanted is not None else _formula(atoms, surroundings)
        if search.attempt(surroundings, view.lengths * view.periodic, formula):
            break
    best = search.best
    if best is not None and search.accepts(best):
        return _substructure(atoms, best, search, "")
    if len(atoms) <= config.max_atoms:
        return _whole_frame(atoms, index, uncertainty, limit)
    reason = search.reason()
    if best is None:
        return _refused_core(atoms, surroundings, uncertainty, limit, reason)
    return _substructure(atoms, best, search, reason)


class _Search:
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
        self.lost = _Lost()
        self.drawn = 0
        self.optimized = 0

    def attempt(self, surroundings: Surroundings, periods: FloatArray, ratio: Mapping[int, int] | None) -> bool:
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
                crop = build_crop(surroundings, lo, hi, self.shortest, ratio)
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
            filler = float(np.log1p(squared[~crop.core]).mean())
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
            text += (
                f"; a filler atom is at {self.best.closest:.2f} of the shortest known distance, allowed is {CONTACT}"
            )
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
    empty: int = 0

    def keep(self, crop: Crop | None, density: float | None, tolerance: float, max_atoms: int) -> bool:
        if crop is None:
            self.broken += 1
            return False
        if len(crop) > max_atoms:
            self.large += 1
            return False
        if crop.core.all():
            self.empty += 1
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
        return self.broken + self.dense + self.large + self.empty

    def add(self, other: _Lost) -> None:
        """Count those of ``other`` too."""
        self.broken += other.broken
        self.dense += other.dense
        self.large += other.large
        self.empty += other.empty

    def describe(self, max_atoms: int) -> str:
        """How many for which cause."""
        tolerances = " or ".join(f"{tolerance:.0%}" for _, tolerance in DRAWS)
        causes = (
            (self.broken, "broke the core or the composition"),
            (self.dense, f"missed the local density by more than {tolerances}"),
            (self.large, f"held more than max_atoms = {max_atoms} atoms"),
            (self.empty, "had no filler"),
        )
        return ", ".join(f"{n} {what}" for n, what in causes if n)


def _check(atoms: Atoms, index: int, uncertainty: EmbeddingUncertainty, threshold: float) -> int:
    """The index from the front; raises for input that no cell can be made of."""
    n_atoms = len(atoms)
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not -n_atoms <= index < n_atoms:
        raise EmbeddingError(f"atom {index!r} is not in the frame; valid: 0 to {n_atoms - 1}")
    if not threshold > 0:
        raise EmbeddingError(f"threshold {threshold} is not positive; give a value of u such as {DEFAULT_THRESHOLD}")
    wrong = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(wrong):
        raise EmbeddingError(
            f"{len(wrong)} of {n_atoms} positions are not finite (first: atom {wrong[0]}); the dynamics exploded "
            "before this frame, use an earlier one"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise EmbeddingError(f"the cell {atoms.cell.array.tolist()} is not finite; use an earlier frame")
    known = {s for s in uncertainty.soap.species if uncertainty.counts.get(s, 0) > 1}
    present = {chemical_symbols[z] for z in np.unique(atoms.numbers)}
    if present - known:
        raise EmbeddingError(
            f"the uncertainty knows no environment of {', '.join(sorted(present - known))} (it knows "
            f"{', '.join(sorted(known)) or 'none'}); update it with structures that contain every element of the frame"
        )
    return int(index) % n_atoms


def _sizes(config: EmbeddingConfig) -> Iterator[tuple[float, float]]:
    """(r_core, margin) of the attempts: margin and core grow in turn."""
    for k in range(config.growth_attempts + 1):
        yield config.r_core + GROWTH_CORE * (k // 2), config.margin + GROWTH_MARGIN * ((k + 1) // 2)


def _hardly_smaller(surroundings: Surroundings, n_atoms: int) -> bool:
    whole = all(axis.kind == "whole" for axis in surroundings.axes)
    return whole or surroundings.typical_count() >= n_atoms


def _formula(atoms: Atoms, surroundings: Surroundings) -> dict[int, int] | None:
    ratio = formula_ratio(atoms.numbers)
    return ratio if ratio is not None and holds_near(surroundings, ratio) else None


def _density(surroundings: Surroundings) -> float | None:
    """Atoms per Å³ near the center; None where an open surface leaves it undefined."""
    if any(axis.kind == "surface" for axis in surroundings.axes):
        return None
    weights, volume = surroundings.weights()
    return float(weights.sum()) / volume


def _core_contact(surroundings: Surroundings, shortest: ShortestDistances) -> str:
    """Names the closest pair of core atoms in contact; empty when there is none."""
    core = np.flatnonzero(surroundings.core)
    numbers, vectors = surroundings.numbers[core], surroundings.vectors[core]
    pairs = cKDTree(vectors).query_pairs(CONTACT * shortest.longest(numbers), output_type="ndarray")
    if not len(pairs):
        return ""
    first, second = pairs.T
    distance = np.linalg.norm(vectors[first] - vectors[second], axis=1)
    limit = CONTACT * shortest.of(numbers[first], numbers[second])
    worst = int(np.argmin(distance / limit))
    if distance[worst] >= limit[worst]:
        return ""
    a, b = core[first[worst]], core[second[worst]]
    names = "-".join(chemical_symbols[surroundings.numbers[k]] for k in (a, b))
    return (
        f"atoms {surroundings.parents[a]} and {surroundings.parents[b]} ({names}) of the core are "
        f"{distance[worst]:.3f} Å apart, in contact below {limit[worst]:.3f} Å; the frame is not physical there"
    )


def _plain(atoms: Atoms, parent: Atoms, parents: IntArray) -> Atoms:
    """``atoms`` with the initial charges and magnetic moments of the frame's atoms."""
    for name in ("initial_magmoms", "initial_charges"):
        if name in parent.arrays:
            atoms.set_array(name, parent.arrays[name][parents])
    return atoms


def _substructure(frame: Atoms, result: Optimized, search: _Search, reason: str) -> Substructure:
    crop = result.crop
    cell = _plain(crop.atoms(result.vectors, result.cell), frame, crop.parents)
    cell.set_array("crop_positions", crop.vectors - crop.corner)
    if not np.array_equal(result.cell, crop.cell):
        cell.info["crop_cell"] = crop.cell
    provenance = np.full(len(crop), int(Provenance.KEPT), dtype=np.int64)
    provenance[np.linalg.norm(result.vectors - crop.vectors, axis=1) > MOVED] = Provenance.MOVED
    provenance[crop.added] = Provenance.ADDED
    provenance[crop.core] = Provenance.CORE
    return Substructure(
        atoms=cell,
        core=crop.core,
        center=crop.center,
        parent_indices=crop.parents,
        provenance=provenance,
        u_before=search.uncertainty.atomic(crop.atoms()),
        u=result.u,
        max_u=result.max_u,
        threshold=search.limit,
        accepted=not reason,
        reason=reason,
    )


def _whole_frame(atoms: Atoms, index: int, uncertainty: EmbeddingUncertainty, limit: float) -> Substructure:
    everything = np.arange(len(atoms))
    whole = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    whole.set_array("crop_positions", atoms.positions)
    u = uncertainty.atomic(whole)
    core: BoolArray = np.ones(len(atoms), dtype=bool)
    return Substructure(
        atoms=_plain(whole, atoms, everything),
        core=core,
        center=index,
        parent_indices=everything,
        provenance=np.full(len(atoms), int(Provenance.CORE), dtype=np.int64),
        u_before=u,
        u=u,
        max_u=0.0,
        threshold=limit,
        accepted=True,
        whole_frame=True,
    )


def _refused_core(
    frame: Atoms, surroundings: Surroundings, uncertainty: EmbeddingUncertainty, limit: float, reason: str
) -> Substructure:
    """A refusal without a cell: the bare core, not periodic."""
    core = np.flatnonzero(surroundings.core)
    vectors, parents = surroundings.vectors[core], surroundings.parents[core]
    bare = Atoms(numbers=surroundings.numbers[core], positions=vectors - vectors.min(axis=0), pbc=False)
    bare.set_array("crop_positions", bare.positions)
    u = uncertainty.atomic(bare)
    return Substructure(
        atoms=_plain(bare, frame, parents),
        core=np.ones(len(core), dtype=bool),
        center=int(np.flatnonzero(core == surroundings.center)[0]),
        parent_indices=parents,
        provenance=np.full(len(core), int(Provenance.CORE), dtype=np.int64),
        u_before=u,
        u=u,
        max_u=0.0,
        threshold=limit,
        accepted=False,
        reason=reason,
    )
