"""Scale the random weights of a new M3GNet: by one gain, or so that every layer tells given environments apart.

    W <- W t / s,    s = spread of the layer's output over edges or atoms, layer by layer in the order of evaluation

(layer-sequential unit variance; Mishkin and Matas, arXiv:1511.06422). torch draws weights for inputs of variance one,
but what M3GNet's layers take is as small as its radial functions and envelopes are where neighbors sit: in
body-centered lithium the three-body sums are a thousandth. Such a network begins as a pair potential, and many thousand
steps later it still nearly is one. Only the scale of weights changes: the network stays matgl's, and its files are read
by matgl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from ideal.models.graph import Graph, GraphBatch

Pass = Callable[[], None]
"""One evaluation of the network on the structures that scales are taken from."""

_SPREAD, _ANGULAR, _READOUT = 0.6, 1.0, 0.3
"""Wanted spread of a layer's output: in general, of the three-body term, of the readout's last layer. In general less
than one, where SiLU and sigmoid bend but do not saturate; the readout's is that of atomic energies in units of the
forces' root mean square times 1 Å."""
_LEAST, _LARGEST = 1e-6, 1e3
_STRUCTURES, _ATOMS = 8, 500
_RATTLE = 0.04


def examples(structures: Sequence[Atoms]) -> list[Atoms]:
    """A few of ``structures``, evenly drawn, with displacements of 4 % of the shortest distance, as by heat.

    At most eight, of together 500 atoms unless the first is larger. In a perfect crystal nothing differs between atoms;
    displaced ones differ as they will in dynamics.
    """
    rng = np.random.default_rng(0)
    chosen: list[Atoms] = []
    for index in np.unique(np.linspace(0, len(structures) - 1, _STRUCTURES).astype(int)):
        if chosen and sum(map(len, chosen)) + len(structures[index]) > _ATOMS:
            continue
        atoms = structures[index].copy()
        atoms.positions += _RATTLE * _shortest(atoms) * rng.standard_normal(atoms.positions.shape)
        chosen.append(atoms)
    return chosen


def amplify(model: nn.Module, gain: float) -> None:
    """Multiply the weights of all linear layers with ``gain``."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight *= gain


def equalize(model: Any, graph: Graph | GraphBatch, run: Pass) -> None:
    """Rescale the weights of ``model`` in place.

    Args:
        model: matgl's M3GNet.
        graph: what ``run`` evaluates.
        run: evaluates ``model``, through its modules, on ``graph``.
    """
    if not len(graph.source):
        return
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    with torch.no_grad():
        for layer in _in_order(list(names), run):
            factor = _factor(model, layer, names[layer], graph, run)
            if factor is not None:
                layer.weight.mul_(factor)


def _in_order(layers: Sequence[nn.Linear], run: Pass) -> list[nn.Linear]:
    """Those of ``layers`` that are used, in the order of their first use."""
    order: list[nn.Linear] = []
    hooks = [layer.register_forward_hook(lambda used, *_: order.append(used)) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


def _factor(model: Any, layer: nn.Linear, name: str, graph: Graph | GraphBatch, run: Pass) -> float | None:
    """What to multiply the weights with; None where nothing differs."""
    output = _output(layer, run)
    wanted = _SPREAD
    if name.endswith("edge_weight_func"):  # R: a factor of every message
        spread = output.square().mean().sqrt()
    elif name.endswith("node_weight_func"):  # R, too, but messages are summed over an atom's neighbors
        block = model.get_submodule(name.rpartition(".")[0])
        messages = _output(block.node_update_func, run) * output
        sums = messages.new_zeros(len(graph.types), messages.shape[1]).index_add_(0, graph.source, messages)
        spread = _spread(sums)
    else:
        spread = _spread(output)
        if "update_network_bond" in name:
            wanted = _ANGULAR
        elif output.shape[1] == 1:
            wanted = _READOUT
    if not float(spread) > _LEAST:
        return None
    return min(wanted / float(spread), _LARGEST)


def _output(module: nn.Module, run: Pass) -> Tensor:
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    run()
    hook.remove()
    return seen[0]


def _spread(values: Tensor) -> Tensor:
    """Standard deviation over rows, the mean over columns."""
    return values.std(dim=0, correction=0).mean() if len(values) else values.new_zeros(())


def _shortest(atoms: Atoms) -> float:
    """The shortest distance between atoms or their images, Å; 1 where there is none within 5 Å."""
    from ase.neighborlist import neighbor_list

    distances = neighbor_list("d", atoms, 5.0)
    return float(distances.min()) if len(distances) else 1.0
