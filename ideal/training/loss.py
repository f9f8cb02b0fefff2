r"""The loss, and the errors that people read.

    L = w_E H(dE / N) + w_F H(dF) + w_S H(dS)

H is Huber's loss (quadratic below delta, linear above, delta in the unit of each term), averaged over structures, force
components, and stress components. Energies per atom in eV, forces in eV/Å, stress in GPa, so that one delta suits all.
A label without stress, or a structure without a volume, does not enter the stress term.

Kong et al., npj Comput. Mater. (2023), use the same loss with delta = 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase import units
from torch import Tensor
from torch.nn.functional import huber_loss

from ideal.config import LossConfig
from ideal.models.base import Prediction
from ideal.models.graph import Graph
from ideal.records import Label

STRESS_UNIT = units.GPa
"""eV/Å³ per GPa."""


@dataclass(frozen=True)
class Sample:
    """A label as training needs it.

    Attributes:
        label: the label.
        graph: its neighbor graph.
        forces: (n_atoms, 3), eV/Å, in the potential's precision.
        stress: (6,), GPa; zero where there is none.
        has_stress: whether it enters the stress term.
    """

    label: Label
    graph: Graph
    forces: Tensor
    stress: Tensor
    has_stress: bool


def make_sample(label: Label, graph: Graph) -> Sample:
    """Bring a label to the precision and device of its graph."""
    has_stress = label.stress is not None and graph.volume is not None
    stress = torch.as_tensor(label.stress) / STRESS_UNIT if has_stress else torch.zeros(6)
    forces = torch.as_tensor(label.forces)
    return Sample(label, graph, forces.to(graph.vectors), stress.to(graph.vectors), has_stress)


@dataclass(frozen=True)
class Targets:
    """What a batch should predict.

    Attributes:
        energies: (n_structures,) energy per atom without reference energies, eV.
        n_atoms: (n_structures,).
        atom_structure: (n_atoms of all,) int64.
        forces: (n_atoms of all, 3), eV/Å.
        stresses: (n_structures, 6), GPa.
        stress_mask: (n_structures,) bool.
    """

    energies: Tensor
    n_atoms: Tensor
    atom_structure: Tensor
    forces: Tensor
    stresses: Tensor
    stress_mask: Tensor


def make_targets(samples: Sequence[Sample], reference_energies: Sequence[float]) -> Targets:
    """Join samples; ``reference_energies`` (one total per structure, eV) are subtracted in float64."""
    like = samples[0].forces
    sizes = [sample.graph.n_atoms for sample in samples]
    energies = [
        (sample.label.energy - reference) / size
        for sample, reference, size in zip(samples, reference_energies, sizes, strict=True)
    ]
    n_atoms = torch.tensor(sizes, device=like.device)
    structures = torch.arange(len(samples), device=like.device)
    return Targets(
        energies=torch.tensor(energies, dtype=like.dtype, device=like.device),
        n_atoms=n_atoms,
        atom_structure=torch.repeat_interleave(structures, n_atoms),
        forces=torch.cat([sample.forces for sample in samples]),
        stresses=torch.stack([sample.stress for sample in samples]),
        stress_mask=torch.tensor([sample.has_stress for sample in samples], device=like.device),
    )


def loss(prediction: Prediction, targets: Targets, config: LossConfig) -> Tensor:
    """The scalar loss of a batch.

    Example:
        >>> loss(potential.predict(graphs, differentiable=True), targets, LossConfig()).backward()
    """
    delta = config.delta
    total = config.energy * huber_loss(prediction.energies / targets.n_atoms, targets.energies, delta=delta)
    total = total + config.force * huber_loss(prediction.forces, targets.forces, delta=delta)
    if config.stress and bool(targets.stress_mask.any()):
        stresses = prediction.stresses[targets.stress_mask] / STRESS_UNIT
        total = total + config.stress * huber_loss(stresses, targets.stresses[targets.stress_mask], delta=delta)
    return total


@dataclass(frozen=True)
class SampleErrors:
    """Mean absolute error of each structure of a batch.

    Attributes:
        energy: (n_structures,), eV per atom.
        force: (n_structures,), eV/Å, over components.
        stress: (n_structures,), GPa, over components; zero where a structure has none.
        n_atoms: (n_structures,).
        stress_mask: (n_structures,) bool.
    """

    energy: Tensor
    force: Tensor
    stress: Tensor
    n_atoms: Tensor
    stress_mask: Tensor


@torch.no_grad()
def sample_errors(prediction: Prediction, targets: Targets) -> SampleErrors:
    """Mean absolute errors per structure."""
    energy = (prediction.energies.detach() / targets.n_atoms - targets.energies).abs()
    per_atom = (prediction.forces.detach() - targets.forces).abs().mean(1)
    force = torch.zeros_like(energy).index_add(0, targets.atom_structure, per_atom) / targets.n_atoms
    stress = (prediction.stresses.detach() / STRESS_UNIT - targets.stresses).abs().mean(1) * targets.stress_mask
    return SampleErrors(energy, force, stress, targets.n_atoms, targets.stress_mask)


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors over a set of labels.

    Attributes:
        energy_mae: eV per atom, over structures.
        force_mae: eV/Å, over all force components.
        stress_mae: GPa, over all stress components; None when no label has stress.
        n_labels: number of labels.
    """

    energy_mae: float
    force_mae: float
    stress_mae: float | None
    n_labels: int


def mean_errors(batches: Sequence[SampleErrors]) -> Errors:
    """Average errors per structure over all batches, forces weighted by the number of atoms."""
    if not batches:
        return Errors(0.0, 0.0, None, 0)
    energy = torch.cat([b.energy for b in batches]).double()
    force = torch.cat([b.force for b in batches]).double()
    n_atoms = torch.cat([b.n_atoms for b in batches]).double()
    mask = torch.cat([b.stress_mask for b in batches])
    stress = torch.cat([b.stress for b in batches]).double()
    return Errors(
        energy_mae=energy.mean().item(),
        force_mae=((force * n_atoms).sum() / n_atoms.sum()).item(),
        stress_mae=stress[mask].mean().item() if bool(mask.any()) else None,
        n_labels=len(energy),
    )
