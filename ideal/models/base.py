"""What every potential gives: energy, forces, stress, per-atom energies.

The rest of the package knows potentials only by the protocols below. `Potential` is what samplers and the ASE
calculator need; `TrainablePotential` is what training needs in addition, `DifferentiablePotential` what gradients of
model uncertainties need. To add a model, write one class that satisfies them and add it to
`tests/models/test_contract.py` and `test_differentiable.py`, whose tests every potential must pass.

Units: eV, Å; stress in eV/Å³, Voigt order xx, yy, zz, yz, xz, xy, positive under tension (ASE's sign).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ase import Atoms

from ideal.records import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from ideal.models.graph import Graph, GraphBatch


@dataclass(frozen=True)
class Evaluation:
    """Result of a potential for one structure.

    Attributes:
        energy: total energy, eV.
        forces: (n_atoms, 3), eV/Å.
        stress: (6,), eV/Å³, or None without a three-dimensional cell and a periodic axis.
        energies: (n_atoms,), eV; they sum to ``energy``.
    """

    energy: float
    forces: FloatArray
    stress: FloatArray | None
    energies: FloatArray


@runtime_checkable
class Potential(Protocol):
    """A potential energy surface.

    Attributes:
        elements: chemical symbols it knows.
        cutoff: distance in Å within which atoms exchange messages.
        revision: counter that grows whenever the potential changes, so that cached results can be told stale.
    """

    elements: tuple[str, ...]
    cutoff: float
    revision: int

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Energy, forces, stress and per-atom energies of one structure.

        Raises:
            TrainingError: unknown element, no atoms, positions that are not finite, coincident atoms.
        """
        ...

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """As `evaluate`, for many structures at once; equal to it within rounding."""
        ...

    def save(self, directory: str | Path) -> None:
        """Write the potential, atomically: an interrupted write leaves the old one readable."""
        ...

    def fingerprint(self) -> str:
        """Hash of all that decides the result (64 hexadecimal digits)."""
        ...


@dataclass(frozen=True)
class Factors:
    """Gradient of each atom's energy by the weights of one linear layer z = W x + b that acts on atoms one by one.

    With x~ = (x, 1): dE_i/d(W, b) = outer(output_i, input_i) (Zaverkin et al. 2024, eqs. 17-18).

    Attributes:
        output: (n_atoms, n_out), dE_i/dz_i, eV.
        input: (n_atoms, n_in + 1), x~_i.
    """

    output: Tensor
    input: Tensor


@runtime_checkable
class DifferentiablePotential(Potential, Protocol):
    """A potential whose energies torch can derive by positions as often as wanted, and by its readout's weights.

    Positions and strain enter through the edge vectors alone; `ideal.models.differentiable` leads back to them.
    """

    def graph(self, atoms: Atoms) -> Graph:
        """The neighbor graph of a structure; errors as for `evaluate`."""
        ...

    def atomic_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool = True) -> Tensor:
        """(n_atoms,) energies in eV without reference energies, a function of the edge vectors (n_edges, 3) in Å.

        ``twice``: the result will be derived twice (a function of forces); false is faster.
        """
        ...

    def readout_factors(self, graph: Graph, vectors: Tensor, differentiable: bool = False) -> list[Factors]:
        """Of every linear layer of the readout (the network from an atom's features to its energy), in a fixed order.

        ``differentiable``: keep what their derivative by ``vectors`` needs.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """Differentiable result for a batch of graphs, without the elements' reference energies.

    Attributes:
        energies: (n_structures,), eV.
        forces: (n_atoms of all structures, 3), eV/Å.
        stresses: (n_structures, 6), eV/Å³; zero where a structure has no volume.
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor


class TrainablePotential(Potential, Protocol):
    """A potential whose parameters torch can optimize.

    Attributes:
        is_fitted: false for a new potential, whose energy scale and reference energies mean nothing yet.
        energy_scale: eV per unit of the network's output.
    """

    is_fitted: bool
    energy_scale: float

    @property
    def reference_energies(self) -> dict[str, float]:
        """Energy in eV that each element contributes by itself."""
        ...

    def graph(self, atoms: Atoms) -> Graph:
        """Everything that `predict` needs of a structure; valid as long as the structure does not change."""
        ...

    def predict(self, graphs: Sequence[Graph], differentiable: bool = False) -> Prediction:
        """Energies, forces, stresses of a batch; with ``differentiable`` a loss of them can be derived."""
        ...

    def reference_energy(self, atoms: Atoms) -> float:
        """Sum of the reference energies of a structure, eV (float64)."""
        ...

    def set_normalization(
        self, reference_energies: Mapping[str, float] | None = None, energy_scale: float | None = None
    ) -> None:
        """Replace reference energies (of the elements named) and energy scale."""
        ...

    def rescale_layers(self, structures: Sequence[Atoms]) -> None:
        """Scale new random weights for structures like these (``pretrain.rescale_layers``); before all training."""
        ...

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Names and values of all parameters, in a fixed order."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters."""
        ...

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        ...

    def changed(self) -> None:
        """To be called after parameters were changed in place."""
        ...
