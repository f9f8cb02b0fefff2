"""What the potentials made of matgl's networks share beyond `EdgePotential`: loading matgl's files, matgl's pass.

Only this file and its subclasses import matgl, and they do so on first use.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ideal.errors import TrainingError
from ideal.models.base import Factors
from ideal.models.device import Device
from ideal.models.differentiable import gated_factors
from ideal.models.edge_potential import EdgePotential, fill
from ideal.models.graph import Graph, GraphBatch
from ideal.models.storage import MODEL_FILE


class MatglPotential(EdgePotential):
    """A network of matgl with reference energies; satisfies `DifferentiablePotential` too.

    Make one with the subclass's `new`, or `load`. A subclass writes `NETWORK`, `construct` and `features`.
    """

    NETWORK: ClassVar[str]
    """matgl's name of the network's class."""

    def features(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """(n_atoms, n_features), from which the readout makes energies; arguments as for `network_energies`."""
        raise NotImplementedError

    def network_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """See `EdgePotential.network_energies`."""
        energies: Tensor = self._model.final_layer(self.features(graph, vectors, twice))
        return energies.view(-1)

    # --- loading ---

    @classmethod
    def load(
        cls, path_or_name: str | Path, device: Device = "auto", threads: int = 1, chunk_atoms: int | None = None
    ) -> Self:
        """Load a model folder of IDEAL or matgl, or a pretrained model by its matgl name.

        Args:
            path_or_name: folder written by `save`; folder with matgl's ``model.json`` and ``state.pt``; or a name
                such as ``M3GNet-MatPES-PBE-v2025.1-PES`` (downloaded by matgl on first use).
            device: where it runs.
            threads: threads of torch on the CPU.
            chunk_atoms: atoms evaluated at a time; None: as many as suit the processor's cache.

        Raises:
            TrainingError: nothing of that name, not such a network for energies, or a damaged file.
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
    def _load_matgl_folder(cls, path: Path, options: dict[str, Any]) -> Self:
        """matgl's files without its ``model.pt``: arguments from JSON, arrays through the restricted unpickler."""
        try:
            description = json.loads((path / "model.json").read_text(encoding="utf-8"))
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise TrainingError(f"{path}: {error.filename} is missing; copy the whole matgl folder") from None
        except Exception as error:  # torch.load raises many kinds for a file that is not a plain state dictionary
            raise TrainingError(f"{path}: not a readable matgl model ({error}); download it again") from error
        if not isinstance(state, Mapping):
            raise TrainingError(f"{path / 'state.pt'}: not a dictionary of arrays; download the model again")
        try:
            is_potential = description["@class"] == "Potential"
            arguments = description["kwargs"]
            inner = arguments["model"] if is_potential else description
            kind, architecture = inner["@class"], inner["init_args"] if is_potential else arguments
            elements = list(architecture["element_types"])
            repulsion = bool(arguments.get("calc_repuls"))
        except (AttributeError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path / 'model.json'}: not what matgl writes ({type(error).__name__}: {error}); "
                "download the model again"
            ) from None
        if kind != cls.NETWORK:
            raise TrainingError(f"{path}: holds a {kind}, not a {cls.NETWORK}; set `model.type` accordingly")
        if repulsion:
            raise TrainingError(f"{path}: has a nuclear repulsion term, which IDEAL lacks; use another model")
        try:
            model = cls.construct(architecture)
        except TrainingError as error:
            raise TrainingError(f"{path / 'model.json'}: {error}") from error
        prefix = "model." if is_potential else ""
        fill(model, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}, str(path))
        return cls(
            model,
            architecture,
            _references(elements, state.get("element_refs.property_offset"), str(path)),
            energy_scale=float(state.get("data_std", 1.0)),
            energy_offset=float(state.get("data_mean", 0.0)),
            **options,
        )

    @classmethod
    def _load_matgl_name(cls, name: str, options: dict[str, Any]) -> Self:
        import matgl

        try:
            loaded = matgl.load_model(name)
        except Exception as error:  # a name unknown, a network that is down: matgl wraps them all alike
            raise TrainingError(
                f"{name!r} is neither a folder nor a model that matgl can download ({error}); check the spelling and "
                "the network, or name a folder"
            ) from error
        model = getattr(loaded, "model", loaded)
        if type(model).__name__ != cls.NETWORK or getattr(loaded, "calc_repuls", False):
            raise TrainingError(f"{name!r} is a {type(model).__name__}; name a plain {cls.NETWORK} potential")
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

    def _versions(self) -> dict[str, str]:
        import matgl

        return {**super()._versions(), "matgl": matgl.__version__}

    def readout_factors(self, graph: Graph, vectors: Tensor, differentiable: bool = False) -> list[Factors]:
        """Energy gradient by readout weights, factorized (see `ideal.models.base.DifferentiablePotential`)."""
        with torch.set_grad_enabled(differentiable):
            nodes = self.features(graph, vectors, differentiable)
        return gated_factors(self._model.final_layer.gated, nodes, self.energy_scale, differentiable)

    def _matgl_pass(self, graph: Graph | GraphBatch, vectors: Tensor) -> None:
        """matgl's own pass: all atoms at the origin, each edge's vector as its image shift; so vectors are ours."""
        edges = torch.stack([graph.source, graph.target])
        origin = vectors.new_zeros(graph.types.shape[0], 3)
        self._model(SimpleNamespace(node_type=graph.types, pos=origin, edge_index=edges, pbc_offshift=vectors))


def make_network(name: str, architecture: Mapping[str, Any], seed: int) -> Any:
    """A network of matgl whose random weights depend on ``seed`` alone; torch's global generator is left as it was.

    Raises:
        TrainingError: the network gives no extensive energy, or matgl cannot build it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matgl import models

        network = getattr(models, name)  # imported here, on first use
    if architecture.get("is_intensive", True) or architecture.get("include_state", False):
        raise TrainingError("the model predicts no extensive energy (is_intensive or include_state); use another")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return network(**{**architecture, "element_types": tuple(architecture["element_types"])})
        except (TypeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"matgl cannot build this {name} ({error}); use the matgl version it was made with"
            ) from error


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
