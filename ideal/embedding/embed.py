"""Embed one atom's surroundings into a small periodic cell whose filler looks like known environments.

    frame, center -> crops with matched seams -> repaired -> ranked -> best three optimized -> accepted or refused

Small cells come first: core radius and margin start at the configured values and grow only where the small
cell is refused. A crop is ranked by the mean of log(1 + u²) over its filler, plus the same of what its core
exceeds the frame by, times (1 + atoms removed to repair its formula). The filler of the best three is optimized,
first in a fixed cell, then with the cut axes free. A cell is accepted when every filler atom's u is below the
threshold (times ``young_factor`` while the distribution is young), no core atom is much less known than it was in
the frame, and no filler is in contact.

A frame that a crop could hardly undercut is returned whole; so is one of at most ``max_atoms`` atoms whose cells were
refused, with the reason.

Kong et al. (2023), section 2.1 and S1; `ideal.embedding` lists what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import find_mic
from scipy.spatial import cKDTree

from ideal.config import EmbeddingConfig
from ideal.embedding.composition import choose_composition
from ideal.embedding.crop import FrameView, Surroundings
from ideal.embedding.distances import CONTACT, ShortestDistances, contact_in
from ideal.embedding.filler import FillerOptimization, Optimized, smallest_room
from ideal.embedding.saturation import cut_cluster
from ideal.embedding.search import EmbeddingUncertainty, Search
from ideal.errors import EmbeddingError
from ideal.records import BoolArray, FloatArray, Frame, IntArray, Provenance, Substructure

DEFAULT_THRESHOLD = 2.0
"""u above which an environment counts as unknown when the caller names no threshold."""

GROWTH_MARGIN = 1.0
"""The margin grows by this (Å) at the first, third ... repetition."""

GROWTH_CORE = 0.5
"""The core grows by this (Å) at the second, fourth ... repetition."""

MOVED = 0.01
"""Filler displaced by more than this (Å) counts as moved."""


def embed(
    atoms: Atoms | Frame,
    index: int | Sequence[int],
    uncertainty: EmbeddingUncertainty,
    rng: int | np.random.Generator = 0,
    config: EmbeddingConfig | None = None,
    threshold: float | None = None,
    ratio: str | Mapping[str, int] | None = None,
    min_distances: Mapping[tuple[int, int], float] | None = None,
) -> Substructure:
    """A small periodic cell around one atom of a frame.

    Args:
        atoms: the frame: bulk, slab, wire or cluster, with a cell of any shape. A `Frame` tells the cell its
            trajectory and step too.
        index: the center; a negative index counts from the end. Several atoms that lie close together share one cell:
            the core is the sphere around their middle, and no smaller than what takes all of them in; the first
            named is the ``center`` of the cell.
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
    trajectory, step = (atoms.trajectory, atoms.step) if isinstance(atoms, Frame) else ("", None)
    atoms = atoms.atoms if isinstance(atoms, Frame) else atoms
    config = config or EmbeddingConfig()
    threshold = DEFAULT_THRESHOLD if threshold is None else float(threshold)
    centers = list(index) if isinstance(index, Sequence | np.ndarray) else [index]
    centers = _check(atoms, centers, uncertainty, threshold)
    middle, reach = _middle(atoms, centers)
    if reach >= config.r_core:
        config = config.model_copy(update={"r_core": reach + GROWTH_CORE})
    generator = np.random.default_rng(rng)
    shortest = ShortestDistances(min_distances)
    view = FrameView(atoms, centers[0], origin=middle, vacuum=float(uncertainty.soap.support))
    young = sum(uncertainty.counts.values()) < config.young_environments
    limit = threshold * (config.young_factor if young else 1.0)

    cell = _make(atoms, centers[0], view, uncertainty, config, threshold, limit, ratio, shortest, generator)
    own = np.flatnonzero(cell.core & (cell.parent_indices == centers[0]))
    center = cell.center if cell.center in own else int(own[0])
    return replace(cell, center=center, trajectory=trajectory, step=step)


