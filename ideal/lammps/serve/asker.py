"""Which of a client's neighborhoods earn a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.geometry import find_mic

from ideal.config import SelectionConfig
from ideal.engine.asking import Asker
from ideal.engine.open_cells import OpenCell
from ideal.engine.trajectory import Trajectory
from ideal.lammps.serve.client_sampler import ClientSampler
from ideal.lammps.serve.requests import Neighborhood
from ideal.records import FloatArray
from ideal.selection import LEARNED_RADIUS, UpdatableUncertainty


class NeighborhoodAsker(Asker):
    """Opens one cell around the first atom of each neighborhood that is chosen; the rest is the engine's."""

    def open(self, trajectory: Trajectory, u: FloatArray, others: Sequence[Trajectory] = ()) -> list[OpenCell]:
        """The cells that the trajectory's last request earns.

        Args:
            trajectory: a client's.
            u: (n_neighborhoods,) uncertainty of the first atoms.
            others: not looked at.
        """
        sampler = trajectory.sampler
        assert isinstance(sampler, ClientSampler)
        if not trajectory.may_ask(self._config.selection.min_steps_between):
            return []
        learner = self._learner
        with self._journal.times.stage("uncertainty"):
            chosen = choose(sampler.neighborhoods, u, learner.threshold, self._config.selection, learner.uncertainty)
        if chosen and self._budget.selected == 0:
            self._budget.tell_spent(trajectory.name, trajectory.step)
            return []
        return [
            OpenCell(
                neighborhood.atoms,
                trajectory.name,
                trajectory.step,
                (0,),
                "selected",
                learner.threshold,
                learner.in_distribution,
                name=neighborhood.atom,
            )
            for neighborhood in chosen
        ]


def choose(
    neighborhoods: Sequence[Neighborhood],
    u: FloatArray,
    threshold: float,
    config: SelectionConfig,
    uncertainty: UpdatableUncertainty,
) -> list[Neighborhood]:
    """The neighborhoods to embed, the most uncertain first.

    With ``strategy: variance`` a copy of the distribution learns each one that is taken, and those that it then knows
    are left out, as `ideal.selection.select` does with the atoms of a frame. The other strategies take them as they
    come: the client has kept them apart.

    Args:
        neighborhoods: of one request.
        u: (n_neighborhoods,) uncertainty of the first atoms.
        threshold: those above it are candidates.
        config: how many, by which strategy.
        uncertainty: the distribution that gave ``u``.
    """
    candidates = [int(k) for k in np.argsort(-u, kind="stable") if u[k] > threshold]
    chosen: list[Neighborhood] = []
    learned = None
    while candidates and len(chosen) < config.max_per_frame:
        taken = neighborhoods[candidates.pop(0)]
        chosen.append(taken)
        if config.strategy == "variance" and candidates and len(chosen) < config.max_per_frame:
            learned = learned or uncertainty.copy()
            _, distances = find_mic(taken.atoms.positions - taken.atoms.positions[0], taken.atoms.cell, taken.atoms.pbc)
            learned.condition(taken.atoms, distances < LEARNED_RADIUS, threshold)
            values = {k: float(learned.atomic(neighborhoods[k].atoms, [0])[0]) for k in candidates}
            candidates = sorted((k for k in candidates if values[k] > threshold), key=lambda k: -values[k])
    return chosen
