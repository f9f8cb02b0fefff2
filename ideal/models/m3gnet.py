"""M3GNet, the graph network with three-body interactions, on matgl's implementation.

    E = sum_i [ E_ref(Z_i) + scale * e_i ],    F_i = -dE/dr_i,    sigma = (1/V) sum_edges vec (dE/dvec)^T

e_i is the network's output for atom i and a function of edge vectors only; reference energies are added in float64. The
network, its parameters and its initialization are matgl's. Evaluation is `ideal.models.chunked` and training
`ideal.models.fused` where these reproduce matgl's forward pass, else that pass itself. This is the only file that
imports matgl, and it does so on first use.

Chen and Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ideal import __version__
from ideal.config import ModelConfig
from ideal.errors import TrainingError
from ideal.models.base import Evaluation, Factors, Prediction
from ideal.models.basis import radial_functions
from ideal.models.chunked import ChunkedEvaluator
from ideal.models.device import Device, set_threads, torch_device
from ideal.models.differentiable import gated_factors
from ideal.models.fused import FusedForward, supports
from ideal.models.graph import Graph, GraphBatch, bounded, build_graph, collate, element_lookup
from ideal.models.layers import covers
from ideal.models.neighbor_list import NeighborList
from ideal.models.storage import MODEL_FILE, fingerprint, read_model, write_model
from ideal.records import FloatArray

_FORMAT = "m3gnet-1"
_INITIAL_GAIN = 1.5
_SUMMED_EDGES = 1_000_000


class M3GNetPotential:
    """An M3GNet with reference energies; satisfies `TrainablePotential` and `DifferentiablePotential`.

    Make one with `new` or `load`.

    Attributes:
        elements: chemical symbols it knows.
        cutoff: two-body cutoff in Å.
        energy_scale: eV per unit of the network's output.
        is_fitted: false until it was trained (or loaded from a trained one).
        revision: grows whenever weights or reference energies change.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> potential = M3GNetPotential.new(ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2), ["Li"], seed=0)
        >>> potential.evaluate(bulk("Li", cubic=True)).forces.shape
        (2, 3)
    """

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
        self._fused = FusedForward(self._model) if supports(self._model) else None
        self._chunk_atoms = chunk_atoms
        self._neighbors = NeighborList(self.cutoff)

    # --- making, loading, saving ---

    @classmethod
    def new(cls, config: ModelConfig, elements: Sequence[str], seed: int) -> M3GNetPotential:
        """Random weights, which depend on ``seed`` alone.

        Args:
            config: sizes, cutoffs, device, threads.
            elements: chemical symbols; order and duplicates do not matter.
            seed: seed of the weights.

        Raises:
            TrainingError: no element, or one that does not exist; CUDA asked for but missing.
        """
        from ase.data import atomic_numbers

        if not elements:
            raise TrainingError("a model needs at least one element; name them in `model.elements`")
        element_lookup(elements)
        ordered = sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])
        architecture = {
            "element_types": ordered,
            "dim_node_embedding": config.units,
            "dim_edge_embedding": config.units,
            "units": config.units,
            "nblocks": config.n_blocks,
            "max_n": config.max_n,
            "max_l": config.max_l,
            "cutoff": config.cutoff,
            "threebody_cutoff": config.threebody_cutoff,
            "is_intensive": False,
            "use_smooth": True,
            "rbf_type": "SphericalBessel",
        }
        model = _construct(architecture, seed)
        _amplify(model)
        return cls(
            model,
            architecture,
            {},
            is_fitted=False,
            device=config.device,
            threads=config.threads,
            chunk_atoms=None if config.chunk_atoms == "auto" else config.chunk_atoms,
        )

    @classmethod
    def load(
        cls, path_or_name: str | Path, device: Device = "auto", threads: int = 1, chunk_atoms: int | None = None
    ) -> M3GNetPotential:
        """Load a model folder of IDEAL or matgl, or a pretrained model by its matgl name.

        Args:
            path_or_name: folder written by `save`; folder with matgl's ``model.json`` and ``state.pt``; or a name
                such as ``M3GNet-MatPES-PBE-v2025.1-PES`` (downloaded by matgl on first use).
            device: where it runs.
            threads: threads of torch on the CPU.
            chunk_atoms: atoms evaluated at a time; None: as many as suit the processor's cache.

        Raises:
            TrainingError: nothing of that name, not an M3GNet for energies, or a damaged file.
        """
        path = Path(path_or_name)
        options: dict[str, Any] = {"device": device, "threads": threads, "chunk_atoms": chunk_atoms}
        if (path / MODEL_FILE).is_file():
            return cls._load_own(path, options)
        if (path / "model.json").is_file():
            return cls._load_matgl_folder(path, options)
        if path.exists() or path.is_absolute() or str(path_or_name).startswith((".", "~")):
            raise TrainingError(
                f"{path_or_name}: no model there; name a folder with {MODEL_FILE} (saved by IDEAL), with model.json "
                "and state.pt (saved by matgl), or a matgl model name"
            )
        return cls._load_matgl_name(str(path_or_name), options)

    @classmethod
    def _load_own(cls, path: Path, options: dict[str, Any]) -> M3GNetPotential:
        weights, header = read_model(path)
        if header.get("format") != _FORMAT:
            raise TrainingError(
                f"{path}: format {header.get('format')!r} is not {_FORMAT!r}; use the version of IDEAL that wrote it"
            )
        model = _construct(header["architecture"])
        _fill(model, weights, str(path))
        keys = ("reference_energies", "energy_scale", "energy_offset", "is_fitted")
        return cls(model, header["architecture"], **{key: header[key] for key in keys}, **options)

    @classmethod
    def _load_matgl_folder(cls, path: Path, options: dict[str, Any]) -> M3GNetPotential:
        """matgl's files without its ``model.pt``: arguments from JSON, arrays through the restricted unpickler."""
        try:
            description = json.loads((path / "model.json").read_text(encoding="utf-8"))
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise TrainingError(f"{path}: {error.filename} is missing; copy the whole matgl folder") from None
        except Exception as error:  # torch.load raises many kinds for a file that is not a plain state dictionary
            raise TrainingError(f"{path}: not a readable matgl model ({error}); download it again") from error
        arguments = description.get("kwargs", {})
        inner = arguments.get("model") if description.get("@class") == "Potential" else None
        kind = inner.get("@class") if isinstance(inner, dict) else description.get("@class")
        if kind != "M3GNet":
            raise TrainingError(f"{path}: holds a {kind}; IDEAL loads M3GNet models")
        if arguments.get("calc_repuls"):
            raise TrainingError(f"{path}: has a nuclear repulsion term, which IDEAL lacks; use another model")
        architecture = inner["init_args"] if isinstance(inner, dict) else arguments
        model = _construct(architecture)
        prefix = "model." if isinstance(inner, dict) else ""
        _fill(model, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}, str(path))
        elements = architecture["element_types"]
        return cls(
            model,
            architecture,
            _references(elements, state.get("element_refs.property_offset"), str(path)),
            energy_scale=float(state.get("data_std", 1.0)),
            energy_offset=float(state.get("data_mean", 0.0)),
            **options,
        )

    @classmethod
    def _load_matgl_name(cls, name: str, options: dict[str, Any]) -> M3GNetPotential:
        import matgl

        try:
            loaded = matgl.load_model(name)
        except Exception as error:  # a name unknown, a network that is down: matgl wraps them all alike
            raise TrainingError(
                f"{name!r} is neither a folder nor a model that matgl can download ({error}); check the spelling and "
                "the network, or name a folder"
            ) from error
        model = getattr(loaded, "model", loaded)
        if type(model).__name__ != "M3GNet" or getattr(loaded, "calc_repuls", False):
            raise TrainingError(f"{name!r} is a {type(model).__name__}; name a plain M3GNet potential")
        references = getattr(loaded, "element_refs", None)
        architecture = {k: v for k, v in model._init_args.items() if _is_json(v)}
        return cls(
            model,
            architecture,
            _references(
                architecture["element_types"], None if references is None else references.property_offset, name
            ),
            energy_scale=float(getattr(loaded, "data_std", 1.0)),
            energy_offset=float(getattr(loaded, "data_mean", 0.0)),
            **options,
        )

    def save(self, directory: str | Path) -> None:
        """Write weights, architecture, reference energies and versions into ``directory``, atomically.

        Raises:
            TrainingError: the folder cannot be written.
        """
        import matgl

        versions = {"ideal": __version__, "torch": torch.__version__, "matgl": matgl.__version__}
        write_model(directory, self._model.state_dict(), {**self._header(), "versions": versions})

    def _header(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
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
        if self._fused is not None and covers(self._model):
            evaluate = ChunkedEvaluator(self._model, self._fused.basis, self._chunk_atoms)
            energies, gradient = evaluate(graph.types, graph.source, graph.target, graph.vectors)
            return energies * self.energy_scale, gradient.mul_(self.energy_scale)
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
        if self._fused is not None:
            return self.energy_scale * self._fused(graph.types, graph.source, graph.target, vectors, twice)
        self._matgl_pass(graph, vectors)
        return self.energy_scale * self._model.feature_dict["readout"].view(-1)

    def readout_factors(self, graph: Graph, vectors: Tensor, differentiable: bool = False) -> list[Factors]:
        """Energy gradient by readout weights, factorized (see `ideal.models.base.DifferentiablePotential`)."""
        with torch.set_grad_enabled(differentiable):
            if self._fused is not None:
                nodes = self._fused.nodes(graph.types, graph.source, graph.target, vectors, differentiable)
            else:
                self._matgl_pass(graph, vectors)
                nodes = self._model.feature_dict[f"gc_{self._model.n_blocks}"]["node_feat"]
        return gated_factors(self._model.final_layer.gated, nodes, self.energy_scale, differentiable)

    def _matgl_pass(self, graph: Graph | GraphBatch, vectors: Tensor) -> None:
        """matgl's own pass: all atoms at the origin, each edge's vector as its image shift; so vectors are ours."""
        edges = torch.stack([graph.source, graph.target])
        origin = vectors.new_zeros(graph.types.shape[0], 3)
        self._model(SimpleNamespace(node_type=graph.types, pos=origin, edge_index=edges, pbc_offshift=vectors))

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

    def double(self) -> M3GNetPotential:
        """Turn the network to float64 (four times slower; for numerical checks) and return itself."""
        self._model.double()
        self.changed()
        return self

    def without_fused_pass(self) -> M3GNetPotential:
        """Use matgl's own forward pass from now on (for comparison; slower) and return itself."""
        self._fused = None
        self.changed()
        return self


_VOIGT_ROWS = [0, 1, 2, 1, 0, 0]
_VOIGT_COLUMNS = [0, 1, 2, 2, 2, 1]


def _voigt(tensor: FloatArray) -> FloatArray:
    """(6,) of a (3, 3) tensor, symmetrized."""
    symmetric = 0.5 * (tensor + tensor.T)
    return symmetric[_VOIGT_ROWS, _VOIGT_COLUMNS]


def _construct(architecture: Mapping[str, Any], seed: int = 0) -> Any:
    """A matgl M3GNet whose random weights depend on ``seed`` alone; torch's global generator is left as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matgl.models import M3GNet
    if architecture.get("is_intensive", True) or architecture.get("include_state", False):
        raise TrainingError("the model predicts no extensive energy (is_intensive or include_state); use another")
    with torch.random.fork_rng(devices=[]), _closed_form_basis():
        torch.manual_seed(seed)
        try:
            return M3GNet(**{**architecture, "element_types": tuple(architecture["element_types"])})
        except (TypeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"matgl cannot build this M3GNet ({error}); use the matgl version it was made with"
            ) from error


@contextlib.contextmanager
def _closed_form_basis() -> Iterator[None]:
    """Let matgl build its smooth radial basis from `radial_matrix` instead of symbolic algebra.

    The functions are the same; sympy takes 3 s for nine of them and 23 s for the sixteen of the largest models.
    """
    from matgl.layers import _basis

    name = "_get_lambda_func"
    symbolic = getattr(_basis, name, None)
    if symbolic is None:  # another matgl: slower, still right
        yield
        return
    setattr(_basis, name, radial_functions)
    try:
        yield
    finally:
        setattr(_basis, name, symbolic)


def _amplify(model: Any) -> None:
    """Enlarge the weights of a new network, so that its output depends on its input from the start.

    torch draws weights of variance 1 / (3 n); through the gated networks, three layers deep, that shrinks signals a
    thousandfold, and training begins with a plateau. Half as large again shortens it (measured on lithium) without
    making the network rough: at a gain of 2.2 some seeds never learn, and forces on unknown structures are worse.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight *= _INITIAL_GAIN


def _fill(model: Any, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights; every parameter must be there (buffers are derived from the arguments)."""
    if any(tensor.dtype == torch.float64 for tensor in weights.values() if tensor.ndim > 1):
        model.double()
    try:
        result = model.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{name}: weights and architecture do not match ({error})") from error
    missing = sorted(set(result.missing_keys) & {key for key, _ in model.named_parameters()})
    if missing:
        raise TrainingError(f"{name}: the weights {missing[:3]} are missing; restore or download the model again")


def _references(elements: Sequence[str], offsets: Tensor | None, name: str) -> dict[str, float]:
    """matgl's reference energies by element."""
    if offsets is None:
        return {}
    if offsets.ndim != 1 or len(offsets) < len(elements):
        raise TrainingError(f"{name}: reference energies of shape {tuple(offsets.shape)} for {len(elements)} elements")
    return dict(zip(elements, offsets.double().tolist(), strict=False))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
