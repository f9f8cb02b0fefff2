"""New weights that tell environments apart: spreads of order one, whatever the structures; files stay matgl's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import nn

from ideal.config import ModelConfig, TrainingConfig
from ideal.models.graph import collate
from ideal.models.m3gnet import M3GNetPotential
from ideal.models.unit_variance import examples
from ideal.records import Label
from ideal.training.trainer import Trainer


def potential(**changes: object) -> M3GNetPotential:
    config = ModelConfig(n_blocks=2, units=16, max_n=3, max_l=3, device="cpu").model_copy(update=changes)
    return M3GNetPotential.new(config, ["Li"], seed=3)


def lithium(rattle: float = 0.0, seed: int = 0) -> Atoms:
    atoms = bulk("Li", "bcc", a=3.45, cubic=True).repeat(2)
    atoms.positions += np.random.default_rng(seed).normal(0, rattle, atoms.positions.shape)
    return atoms


def spreads(model: M3GNetPotential, structures: list[Atoms]) -> dict[str, float]:
    """Standard deviation of every linear layer's output over edges or atoms, mean over columns."""
    found: dict[str, float] = {}

    def look(name: str):
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found.setdefault(name, float(output.detach().std(dim=0).mean()))

        return hook

    layers = [(name, module) for name, module in model._model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(look(name)) for name, module in layers]
    graph = collate([model.graph(atoms) for atoms in structures])
    with torch.no_grad():
        model._matgl_pass(graph, graph.vectors)
    for hook in hooks:
        hook.remove()
    return found


def test_layers_tell_environments_apart() -> None:
    structures = [lithium(0.1, seed) for seed in range(4)]
    before, after = potential(), potential()
    after.rescale_layers(structures)
    angular = [name for name in spreads(before, structures) if "update_network_bond" in name]
    assert len(angular) == 4
    assert max(spreads(before, structures)[name] for name in angular) < 0.05
    found = spreads(after, structures)
    assert all(0.2 < found[name] < 3.0 for name in angular)
    assert all(0.2 < spread < 2.0 for name, spread in found.items() if "update_func" in name)


def test_energies_depend_on_angles_from_the_start() -> None:
    """Three atoms at 3 Å from the middle one: opening their angle changes the energy of a new network."""

    def bent(degrees: float) -> Atoms:
        angle = np.radians(degrees)
        ends = [[3, 0, 0], [3 * np.cos(angle), 3 * np.sin(angle), 0]]
        return Atoms("Li3", positions=[[0, 0, 0], *ends])

    def change(model: M3GNetPotential) -> float:
        central = [model.evaluate(bent(degrees)).energies[0] for degrees in (150, 179)]  # ends beyond 5 Å
        return abs(central[1] - central[0])

    before, after = potential(), potential()
    after.rescale_layers([lithium(0.1, seed) for seed in range(4)])
    assert change(after) > 10 * change(before)


@pytest.mark.parametrize(
    "structures",
    [[lithium()], [Atoms("Li", positions=[[0, 0, 0]])], [Atoms("Li2", positions=[[0, 0, 0], [0, 0, 2.7]])]],
    ids=["perfect", "isolated", "pair"],
)
def test_structures_that_say_little(structures: list[Atoms]) -> None:
    model = potential()
    model.rescale_layers(structures)
    found = model.evaluate(lithium(0.1))
    assert np.isfinite(found.energy) and np.abs(found.forces).max() < 100
    assert all(torch.isfinite(weight).all() for _, weight in model.named_parameters())


def test_the_same_structures_give_the_same_weights() -> None:
    fingerprints = set()
    for _ in range(2):
        model = potential()
        model.rescale_layers([lithium(0.1, seed) for seed in range(3)])
        fingerprints.add(model.fingerprint())
    assert len(fingerprints) == 1
    assert potential().fingerprint() not in fingerprints


def test_few_atoms_are_looked_at() -> None:
    many = examples([lithium(0.1, seed) for seed in range(100)])
    assert len(many) == 8
    assert len(examples([lithium().repeat(4)] * 3)) == 1
    assert not np.allclose(examples([lithium()])[0].positions, lithium().positions)


def test_only_new_weights_are_rescaled() -> None:
    """Training scales a new network before it learns; one that was fitted keeps its weights until it learns."""
    atoms = lithium(0.1)
    labels = [Label("k", atoms, -1.0, np.full((len(atoms), 3), 0.1), None, "none", "test", 0.0)]
    fitted = potential()
    fitted.is_fitted = True
    changed = []
    for rescale in (True, False):
        for model in (potential(), fitted):
            before = model.weights()
            Trainer(model, TrainingConfig(pretrain={"rescale_layers": rescale}), seed=0)._normalize(labels)
            ratios = [
                float((model.weights()[n] / w).median())
                for n, w in before.items()
                if n.endswith("bond.layers.0.weight")
            ]
            changed.append(ratios)
    assert min(changed[0]) > 7
    assert changed[1] == changed[2] == changed[3] == [1.0, 1.0]
