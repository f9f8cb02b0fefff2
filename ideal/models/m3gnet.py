"""M3GNet, the graph network with three-body interactions, on matgl's implementation.

The network and its parameters are matgl's, and so are new weights, up to their scale (`ideal.models.unit_variance`).
Evaluation is `ideal.models.chunked` and training `ideal.models.fused` where these reproduce matgl's forward pass, else
that pass itself.

Chen and Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ase import Atoms
from torch import Tensor

from ideal.config import ModelConfig
from ideal.models.basis import radial_functions
from ideal.models.chunked import ChunkedEvaluator
from ideal.models.edge_potential import ordered_elements
from ideal.models.fused import FusedForward, supports
from ideal.models.graph import Graph, GraphBatch, collate
from ideal.models.layers import covers
from ideal.models.matgl_potential import MatglPotential, make_network
from ideal.models.unit_variance import amplify, equalize, examples

_INITIAL_GAIN = 1.5
"""torch draws weights of variance 1 / (3 n); through the gated networks, three layers deep, that shrinks signals a
thousandfold, and training begins with a plateau. Half as large again shortens it (measured on lithium) without making
the network rough; at a gain of 2.2 some seeds never learn, and forces on unknown structures are worse."""


class M3GNetPotential(MatglPotential):
    """An M3GNet with reference energies; make one with `new` or `load`, see `MatglPotential` for its attributes.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> potential = M3GNetPotential.new(ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2), ["Li"], seed=0)
        >>> potential.evaluate(bulk("Li", cubic=True)).forces.shape
        (2, 3)
    """

    FORMAT = "m3gnet-1"
    NETWORK = "M3GNet"

    def __init__(self, model: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self._fused = FusedForward(self._model) if supports(self._model) else None
        self._by_chunks = self._fused is not None and covers(self._model)

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
        architecture = {
            "element_types": ordered_elements(elements),
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
        model = cls.construct(architecture, seed)
        amplify(model, _INITIAL_GAIN)
        return cls(
            model,
            architecture,
            {},
            is_fitted=False,
            device=config.device,
            threads=config.threads,
            chunk_atoms=None if config.chunk_atoms == "auto" else config.chunk_atoms,
        )

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> Any:
        """See `EdgePotential.construct`."""
        with _closed_form_basis():
            return make_network("M3GNet", architecture, seed)

    def features(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """See `MatglPotential.features`."""
        if self._fused is not None:
            return self._fused.nodes(graph.types, graph.source, graph.target, vectors, twice)
        self._matgl_pass(graph, vectors)
        features: Tensor = self._model.feature_dict[f"gc_{self._model.n_blocks}"]["node_feat"]
        return features

    def _energies_and_gradient(self, graph: Graph | GraphBatch) -> tuple[Tensor, Tensor]:
        if self._fused is None or not self._by_chunks:
            return super()._energies_and_gradient(graph)
        evaluate = ChunkedEvaluator(self._model, self._fused.basis, self._chunk_atoms)
        energies, gradient = evaluate(graph.types, graph.source, graph.target, graph.vectors)
        return energies * self.energy_scale, gradient.mul_(self.energy_scale)

    def rescale_layers(self, structures: Sequence[Atoms]) -> None:
        """Give each layer's output a spread of order one over ``structures`` (`ideal.models.unit_variance`)."""
        graph = collate([self.graph(atoms) for atoms in examples(structures)])
        equalize(self._model, graph, lambda: self._matgl_pass(graph, graph.vectors))
        self.changed()

    def without_fused_pass(self) -> M3GNetPotential:
        """Use matgl's own forward pass from now on (for comparison; slower) and return itself."""
        self._fused = None
        self.changed()
        return self


@contextlib.contextmanager
def _closed_form_basis() -> Iterator[None]:
    """Let matgl build its smooth radial basis from `radial_matrix` instead of symbolic algebra.

    The functions are the same; sympy takes 3 s for nine of them and 23 s for the sixteen of the largest models.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
