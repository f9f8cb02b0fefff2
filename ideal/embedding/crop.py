"""The surroundings of the center, and how far a crop may reach along each axis of the frame.

Crops are hexahedra with the axis directions of the frame (of its Minkowski-reduced lattice where the cell is
badly skewed). Along axis c everything is measured by the *height* t_c: the distance of an atom from the plane
through the center that is parallel to the two other axes. The core sphere fits between two faces at t_c = lo
and hi exactly when lo <= -r_core and hi >= r_core, whatever the angles are, and moving an atom by (hi - lo)
``directions[c]`` carries one face onto the other.

Each axis takes one of three forms:

    cut      two faces in the material; the crop repeats with the period hi - lo
    whole    the frame's own lattice vector: the axis is short, or its vacuum lies within reach of the core
    surface  one face in the material, the other side runs through the surface into the vacuum; only where keeping the
             axis whole would hold too many atoms

An axis has vacuum when the frame is not periodic along it or leaves a gap wider than the descriptor reaches.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from ideal import _core
from ideal.embedding.distances import heights
from ideal.embedding.molecules import groups, representatives
from ideal.errors import EmbeddingError
from ideal.records import BoolArray, FloatArray, IntArray

SEAM_DEPTH = 2.5
"""Depth (Å) of the layers on both sides of a face that a seam compares; also the largest mismatch counted."""

WHOLE_REACH = 5.0
"""Images beyond the ends of a whole axis are collected up to here (Å), so that molecules across them are complete."""

SURFACE_GAP = 3.5
"""Empty stretch (Å) along a column of atoms that counts as leaving the material."""

GAP_BIN = 0.25
"""Resolution (Å) at which vacuum along a periodic axis is looked for."""

THIN = 0.6
"""Where one octant around the center holds less than this fraction of the fullest one's atoms, space is open."""

SKEW_GAIN = 1.02
"""The reduced lattice replaces the frame's own when this makes a box of given heights smaller by this factor."""

AxisKind = Literal["cut", "whole", "surface"]


@dataclass(frozen=True)
class Axis:
    """How a crop runs along one axis.

    Attributes:
        kind: "cut", "whole" or "surface" (see the module).
        lo: height (Å) at which a whole axis starts, or the open face of a surface axis; unused when cut.
        hi: height at which a whole axis ends, or the open face of a surface axis.
        open_low: a surface axis that is open at its low side.
        periodic: whether the crop is periodic along this axis.
    """

    kind: AxisKind
    lo: float = 0.0
    hi: float = 0.0
    open_low: bool = False
    periodic: bool = True


