"""From a configuration to the structures and labels that the run starts with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from ideal.config import Config, ElasticBandConfig
from ideal.dataset import rattled_structures, read_labels, read_labels_and_structures, read_structures
from ideal.engine.calculations import Calculations
from ideal.engine.frame_files import cell_to_label
from ideal.engine.seeds import derive_seed
from ideal.engine.trajectory import LabelRequest
from ideal.errors import ConfigError, LabelError
from ideal.records import FailedLabel, Label
from ideal.samplers.structures import check_ends


@dataclass(frozen=True)
class StartingPoint:
    """What the configuration names, read and checked.

    Attributes:
        structures: starting structure of every trajectory, repeated, with the file's momenta and constraints.
        finals: the other end of every path, by trajectory, repeated likewise.
        labels: labelled structures of ``dataset.initial``.
        to_label: unlabelled ones of that file, and the rattled ones.
        to_move: distinct starting structures of which `dataset.generated` makes more; empty without that section.
        held_out: labels that are never learned.
    """

    structures: dict[str, Atoms]
    finals: dict[str, Atoms]
    labels: list[Label]
    to_label: list[Atoms]
    to_move: list[Atoms]
    held_out: list[Label]

    @property
    def elements(self) -> list[str]:
        """Every chemical symbol that occurs in it."""
        atoms = [*self.structures.values(), *self.to_label, *(label.atoms for label in [*self.labels, *self.held_out])]
        return sorted({symbol for item in atoms for symbol in item.get_chemical_symbols()})


def read_starting_point(config: Config) -> StartingPoint:
    """Read every file that the configuration names.

    Raises:
        ConfigError: a file cannot be read, atoms overlap, an element of a trajectory is in no initial structure.
    """
    labels: list[Label] = []
    to_label: list[Atoms] = []
    if config.dataset.initial is not None:
        labels, to_label = read_labels_and_structures(config.dataset.initial)
    structures = {
        trajectory.name: _read_structure(trajectory.structure).repeat(trajectory.repeat)
        for trajectory in config.trajectories
    }
    finals = {
        trajectory.name: _read_structure(trajectory.sampler.final).repeat(trajectory.repeat)
        for trajectory in config.trajectories
        if isinstance(trajectory.sampler, ElasticBandConfig)
    }
    for name, final in finals.items():
        check_ends(structures[name], final, name)
    # Of the repeated ones: a cell of a few atoms shows only motions that are alike in every repetition.
    distinct = distinct_structures([*structures.values(), *finals.values()])
    rattled = rattled_structures(distinct, config.dataset.rattled, derive_seed(config.seed, "rattle"))
    to_label = [*to_label, *rattled]
    start = StartingPoint(
        structures=structures,
        finals=finals,
        labels=labels,
        to_label=to_label,
        to_move=distinct if config.dataset.generated.count else [],
        held_out=read_labels(config.dataset.held_out) if config.dataset.held_out else [],
    )
    known = {
        s
        for item in [*to_label, *start.to_move, *(label.atoms for label in labels)]
        for s in item.get_chemical_symbols()
    }
    for name, atoms in start.structures.items():
        _require_known(f"trajectory {name!r}", atoms, known)
    for label in start.held_out:
        _require_known(f"dataset.held_out {config.dataset.held_out}", label.atoms, known)
    return start


def distinct_structures(structures: Iterable[Atoms]) -> list[Atoms]:
    """Each structure once, however many trajectories start from it."""
    found: dict[tuple[bytes, ...], Atoms] = {}
    for atoms in structures:
        arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        found.setdefault(tuple(np.ascontiguousarray(array).tobytes() for array in arrays), atoms)
    return list(found.values())


def label_initial(
    start: StartingPoint,
    generated: Sequence[Atoms],
    calculations: Calculations,
    wait: Callable[[Sequence[LabelRequest]], None],
) -> tuple[list[Label], list[FailedLabel]]:
    """The initial labels: those of the file, then those that the run computes for it.

    Args:
        start: what was read.
        generated: structures that the run has generated.
        calculations: where to ask.
        wait: blocks until the requests it is given are answered.

    Returns:
        Labels (the file's first, then in the order of asking) and the failures.

    Raises:
        LabelError: there is no label at all because every calculation failed.
    """
    requests = [
        calculations.request(cell_to_label(atoms), {"purpose": "initial", "index": index})
        for index, atoms in enumerate([*start.to_label, *generated])
    ]
    for request in requests:
        calculations.submit(request)
    wait(requests)
    results = [calculations.results[key] for key in dict.fromkeys(request.key for request in requests)]
    labels = [*start.labels, *(result for result in results if isinstance(result, Label))]
    failures = [result for result in results if isinstance(result, FailedLabel)]
    if not labels:
        raise LabelError(
            f"all {len(failures)} labels of the initial data failed; the first: {failures[0].cause}; correct "
            "labelling.code or the initial structures (`ideal-run check` tests the code in seconds)"
        )
    return labels, failures


def _read_structure(path: Path) -> Atoms:
    """The last frame of a structure file, as ASE reads it."""
    atoms = read_structures(path)[-1]
    shortest = 0.3
    first, second, distance = neighbor_list("ijd", atoms, shortest)
    if len(first):
        worst = int(np.argmin(distance))
        raise ConfigError(
            f"{path}: atoms {first[worst]} and {second[worst]} overlap "
            f"({distance[worst]:.3f} Å apart); correct the structure (at least {shortest} Å)"
        )
    return atoms


def _require_known(where: str, atoms: Atoms, known: set[str]) -> None:
    unknown = sorted(set(atoms.get_chemical_symbols()) - known)
    if unknown:
        raise ConfigError(
            f"{where}: {', '.join(unknown)} is in no initial structure (they hold {', '.join(sorted(known))}); add "
            f"structures with {unknown[0]} to dataset.initial, labelled or not"
        )
