r"""The loss, and the errors that people read.

    L = w_E H(dE / N) + w_F H(dF) + w_S H(dS)

H is Huber's loss (quadratic below delta, linear above, delta in the unit of each term), averaged over structures, force
components, and stress components. Energies per atom in eV, forces in eV/Å, stress in GPa, so that one delta suits all.
A label without stress, or a structure without a volume, does not enter the stress term. The forces on the filler of an
embedded cell may weigh less than those on its core. The energy of a label is the one that its forces are the derivative
of: the free energy where electrons are smeared (`ideal.records.Label`).

Kong et al., npj Comput. Mater. (2023), use the same loss with delta = 0.1.

The error of an energy per atom, in eV, is some ten times smaller than that of a force component in eV/Å: with equal
weights the energy has little say in where the training ends; with a large weight from the start the few energies
direct the first, coarse steps, and forces suffer. So the weight of the energy may grow while the rate falls
(`loss_at`), as in the second stage of MACE's training (Batatia et al., NeurIPS 2022).
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
        weights: (n_atoms,) weight of each atom's forces in the loss.
    """

    label: Label
    graph: Graph
    forces: Tensor
    stress: Tensor
    has_stress: bool
    weights: Tensor


def make_sample(label: Label, graph: Graph, filler: float = 1.0) -> Sample:
    """Bring a label to the precision and device of its graph.

    Args:
        label: what to learn; ``info["core"]`` lists the core atoms of an embedded cell.
        graph: its neighbor graph.
        filler: weight of the forces on all other atoms of such a cell.
    """
    has_stress = label.stress is not None and graph.volume is not None
    stress = torch.as_tensor(label.stress) / STRESS_UNIT if has_stress else torch.zeros(6)
    forces = torch.as_tensor(label.forces)
    weights = torch.ones(len(label.atoms))
    core = label.info.get("core")
    if core:
        weights[:] = filler
        weights[list(core)] = 1.0
    return Sample(
        label, graph, forces.to(graph.vectors), stress.to(graph.vectors), has_stress, weights.to(graph.vectors)
    )


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
        weights: (n_atoms of all,) weight of each atom's forces.
    """

    energies: Tensor
    n_atoms: Tensor
    atom_structure: Tensor
    forces: Tensor
    stresses: Tensor
    stress_mask: Tensor
    weights: Tensor


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
        weights=torch.cat([sample.weights for sample in samples]),
    )


@dataclass(frozen=True)
class Counts:
    """What the means of a loss divide by, of a whole batch even where it is taken in parts.

    Attributes:
        structures: number of structures.
        forces: weighted number of force components.
        stresses: number of stress components.
    """

    structures: int
    forces: float
    stresses: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Counts:
        """Count a batch."""
        forces = 3 * sum(float(sample.weights.sum()) for sample in samples)
        return cls(len(samples), forces, 6 * sum(sample.has_stress for sample in samples))


def loss_at(config: LossConfig, fallen: float) -> LossConfig:
    """The weights that hold when the learning rate has fallen from its peak (0) towards its end (1).

    The energy's weight is w^(1 - fallen) w_end^fallen: its logarithm changes as the rate does.

    Example:
        >>> loss_at(LossConfig(energy=1, energy_end=100), fallen=0.5).energy
        10.0
    """
    if config.energy_end is None:
        return config
    if config.energy == 0:
        return config.model_copy(update={"energy": fallen * config.energy_end})
    return config.model_copy(update={"energy": config.energy ** (1 - fallen) * config.energy_end**fallen})


def loss(prediction: Prediction, targets: Targets, config: LossConfig, whole: Counts | None = None) -> Tensor:
    """The scalar loss of a batch, or the share of a part in the loss of the whole: the shares add up.

    Args:
        prediction: of the batch or part.
        targets: what it should be.
        config: weights and delta.
        whole: counts of the whole batch; None: this is the whole.

    Example:
        >>> loss(potential.predict(graphs, differentiable=True), targets, LossConfig()).backward()
    """
    delta = config.delta
    if whole is None:
        n_stresses = 6 * int(targets.stress_mask.sum())
        whole = Counts(len(targets.energies), 3 * float(targets.weights.sum()), n_stresses)
    energy = huber_loss(prediction.energies / targets.n_atoms, targets.energies, reduction="sum", delta=delta)
    total = config.energy / whole.structures * energy
    force = huber_loss(prediction.forces, targets.forces, reduction="none", delta=delta) * targets.weights[:, None]
    total = total + config.force / max(whole.forces, 1e-12) * force.sum()
    if config.stress and bool(targets.stress_mask.any()):
        stresses = prediction.stresses[targets.stress_mask] / STRESS_UNIT
        stress = huber_loss(stresses, targets.stresses[targets.stress_mask], reduction="sum", delta=delta)
        total = total + config.stress / whole.stresses * stress
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