@dataclass(frozen=True)
class Surroundings:
    """The atoms near the center, periodic images included.

    Attributes:
        axes: three axes.
        directions: (3, 3) rows: the vector along each axis that raises the height by 1 Å.
        vectors: (n, 3) from the center, Å.
        heights: (n, 3) heights along the axes, Å.
        numbers: (n,) atomic numbers.
        parents: (n,) index in the frame.
        core: (n,) within r_core of the center.
        center: index of the center among them.
        r_core: Å.
        margin: largest distance (Å) of a face beyond the core.
    """

    axes: tuple[Axis, Axis, Axis]
    directions: FloatArray
    vectors: FloatArray
    heights: FloatArray
    numbers: IntArray
    parents: IntArray
    core: BoolArray
    center: int
    r_core: float
    margin: float

    @cached_property
    def group(self) -> IntArray:
        """(n,) molecule that each atom belongs to (`ideal.embedding.molecules`)."""
        return groups(self.numbers, self.vectors)

    @cached_property
    def representative(self) -> IntArray:
        """(n,) atom whose place decides for each atom's molecule."""
        return representatives(self.group, self.vectors)

    def within(self, lo: FloatArray, hi: FloatArray) -> BoolArray:
        """Which atoms lie in the box lo <= height < hi (each (3,), Å)."""
        return np.asarray(((self.heights >= lo) & (self.heights < hi)).all(axis=1))

    def largest_box(self) -> tuple[FloatArray, FloatArray]:
        """Faces (lo, hi), each (3,), of the largest crop that may be drawn."""
        half = self.r_core + self.margin
        lo, hi = np.empty(3), np.empty(3)
        for c, axis in enumerate(self.axes):
            lo[c], hi[c] = (-half, half) if axis.kind == "cut" else (axis.lo, axis.hi)
        return lo, hi

    def open_structure(self) -> tuple[Atoms, IntArray, IntArray]:
        """The surroundings as a structure in which the core atoms see what they see in the frame.

        Returns:
            The atoms, periodic along whole axes only; the indices of the core among them; their indices in the frame.
        """
        lo, hi = np.full(3, -np.inf), np.full(3, np.inf)
        pbc = [axis.kind == "whole" and axis.periodic for axis in self.axes]
        lengths = np.ones(3)
        for c in np.flatnonzero(pbc):
            lo[c], hi[c] = self.axes[c].lo, self.axes[c].hi
            lengths[c] = hi[c] - lo[c]
        chosen = np.flatnonzero(self.within(lo, hi))
        atoms = Atoms(
            numbers=self.numbers[chosen],
            positions=self.vectors[chosen],
            cell=self.directions * lengths[:, None],
            pbc=pbc,
        )
        core = np.flatnonzero(self.core[chosen])
        return atoms, core, self.parents[chosen[core]]

    def weights(self) -> tuple[FloatArray, float]:
        """Weights (n,) that fade from the center outward along cut axes, and their integral over space (Å³).

        Sums over them are local averages free of the steps by which a sharp box counts the layers of a crystal.
        """
        reach = self.r_core + self.margin + 2 * SEAM_DEPTH
        weights = np.ones(len(self.numbers))
        volume = abs(float(np.linalg.det(self.directions)))
        for c, axis in enumerate(self.axes):
            height = self.heights[:, c]
            if axis.kind == "cut":
                weights *= np.where(np.abs(height) < reach, np.cos(0.5 * np.pi * height / reach) ** 2, 0.0)
                volume *= reach
            else:
                weights *= (height >= axis.lo) & (height < axis.hi)
                volume *= axis.hi - axis.lo
        return weights, volume

    def hold_open_space(self) -> bool:
        """Whether the material thins out to some side (a particle, a pore), so that it has no one density."""
        weights, _ = self.weights()
        cut = [c for c, axis in enumerate(self.axes) if axis.kind == "cut"]
        side = (self.heights[:, cut] > 0.0) @ (1 << np.arange(len(cut)))
        share = np.bincount(side, weights=weights, minlength=2 ** len(cut))
        return bool(share.min() < THIN * share.max())

    def typical_count(self) -> int:
        """Number of atoms in a crop with average margins."""
        half = self.r_core + 0.5 * self.margin
        lo, hi = self.largest_box()
        for c, axis in enumerate(self.axes):
            if axis.kind == "cut" or (axis.kind == "surface" and axis.open_low is False):
                lo[c] = -half
            if axis.kind == "cut" or (axis.kind == "surface" and axis.open_low):
                hi[c] = half
        return int(self.within(lo, hi).sum())