def _make(
    atoms: Atoms,
    index: int,
    view: FrameView,
    uncertainty: EmbeddingUncertainty,
    config: EmbeddingConfig,
    threshold: float,
    limit: float,
    ratio: str | Mapping[str, int] | None,
    shortest: ShortestDistances,
    generator: np.random.Generator,
) -> Substructure:
    """The cell around the middle of ``view``."""
    if config.output == "cluster":
        return _cluster(atoms, view, uncertainty, config, threshold, limit, shortest)
    search = Search(uncertainty, threshold, limit, shortest, config, generator)
    for r_core, margin in _sizes(config):
        surroundings = view.surroundings(r_core, margin, config.max_atoms)
        touching = _core_contact(surroundings, shortest)
        if touching:
            return replace(_refused_core(atoms, surroundings, uncertainty, limit, touching), physical=False)
        if _hardly_smaller(surroundings, len(atoms)):
            if len(atoms) <= config.max_atoms:
                return _whole_frame(atoms, index, uncertainty, limit, shortest)
            search.notes.append(
                f"a cell with r_core {r_core:g} Å and margin {margin:g} Å is the whole frame of {len(atoms)} atoms"
            )
            break
        search.composition = choose_composition(atoms, surroundings, ratio, config)
        if search.attempt(surroundings, view.lengths * view.periodic):
            break
    best = search.best
    if best is not None and search.accepts(best):
        return _substructure(atoms, best, search, "")
    reason = search.reason()
    if len(atoms) <= config.max_atoms:
        return _whole_frame(atoms, index, uncertainty, limit, shortest, reason)
    if best is None:
        return _refused_core(atoms, surroundings, uncertainty, limit, reason)
    return _substructure(atoms, best, search, reason)


def _check(atoms: Atoms, centers: Sequence[int], uncertainty: EmbeddingUncertainty, threshold: float) -> list[int]:
    """The centers counted from the front; raises for input that no cell can be made of."""
    n_atoms = len(atoms)
    if not centers:
        raise EmbeddingError("no atom was named; give the index of at least one")
    for index in centers:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not -n_atoms <= index < n_atoms:
            raise EmbeddingError(f"atom {index!r} is not in the frame; valid: 0 to {n_atoms - 1}")
    if not threshold > 0:
        raise EmbeddingError(f"threshold {threshold} is not positive; give a value of u such as {DEFAULT_THRESHOLD}")
    if not np.isfinite(atoms.positions.sum()):  # looks at every atom only where something is wrong
        wrong = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        raise EmbeddingError(
            f"{len(wrong)} of {n_atoms} positions are not finite (first: atom {wrong[0]}); the dynamics exploded "
            "before this frame, use an earlier one"
        )
    if not np.isfinite(atoms.cell.array).all():
        raise EmbeddingError(f"the cell {atoms.cell.array.tolist()} is not finite; use an earlier frame")
    known = {s for s in uncertainty.soap.species if uncertainty.counts.get(s, 0) > 1}
    present = {chemical_symbols[z] for z in np.flatnonzero(np.bincount(atoms.numbers))}
    if present - known:
        raise EmbeddingError(
            f"the uncertainty knows no environment of {', '.join(sorted(present - known))} (it knows "
            f"{', '.join(sorted(known)) or 'none'}); update it with structures that contain every element of the frame"
        )
    return [int(index) % n_atoms for index in centers]


def _middle(atoms: Atoms, centers: Sequence[int]) -> tuple[FloatArray, float]:
    """The middle (3,) of the centers, and the distance of the farthest one from it, Å."""
    first = atoms.positions[centers[0]]
    if len(centers) == 1:
        return first, 0.0
    vectors, _ = find_mic(atoms.positions[centers] - first, atoms.cell, atoms.pbc)
    middle = vectors.mean(axis=0)
    return first + middle, float(np.linalg.norm(vectors - middle, axis=1).max())


