"""What potentials share whose network is a torch function of edge vectors: everything but the network.

    E = sum_i [ E_ref(Z_i) + scale * e_i ],    F_i = -dE/dr_i,    sigma = (1/V) sum_edges vec (dE/dvec)^T

e_i is the network's output for atom i; reference energies are added in float64. MACE, NequIP, SchNet and most others
are such networks: one file with a subclass of `EdgePotential` makes any of them a model of IDEAL (docs/extending.md,
examples/custom_model).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ideal import __version__
from ideal.errors import TrainingError
from ideal.models.base import Evaluation, Prediction
from ideal.models.device import Device, set_threads, torch_device
from ideal.models.graph import Graph, GraphBatch, bounded, build_graph, collate, element_lookup
from ideal.models.neighbor_list import NeighborList
from ideal.models.storage import fingerprint, read_model, write_model
from ideal.records import FloatArray

_SUMMED_EDGES = 1_000_000


class EdgePotential:
    """A torch network with reference energies; satisfies `TrainablePotential`.

    A subclass writes `FORMAT`, `construct` and `network_energies`, and a way to make new ones; everything else is here.

    Args:
        model: the network.
        architecture: what `construct` needs to make it anew, JSON-able; ``element_types`` and ``cutoff`` (Å) among it.
        reference_energies: eV by element; 0 where there is none.
        energy_scale: eV per unit of the network's output.
        energy_offset: eV per structure.
        is_fitted: false for random weights.
        device: where it runs.
        threads: threads of torch on the CPU.
        chunk_atoms: atoms evaluated at a time, for networks that can; None: as many as suit the processor's cache.

    Attributes:
        elements: chemical symbols it knows.
        cutoff: two-body cutoff in Å.
        energy_scale: eV per unit of the network's output.
        is_fitted: false until it was trained (or loaded from a trained one).
        revision: grows whenever weights or reference energies change.
    """

    FORMAT: ClassVar[str]
    """Names the kind of model in its files."""

    def __init__(
        self,
        model: Any,
        architecture: Mapping[str, Any],
        reference_energies: Mapping[str, float],
        energy_scale: float = 1.0,
        energy_offset: float = 0.0,
        is_fitted: bool = True,
        device: Device = "auto",
        threads: int = 1,
        chunk_atoms: int | None = None,
    ) -> None:
        self.elements: tuple[str, ...] = tuple(architecture["element_types"])
        self.cutoff = float(architecture["cutoff"])
        self.energy_scale = float(energy_scale)
        self.is_fitted = is_fitted
        self.revision = 0
        self._architecture = json.loads(json.dumps(dict(architecture)))
        self._energy_offset = float(energy_offset)
        self._lookup = element_lookup(self.elements)
        self._references = np.array([float(reference_energies.get(e, 0.0)) for e in self.elements])
        self._device = torch_device(device)
        set_threads(threads)
        self._model = model.to(self._device).eval()
        self._chunk_atoms = chunk_atoms
        self._neighbors = NeighborList(self.cutoff)

    # --- what a subclass writes ---

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> torch.nn.Module:
        """A network whose random weights depend on ``seed`` alone."""
        raise NotImplementedError

    def network_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """(n_atoms,) outputs of ``self._model`` as a torch function of the edge vectors (n_edges, 3) in Å.

        Args:
            graph: ``types``, ``source`` and ``target`` as in `Graph`; its own vectors are not to be used.
            vectors: from source to target.
            twice: the result will be derived twice (training on forces).
        """
        raise NotImplementedError

    # --- loading, saving ---

    @classmethod
    def load(cls, path: str | Path, device: Device = "auto", threads: int = 1, chunk_atoms: int | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            TrainingError: no model there, of another kind, or damaged.
        """
        return cls._load_own(Path(path), {"device": device, "threads": threads, "chunk_atoms": chunk_atoms})

    @classmethod
    def _load_own(cls, path: Path, options: dict[str, Any]) -> Self:
        weights, header = read_model(path)
        if header.get("format") != cls.FORMAT:
            raise TrainingError(
                f"{path}: format {header.get('format')!r} is not {cls.FORMAT!r}; use the version of IDEAL that wrote it"
            )
        model = cls.construct(header["architecture"])
        fill(model, weights, str(path))
        keys = ("reference_energies", "energy_scale", "energy_offset", "is_fitted")
        return cls(model, header["architecture"], **{key: header[key] for key in keys}, **options)

    def save(self, directory: str | Path) -> None:
        """Write weights, architecture, reference energies and versions into ``directory``, atomically.

        Raises:
            TrainingError: the folder cannot be written.
        """
        write_model(directory, self._model.state_dict(), {**self._header(), "versions": self._versions()})

    def _versions(self) -> dict[str, str]:
        return {"ideal": __version__, "torch": torch.__version__}

    def _header(self) -> dict[str, Any]:
        return {
            "format": self.FORMAT,
            "architecture": self._architecture,
            "reference_energies": self.reference_energies,
            "energy_scale": self.energy_scale,
            "energy_offset": self._energy_offset,
            "is_fitted": self.is_fitted,
        }

    def fingerprint(self) -> str:
        """Hash of weights, architecture and reference energies (64 hexadecimal digits)."""
        return fingerprint(self._model.state_dict(), self._header())

    # --- evaluation ---

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Energy, forces, stress and per-atom energies of one structure (see `ideal.models.base.Potential`)."""
        graph = build_graph(atoms, self.cutoff, self._lookup, self.dtype, self._device, self._neighbors)
        energies, gradient = self._energies_and_gradient(graph)
        return self._evaluation(graph, energies, gradient, graph.vectors)

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """As `evaluate`, for many structures; they are joined into batches of bounded size."""
        results: list[Evaluation] = []
        for graphs in bounded([self.graph(atoms) for atoms in structures]):
            batch = collate(graphs)
            energies, gradient = self._energies_and_gradient(batch)
            atom = edge = 0
            for graph in graphs:
                to_atom, to_edge = atom + graph.n_atoms, edge + graph.source.shape[0]
                results.append(self._evaluation(graph, energies[atom:to_atom], gradient[edge:to_edge], graph.vectors))
                atom, edge = to_atom, to_edge
        return results

    def _energies_and_gradient(self, graph: Graph | GraphBatch) -> tuple[Tensor, Tensor]:
        """Network energies of atoms (eV) and their sum's gradient with respect to edge vectors (eV/Å)."""
        vectors = graph.vectors.detach().requires_grad_(True)
        energies = self.atomic_energies(graph, vectors, twice=False)
        if not vectors.shape[0]:
            return energies.detach(), vectors.detach()
        (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        return energies.detach(), gradient

    def _evaluation(self, graph: Graph, energies: Tensor, gradient: Tensor, vectors: Tensor) -> Evaluation:
        forces = gradient.new_zeros(graph.n_atoms, 3, dtype=torch.float64)
        virial = forces.new_zeros(3, 3)
        for begin in range(0, gradient.shape[0], _SUMMED_EDGES):  # in float64, without a float64 copy of all edges
            here = slice(begin, begin + _SUMMED_EDGES)
            slope = gradient[here].double()
            forces.index_add_(0, graph.source[here], slope).index_add_(0, graph.target[here], slope, alpha=-1)
            virial += vectors[here].double().T @ slope
        per_atom = energies.double().cpu().numpy() + self._references[graph.types.cpu().numpy()]
        per_atom += self._energy_offset / graph.n_atoms
        stress = None
        if graph.volume is not None:
            stress = _voigt(virial.cpu().numpy() / graph.volume)
        return Evaluation(float(per_atom.sum()), forces.cpu().numpy(), stress, per_atom)

    # --- differentiable pass ---

    def atomic_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool = True) -> Tensor:
        """Network energies as a function of edge vectors (see `ideal.models.base.DifferentiablePotential`)."""
        return self.energy_scale * self.network_energies(graph, vectors, twice)

    # --- training ---

    def graph(self, atoms: Atoms) -> Graph:
        """The neighbor graph of a structure on this potential's device (see `ideal.models.graph.build_graph`)."""
        return build_graph(atoms, self.cutoff, self._lookup, self.dtype, self._device)

    def predict(self, graphs: Sequence[Graph], differentiable: bool = False) -> Prediction:
        """Energies, forces and stresses of a batch, without reference energies.

        Args:
            graphs: structures as `graph` gives them.
            differentiable: keep what a loss of forces and stresses needs for its derivative.
        """
        batch: GraphBatch = collate(graphs)
        vectors = batch.vectors.detach().requires_grad_(True)
        atomic = self.atomic_energies(batch, vectors, differentiable)
        energies = atomic.new_zeros(len(graphs)).index_add(0, batch.atom_structure, atomic)
        if vectors.shape[0]:
            (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=differentiable)
        else:
            gradient = torch.zeros_like(vectors)
        zeros = gradient.new_zeros(len(batch.types), 3)
        forces = zeros.index_add(0, batch.source, gradient).index_add(0, batch.target, -gradient)
        products = batch.vectors[:, _VOIGT_ROWS] * gradient[:, _VOIGT_COLUMNS]
        stresses = gradient.new_zeros(len(graphs), 6).index_add(0, batch.edge_structure, products)
        stresses = stresses * batch.inverse_volumes[:, None]
        offset = self._energy_offset
        return Prediction(energies + offset if offset else energies, forces, stresses)

    @property
    def reference_energies(self) -> dict[str, float]:
        """Energy in eV that each element contributes by itself."""
        return dict(zip(self.elements, self._references.tolist(), strict=True))

    def reference_energy(self, atoms: Atoms) -> float:
        """Sum of the reference energies of a structure, eV."""
        return float(self._references[self._lookup[atoms.numbers]].sum())

    def set_normalization(
        self, reference_energies: Mapping[str, float] | None = None, energy_scale: float | None = None
    ) -> None:
        """Replace reference energies (of the elements named) and the energy scale (eV)."""
        for symbol, energy in (reference_energies or {}).items():
            if symbol not in self.elements:
                raise TrainingError(f"{symbol!r} is not an element of this model ({', '.join(self.elements)})")
            self._references[self.elements.index(symbol)] = energy
        if energy_scale is not None:
            if not energy_scale > 0:
                raise TrainingError(f"energy scale {energy_scale} eV; give a positive one")
            self.energy_scale = float(energy_scale)
        self.changed()

    def rescale_layers(self, structures: Sequence[Atoms]) -> None:
        """Scale new random weights for structures like these; networks without a rule of their own stay as they are."""

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Names and values of the network's parameters, in a fixed order."""
        return self._model.named_parameters()

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's parameters."""
        return {name: value.detach().clone() for name, value in self._model.named_parameters()}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                value.copy_(weights[name])
        self.changed()

    def changed(self) -> None:
        """Tell those who cache results that weights were changed in place."""
        self.revision += 1

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return next(self._model.parameters()).dtype

    def double(self) -> Self:
        """Turn the network to float64 (four times slower; for numerical checks) and return itself."""
        self._model.double()
        self.changed()
        return self