class FrameView:
    """One frame seen from one place, and where its vacuum is. What passes over the whole frame is compiled.

    Args:
        atoms: the frame; any cell shape, any periodicity.
        index: the center.
        vacuum: reach of the descriptor (Å); a gap wider than this makes an axis a vacuum axis.
        origin: (3,) place to look from instead of the center, Å; None: the center.

    Raises:
        EmbeddingError: the lattice vectors of the periodic axes are missing or linearly dependent.
    """

    def __init__(self, atoms: Atoms, index: int, vacuum: float, origin: FloatArray | None = None) -> None:
        self.atoms = atoms
        self.periodic = np.array(atoms.pbc, dtype=bool)
        self.lattice = _axes(atoms)
        self.lengths = heights(self.lattice)
        """(3,) distance between opposite faces of the frame, Å."""
        self._frame = (
            np.ascontiguousarray(atoms.positions, dtype=np.float64),
            np.array(atoms.positions[index] if origin is None else origin, dtype=np.float64),
            np.ascontiguousarray(self.lattice, dtype=np.float64),
            np.linalg.inv(self.lattice),
            self.periodic,
        )
        starts = np.full(3, -0.5)
        bins = [
            max(1, int(length / GAP_BIN)) if p else 0 for p, length in zip(self.periodic, self.lengths, strict=True)
        ]
        occupied, low, high = _core.occupancy(*self._frame, starts, bins)
        self.has_vacuum = ~self.periodic
        for c in np.flatnonzero(self.periodic):
            width, middle = _largest_gap(occupied[c])
            if width * self.lengths[c] > vacuum:
                self.has_vacuum[c] = True
                middle -= 0.5
                starts[c] = middle - np.ceil(middle)
        if (self.has_vacuum & self.periodic).any():
            _, low, high = _core.occupancy(*self._frame, starts, [0, 0, 0])
        self.starts = starts * self.lengths
        self._starts = starts
        self._extent = np.array([low * self.lengths, high * self.lengths])
        self.vacuum = vacuum

    def surroundings(self, r_core: float, margin: float, max_atoms: int) -> Surroundings:
        """Decide the axes for a crop of this size and collect the atoms it may need.

        Args:
            r_core: radius of the core, Å.
            margin: largest distance of a face beyond the core, Å.
            max_atoms: a vacuum axis is not kept whole when the crop would then hold more atoms.
        """
        reach = r_core + max(margin + 2 * SEAM_DEPTH, self.vacuum)
        axes = [self._whole(c) for c in range(3)]
        cut = Axis("cut")
        for c in range(3):
            if not self.has_vacuum[c] and self.lengths[c] > 2 * r_core + max(margin, 0.5):
                axes[c] = cut
        sides = {
            c: self._material_beyond(c, r_core, r_core + margin + SEAM_DEPTH) for c in range(3) if self.has_vacuum[c]
        }
        for c, (low, high) in sides.items():
            if low and high:
                axes[c] = cut
        view = self._collect(axes, r_core, margin, reach)
        if view.typical_count() > max_atoms:
            for c, (low, high) in sides.items():
                if low != high:
                    axes[c] = self._surface(c, open_low=not low)
            view = self._collect(axes, r_core, margin, reach)
        return view

    def _whole(self, c: int) -> Axis:
        if self.periodic[c]:
            return Axis("whole", self.starts[c], self.starts[c] + self.lengths[c])
        low, high = self._extent[:, c]
        length = self.lengths[c]
        if not self.atoms.cell.array[c].any() or length < high - low + self.vacuum:
            length = high - low + 2 * self.vacuum
        middle = 0.5 * (low + high)
        return Axis("whole", middle - 0.5 * length, middle + 0.5 * length, periodic=False)

    def _surface(self, c: int, open_low: bool) -> Axis:
        low, high = self._extent[:, c]
        return Axis(
            "surface",
            low - 2 * self.vacuum if open_low else 0.0,
            0.0 if open_low else high + 2 * self.vacuum,
            open_low,
            periodic=bool(self.periodic[c]),
        )

    def _material_beyond(self, c: int, r_core: float, reach: float) -> tuple[bool, bool]:
        """Whether a column through the core is filled up to ``reach`` on the low and on the high side of axis c."""
        half = np.full(3, r_core)
        half[c] = np.inf
        _, fractional, _ = self._within(-half, half, np.zeros(3, dtype=bool))
        height = np.sort(fractional[:, c] * self.lengths[c])
        filled = []
        for side in (-height[height <= 0][::-1], height[height >= 0]):
            stops = np.concatenate([[0.0], side[side < reach], [reach]])
            filled.append(bool(np.diff(stops).max() < SURFACE_GAP))
        return filled[0], filled[1]

    def _within(self, low: FloatArray, high: FloatArray, images: BoolArray) -> tuple[IntArray, FloatArray, FloatArray]:
        """Atoms between the heights ``low`` and ``high`` (3,) (Å), along axes with ``images`` some image of them.

        Returns:
            Their indices, wrapped fractional coordinates (n, 3), and vectors from the center (n, 3), Å.
        """
        return _core.within(*self._frame, self._starts, low / self.lengths, high / self.lengths, images)

    def _collect(self, axes: list[Axis], r_core: float, margin: float, reach: float) -> Surroundings:
        low, high = np.full(3, -reach), np.full(3, reach)
        for c, axis in enumerate(axes):
            if axis.kind == "whole":
                low[c], high[c] = axis.lo - WHOLE_REACH, axis.hi + WHOLE_REACH
            elif axis.kind == "surface" and axis.open_low:
                low[c] = axis.lo
            elif axis.kind == "surface":
                high[c] = axis.hi
        imaged = self.periodic & np.array([axis.kind != "surface" for axis in axes])
        parents, fractional, offsets = self._within(low, high, imaged)
        low, high = low / self.lengths, high / self.lengths
        for c in range(3):
            first, last = 0, 0
            if imaged[c]:
                first = int(np.floor(low[c] - self._starts[c] - 1.0))
                last = int(np.ceil(high[c] - self._starts[c]))
            parts = []
            for n in range(first, last + 1):
                keep = np.flatnonzero((fractional[:, c] + n >= low[c]) & (fractional[:, c] + n <= high[c]))
                if len(keep):
                    moved = fractional[keep]
                    moved[:, c] += n
                    vectors = offsets[keep]
                    if n:
                        vectors = vectors + n * self.lattice[c]
                    parts.append((parents[keep], moved, vectors))
            parents, fractional, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
        heights_ = fractional * self.lengths
        center = int(np.argmin((offsets**2).sum(axis=1)))
        return Surroundings(
            axes=(axes[0], axes[1], axes[2]),
            directions=self.lattice / self.lengths[:, None],
            vectors=offsets,
            heights=heights_,
            numbers=np.asarray(self.atoms.numbers[parents], dtype=np.int64),
            parents=np.asarray(parents, dtype=np.int64),
            core=self._core(offsets, axes, r_core),
            center=center,
            r_core=r_core,
            margin=margin,
        )

    def _core(self, vectors: FloatArray, axes: list[Axis], r_core: float) -> BoolArray:
        """Atoms of which an image that a whole axis generates lies within ``r_core`` of the center."""
        steps = [(-1, 0, 1) if a.kind == "whole" and self.periodic[c] else (0,) for c, a in enumerate(axes)]
        core = np.zeros(len(vectors), dtype=bool)
        for step in itertools.product(*steps):
            image = vectors + np.asarray(step, dtype=float) @ self.lattice
            core |= (image**2).sum(axis=1) < r_core**2
        return core


