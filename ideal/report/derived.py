"""What the figures need beyond the files: structure, motion, order and descriptor maps, each computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ideal.analysis.msd import mean_squared_displacement
from ideal.analysis.order import steinhardt
from ideal.analysis.rdf import RadialDistribution, radial_distribution
from ideal.analysis.soap_map import FeatureMap, map_features
from ideal.errors import IdealError
from ideal.records import FloatArray
from ideal.report.data import RunData
from ideal.report.frames import TrajectoryFrames

GROUPS = ("raw crops", "training set", "embedded cells")
"""Groups of the descriptor map, in the order in which they are drawn."""

_ATOMS_IN_ALL = 40_000  # frames are thinned until they hold about this many atoms, so that large systems stay cheap
_LARGEST_FRAME = 200_000
_MAP_STRUCTURES = 150


@dataclass(frozen=True)
class Structure:
    """How one trajectory changed.

    Attributes:
        times: (n_frames,) fs.
        msd: (n_frames,) Å² since the first frame; empty where the number of atoms changes.
        rdf_before, rdf_after: over the first and the last tenth of the frames; None where not computed.
        order_times, order: (n,) fs and the mean of the neighbor-averaged q_6.
    """

    times: FloatArray
    msd: FloatArray
    rdf_before: RadialDistribution | None
    rdf_after: RadialDistribution | None
    order_times: FloatArray
    order: FloatArray


@dataclass(frozen=True)
class Derived:
    """Results of the analysis of one run; ``notes`` says what could not be computed and why."""

    structures: Mapping[str, Structure]
    soap_map: FeatureMap | None
    notes: tuple[str, ...]


def derive(run: RunData) -> Derived:
    """Analyze the trajectories and structures of a run."""
    notes: list[str] = []
    structures = {name: _structure(name, frames, notes) for name, frames in run.frames.items()}
    return Derived(structures, _soap_map(run, notes), tuple(notes))


def _structure(name: str, frames: TrajectoryFrames, notes: list[str]) -> Structure:
    atoms = frames.atoms
    sizes = {len(frame) for frame in atoms}
    msd = np.zeros(0)
    if len(sizes) == 1 and len(atoms) > 1:
        try:
            msd = mean_squared_displacement(
                np.array([frame.positions for frame in atoms]),
                np.array([frame.cell.array for frame in atoms]),
                atoms[0].pbc,
                remove_drift=True,
            )
        except IdealError as error:
            notes.append(f"Trajectory {name}: no mean squared displacement ({error}).")
    elif len(sizes) > 1:
        notes.append(f"Trajectory {name}: the number of atoms changes, so no displacement is shown.")
    before = after = None
    order_times, order = np.zeros(0), np.zeros(0)
    if max(sizes) > _LARGEST_FRAME:
        notes.append(f"Trajectory {name}: frames of {max(sizes):,} atoms are too large for the report's RDF and order.")
    else:
        before, after = _distributions(name, atoms, notes)
        order_times, order = _order(name, frames, notes)
    return Structure(frames.times, msd, before, after, order_times, order)


def _distributions(
    name: str, frames: list[Atoms], notes: list[str]
) -> tuple[RadialDistribution | None, RadialDistribution | None]:
    if len(frames) < 2:
        return None, None
    tenth = max(1, len(frames) // 10)
    at_most = max(1, min(20, _ATOMS_IN_ALL // len(frames[0])))
    r_max = _largest_radius(frames[0])
    bins = int(np.ceil(r_max / 0.05))
    try:
        return (
            radial_distribution(_thinned(frames[:tenth], at_most), r_max, bins),
            radial_distribution(_thinned(frames[-tenth:], at_most), r_max, bins),
        )
    except IdealError as error:
        notes.append(f"Trajectory {name}: no radial distribution ({error}).")
        return None, None


def _largest_radius(frame: Atoms) -> float:
    """Half the smallest periodic height, between 4 and 10 Å."""
    if not frame.pbc.any() or frame.cell.rank < 3:
        return 10.0
    heights = 1.0 / np.linalg.norm(frame.cell.reciprocal(), axis=1)
    return float(np.clip(heights[frame.pbc].min() / 2, 4.0, 10.0))


def _order(name: str, frames: TrajectoryFrames, notes: list[str]) -> tuple[FloatArray, FloatArray]:
    count = int(np.clip(_ATOMS_IN_ALL // len(frames.atoms[0]), 2, 30))
    which = np.unique(np.linspace(0, len(frames.atoms) - 1, min(count, len(frames.atoms))).round().astype(int))
    try:
        order = [float(steinhardt(frames.atoms[k]).averaged.mean()) for k in which]
    except IdealError as error:
        notes.append(f"Trajectory {name}: no bond order ({error}).")
        return np.zeros(0), np.zeros(0)
    return frames.times[which], np.array(order)


def _thinned(items: list[Atoms], at_most: int) -> list[Atoms]:
    which = np.unique(np.linspace(0, len(items) - 1, min(at_most, len(items))).round().astype(int))
    return [items[k] for k in which]


def _soap_map(run: RunData, notes: list[str]) -> FeatureMap | None:
    accepted = [cell for cell in run.cells if cell.info.get("accepted", True)]
    by_group = dict(zip(GROUPS, (list(run.crops), list(run.initial_labels), accepted), strict=True))
    species = sorted({symbol for items in by_group.values() for atoms in items for symbol in atoms.symbols})
    if not run.config or not species:
        return None
    from ideal.soap import SoapPowerSpectrum

    options = run.config.uncertainty.soap.model_dump()
    if options["species_weights"] is not None:
        options["species_weights"] = {symbol: options["species_weights"].get(symbol, 1.0) for symbol in species}
    soap = SoapPowerSpectrum(species=species, **options)
    try:
        rows = {
            name: np.concatenate([soap.create(atoms) for atoms in _thinned(items, _MAP_STRUCTURES)])
            if items
            else np.zeros((0, soap.n_features))
            for name, items in by_group.items()
        }
        return map_features(rows, max_points=1500)
    except IdealError as error:
        notes.append(f"No map of environments ({error}).")
        return None