_VOIGT_ROWS = [0, 1, 2, 1, 0, 0]
_VOIGT_COLUMNS = [0, 1, 2, 2, 2, 1]


def _voigt(tensor: FloatArray) -> FloatArray:
    """(6,) of a (3, 3) tensor, symmetrized."""
    symmetric = 0.5 * (tensor + tensor.T)
    return symmetric[_VOIGT_ROWS, _VOIGT_COLUMNS]


def ordered_elements(elements: Sequence[str]) -> list[str]:
    """Each element once, by atomic number.

    Raises:
        TrainingError: no element, or one that does not exist.
    """
    from ase.data import atomic_numbers

    if not elements:
        raise TrainingError("a model needs at least one element; name them in `model.elements`")
    element_lookup(elements)
    return sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])


def fill(model: Any, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights: all that the network has and no others (buffers are derived from the arguments)."""
    if any(tensor.dtype == torch.float64 for tensor in weights.values() if tensor.ndim > 1):
        model.double()
    try:
        result = model.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{name}: weights and architecture do not match ({error})") from error
    missing = sorted(set(result.missing_keys) & {key for key, _ in model.named_parameters()})
    if missing:
        raise TrainingError(f"{name}: the weights {missing[:3]} are missing; restore or download the model again")
    foreign = sorted(key for key in result.unexpected_keys if key.endswith((".weight", ".bias")))
    if foreign:
        raise TrainingError(f"{name}: the network has no {foreign[:3]}; use the version of matgl or IDEAL that made it")