def _sizes(config: EmbeddingConfig) -> Iterator[tuple[float, float]]:
    """(r_core, margin) of the attempts: margin and core grow in turn."""
    for k in range(config.growth_attempts + 1):
        yield config.r_core + GROWTH_CORE * (k // 2), config.margin + GROWTH_MARGIN * ((k + 1) // 2)


def _hardly_smaller(surroundings: Surroundings, n_atoms: int) -> bool:
    whole = all(axis.kind == "whole" for axis in surroundings.axes)
    return whole or surroundings.typical_count() >= n_atoms


def _core_contact(surroundings: Surroundings, shortest: ShortestDistances) -> str:
    """Names the closest pair of core atoms in contact; empty when there is none."""
    core = np.flatnonzero(surroundings.core)
    numbers, vectors = surroundings.numbers[core], surroundings.vectors[core]
    first, second = cKDTree(vectors).query_pairs(CONTACT * shortest.longest(numbers), output_type="ndarray").T
    distances = np.linalg.norm(vectors[first] - vectors[second], axis=1)
    return shortest.contact(numbers, surroundings.parents[core], first, second, distances)


def _plain(atoms: Atoms, parent: Atoms, parents: IntArray) -> Atoms:
    """``atoms`` with the initial charges and magnetic moments of the frame's atoms."""
    for name in ("initial_magmoms", "initial_charges"):
        if name in parent.arrays:
            atoms.set_array(name, parent.arrays[name][parents])
    return atoms


def _substructure(frame: Atoms, result: Optimized, search: Search, reason: str) -> Substructure:
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
        composition=search.composition.text,
    )


def _cluster(
    frame: Atoms,
    view: FrameView,
    uncertainty: EmbeddingUncertainty,
    config: EmbeddingConfig,
    threshold: float,
    limit: float,
    shortest: ShortestDistances,
) -> Substructure:
    """A cluster in vacuum; its filler is optimized where every element is known, but not judged by u.

    The surface of a cluster is unlike the bulk by construction; what must hold is that nothing touches.
    """
    surroundings = view.surroundings(config.r_core, config.margin, config.max_atoms)
    touching = _core_contact(surroundings, shortest)
    crop, caps = cut_cluster(surroundings, config.r_core + 0.5 * config.margin)
    start, reference = crop.atoms(), np.zeros(len(crop))
    known = {symbol for symbol, count in uncertainty.counts.items() if count > 1}
    unknown = sorted(set(start.get_chemical_symbols()) - known)
    if unknown:
        u_before = np.full(len(crop), np.nan)
        vectors, u, closest = crop.vectors, u_before, smallest_room(crop, shortest)
    else:
        u_before = uncertainty.atomic(start)
        reference[crop.core] = u_before[crop.core]
        optimization = FillerOptimization(crop, reference, uncertainty, threshold, shortest)
        result = optimization.run(config.max_evaluations)
        vectors, u, closest = result.vectors, result.u, result.closest
    reason = touching
    if not reason and closest < CONTACT:
        reason = f"a filler atom is at {closest:.2f} of the shortest known distance, allowed is {CONTACT}"
    if not reason and len(crop) > config.max_atoms:
        reason = (
            f"the cluster holds {len(crop)} atoms, embedding.max_atoms is {config.max_atoms}; lower r_core or margin"
        )
    cell = crop.atoms(vectors)
    if not caps.any():
        cell = _plain(cell, frame, crop.parents)
    cell.set_array("crop_positions", crop.vectors - crop.corner)
    provenance = np.full(len(crop), int(Provenance.KEPT), dtype=np.int64)
    provenance[np.linalg.norm(vectors - crop.vectors, axis=1) > MOVED] = Provenance.MOVED
    provenance[caps] = Provenance.CAP
    provenance[crop.core] = Provenance.CORE
    filler_u = u[~crop.core]
    return Substructure(
        atoms=cell,
        core=crop.core,
        center=crop.center,
        parent_indices=crop.parents,
        provenance=provenance,
        u_before=u_before,
        u=u,
        max_u=float(filler_u.max(initial=0.0)),
        threshold=limit,
        accepted=not reason,
        reason=reason,
        composition=f"whole molecules, {int(caps.sum())} hydrogen caps",
        physical=not touching,
    )


def _whole_frame(
    atoms: Atoms,
    index: int,
    uncertainty: EmbeddingUncertainty,
    limit: float,
    shortest: ShortestDistances,
    reason: str = "",
) -> Substructure:
    """The frame as it is, refused where atoms of it are in contact; ``reason`` says why no smaller cell would do."""
    touching = contact_in(atoms, shortest)
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
        accepted=not touching,
        reason=touching or reason,
        whole_frame=True,
        physical=not touching,
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
