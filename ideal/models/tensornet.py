"""TensorNet, the graph network of Cartesian tensors, on matgl's implementation and with matgl's forward pass.

Simeon and De Fabritiis, NeurIPS 2023, arXiv:2306.06482.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ideal.config import ModelConfig
from ideal.models.edge_potential import ordered_elements
from ideal.models.graph import Graph, GraphBatch
from ideal.models.matgl_potential import MatglPotential, make_network


class TensorNetPotential(MatglPotential):
    """A TensorNet with reference energies; make one with `new` or `load`, see `MatglPotential` for its attributes.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> config = ModelConfig(type="tensornet", n_blocks=1, units=8, n_radial=8)
        >>> TensorNetPotential.new(config, ["Li"], seed=0).evaluate(bulk("Li", cubic=True)).forces.shape
        (2, 3)
    """

    FORMAT = "tensornet-1"
    NETWORK = "TensorNet"

    @classmethod
    def new(cls, config: ModelConfig, elements: Sequence[str], seed: int) -> TensorNetPotential:
        """Random weights, which depend on ``seed`` alone; arguments and errors as for `M3GNetPotential.new`."""
        architecture = {
            "element_types": ordered_elements(elements),
            "units": config.units,
            "nblocks": config.n_blocks,
            "num_rbf": config.n_radial,
            "cutoff": config.cutoff,
            "is_intensive": False,
            "rbf_type": "Gaussian",
            "use_warp": False,
        }
        model = cls.construct(architecture, seed)
        return cls(model, architecture, {}, is_fitted=False, device=config.device, threads=config.threads)

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> Any:
        """See `EdgePotential.construct`."""
        return make_network("TensorNet", architecture, seed)

    def features(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """See `MatglPotential.features`."""
        self._matgl_pass(graph, vectors)
        features: Tensor = self._model.feature_dict["readout"]
        return features
