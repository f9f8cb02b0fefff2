"""Reading a trajectory file that may be long, and whose last frame may be half written.

An index of byte offsets is made first; only as many frames as a figure needs are then parsed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.io.extxyz import XYZError

from ideal.records import FloatArray, IntArray


@dataclass(frozen=True)
class FrameIndex:
    """Where the complete frames of an extended XYZ file are.

    Attributes:
        offsets: (n_frames + 1,) byte offset of every frame, and of the end of the last complete one.
        n_atoms: (n_frames,) atoms of every frame.
        complete: false when the file ends within a frame.
    """

    offsets: IntArray
    n_atoms: IntArray
    complete: bool


@dataclass(frozen=True)
class TrajectoryFrames:
    """Frames of one trajectory, evenly thinned.

    Attributes:
        atoms: the frames, in order of their steps.
        steps: (n_frames,) MD steps.
        times: (n_frames,) fs; the steps where these take no time.
        n_written: complete frames in the file.
        complete: false when the file ends within a frame.
        n_unreadable: frames that were wanted and could not be parsed.
    """

    atoms: list[Atoms]
    steps: IntArray
    times: FloatArray
    n_written: int
    complete: bool = True
    n_unreadable: int = 0


def index_frames(path: Path) -> FrameIndex:
    """Find the complete frames of an extended XYZ file.

    Args:
        path: the file.

    Returns:
        Offsets and sizes; whatever follows the last complete frame is left out.
    """
    offsets, sizes = [0], []
    complete = True
    with path.open("rb") as file:
        while first := file.readline():
            if not first.strip():
                continue
            if not first.strip().isdigit():
                complete = False
                break
            n_atoms = int(first)
            lines = [file.readline() for _ in range(n_atoms + 1)]
            if not lines[-1].endswith(b"\n"):
                complete = False
                break
            offsets.append(file.tell())
            sizes.append(n_atoms)
    return FrameIndex(np.array(offsets), np.array(sizes, dtype=np.int64), complete)


def read_frames(path: Path, index: FrameIndex, which: IntArray) -> dict[int, Atoms]:
    """Parse some frames of a file.

    Args:
        path: the extended XYZ file.
        index: its index.
        which: numbers of the frames.

    Returns:
        The frames by number; one that does not parse is missing.
    """
    frames: dict[int, Atoms] = {}
    with path.open("rb") as file:
        for number in which:
            file.seek(index.offsets[number])
            text = file.read(index.offsets[number + 1] - index.offsets[number]).decode(errors="replace")
            try:
                atoms = read(io.StringIO(text), format="extxyz", index=0)
            except (XYZError, ValueError, KeyError):
                continue
            if isinstance(atoms, Atoms):
                frames[int(number)] = atoms
    return frames


def read_trajectory(path: Path, timestep: float, max_frames: int = 400, max_atoms: int = 8_000_000) -> TrajectoryFrames:
    """Read an evenly thinned trajectory, the first and the last frame included.

    Args:
        path: the extended XYZ file; ``info`` of every frame holds ``step`` and ``time_fs``.
        timestep: fs per step, for frames without ``time_fs``.
        max_frames: read at most this many frames.
        max_atoms: read at most this many atoms in all, but never fewer than two frames.

    Returns:
        The frames. Where the trajectory went back to an earlier step, the frames beyond it are left out.
    """
    index = index_frames(path)
    n_frames = len(index.n_atoms)
    largest = int(index.n_atoms.max()) if n_frames else 1
    wanted = min(n_frames, max_frames, max(2, max_atoms // max(1, largest)))
    chosen = np.unique(np.linspace(0, n_frames - 1, wanted).round().astype(int)) if n_frames else np.array([], int)
    parsed = read_frames(path, index, chosen)
    by_step: dict[int, Atoms] = {}
    for number, atoms in sorted(parsed.items()):
        step = int(atoms.info.get("step", number))
        while by_step and next(reversed(by_step)) >= step:  # the trajectory went back: what lies beyond is void
            by_step.popitem()
        by_step[step] = atoms
    steps = list(by_step)
    frames = [by_step[step] for step in steps]
    times = [float(atoms.info.get("time_fs", step * timestep)) for step, atoms in zip(steps, frames, strict=True)]
    if not any(times):  # a search takes no time
        times = [float(step) for step in steps]
    return TrajectoryFrames(
        frames,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=float),
        n_written=n_frames,
        complete=index.complete,
        n_unreadable=len(chosen) - len(parsed),
    )


def read_sample(path: Path, max_frames: int, seed: int = 0) -> list[Atoms]:
    """Read a random sample of the structures in a file, in their order.

    Args:
        path: extended XYZ file.
        max_frames: size of the sample.
        seed: decides the draw.

    Returns:
        At most ``max_frames`` structures.
    """
    index = index_frames(path)
    n_frames = len(index.n_atoms)
    which = np.arange(n_frames)
    if n_frames > max_frames:
        which = np.sort(np.random.default_rng(seed).choice(n_frames, max_frames, replace=False))
    return list(read_frames(path, index, which).values())