def _axes(atoms: Atoms) -> FloatArray:
    """Lattice (3, 3) whose rows give the axes: the frame's, completed and, where badly skewed, reduced."""
    lengths = atoms.cell.lengths()
    missing = [c for c in range(3) if atoms.pbc[c] and lengths[c] < 1e-8]
    if missing:
        raise EmbeddingError(
            f"the frame is periodic along axis {missing[0]} but has no lattice vector there; set the cell or "
            f"pbc[{missing[0]}] = False"
        )
    lattice = np.asarray(atoms.cell.complete(), dtype=float)
    lengths = np.linalg.norm(lattice, axis=1)
    volume = abs(float(np.linalg.det(lattice)))
    if volume < 1e-6 * float(np.prod(lengths)):
        raise EmbeddingError(
            f"the lattice vectors {lattice.round(4).tolist()} are linearly dependent; give the frame a cell with volume"
        )
    if np.count_nonzero(atoms.pbc) < 2:
        return lattice
    reduced, _ = minkowski_reduce(lattice, pbc=atoms.pbc)
    # the volume of a box of unit heights is V / (h_1 h_2 h_3): 1 when orthogonal, larger the more it is skewed
    gain = float(np.prod(heights(reduced)) / np.prod(heights(lattice)))
    return np.asarray(reduced) if gain > SKEW_GAIN else lattice


def _largest_gap(occupied: np.ndarray) -> tuple[float, float]:
    """Width and middle of the widest run of empty bins of a periodic axis, as fractions of the axis from its start."""
    n_bins = len(occupied)
    full = np.flatnonzero(occupied)
    following = np.append(full[1:], full[0] + n_bins)
    empty = following - full - 1
    widest = int(np.argmax(empty))
    return empty[widest] / n_bins, (full[widest] + 1 + 0.5 * empty[widest]) / n_bins
