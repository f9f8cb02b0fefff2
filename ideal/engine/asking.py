"""From an uncertain frame to label requests: select atoms, embed each, keep the accepted cells."""

from __future__ import annotations

import time

from ideal.config import Config
from ideal.embedding import embed
from ideal.engine.calculations import Calculations
from ideal.engine.events import Embedded
from ideal.engine.frame_files import cell_to_label, crop_frame, substructure_frame
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.seeds import derive_seed
from ideal.engine.trajectory import LabelRequest, Trajectory
from ideal.records import FloatArray, Frame
from ideal.selection import select


class Asker:
    """Decides what a frame asks for.

    Args:
        config: the run's configuration.
        learner: distribution, threshold and what is known already.
        calculations: names the keys.
        journal: told about every embedded atom.
    """

    def __init__(self, config: Config, learner: Learner, calculations: Calculations, journal: Journal) -> None:
        self._config = config
        self._learner = learner
        self._calculations = calculations
        self._journal = journal

    def requests(self, trajectory: Trajectory, u: FloatArray) -> list[LabelRequest]:
        """The labels that the trajectory's present frame earns; empty when it may go on without.

        Nothing is asked for while the trajectory is within ``selection.min_steps_between`` of its last learning, nor
        beyond ``engine.max_labels``. A selected atom that cannot be embedded is told, counted and left out.

        Args:
            trajectory: stands at the frame.
            u: (n_atoms,) uncertainty of every atom.
        """
        if not trajectory.may_ask(self._config.selection.min_steps_between) or self._budget(0) == 0:
            return []
        frame = Frame(cell_to_label(trajectory.sampler.atoms), trajectory.name, trajectory.step)
        selection = select(frame, u, self._learner.threshold, self._config.selection)
        requests: list[LabelRequest] = []
        for atom in selection.indices:
            if self._budget(len(requests)) == 0:
                break
            request = self._embed(trajectory, frame, int(atom), {request.key for request in requests})
            if request is not None:
                requests.append(request)
        return requests

    def _budget(self, requested: int) -> int | None:
        """Labels that may still be asked for; None without a limit."""
        limit = self._config.engine.max_labels
        return None if limit is None else max(0, limit - self._journal.counters.asked - requested)

    def _embed(self, trajectory: Trajectory, frame: Frame, atom: int, asked: set[str]) -> LabelRequest | None:
        name, step = frame.trajectory, frame.step
        start = time.perf_counter()
        with self._journal.times.stage("embedding"):
            cell = embed(
                frame.atoms,
                atom,
                self._learner.uncertainty,
                rng=derive_seed(self._config.seed, "embedding", name, step, atom),
                config=self._config.embedding,
                threshold=self._learner.threshold,
                min_distances=self._learner.min_distances,
            )
        seconds = time.perf_counter() - start
        request = None
        reason = cell.reason
        if cell.accepted:
            info = {
                "purpose": "selected",
                "trajectory": name,
                "step": step,
                "atom": atom,
                "max_u": float(cell.max_u),
                "whole_frame": bool(cell.whole_frame),
            }
            request = self._calculations.request(cell_to_label(cell.atoms), info)
            reason = self._known(request.key, asked)
        if reason:
            request = None
            trajectory.refused += 1
            self._journal.counters.refused += 1
        key = request.key if request else ""
        directory = self._journal.directory
        with self._journal.times.stage("io"):
            directory.log("substructures.extxyz").append(substructure_frame(cell, key, name, step, atom))
            directory.log("crops.extxyz").append(crop_frame(cell, key, name, step, atom))
        self._journal.tell(
            Embedded(
                trajectory=name,
                step=step,
                atom=atom,
                accepted=request is not None,
                reason=reason,
                n_atoms=len(cell.atoms),
                max_u=float(cell.max_u),
                seconds=seconds,
                key=key,
            )
        )
        return request

    def _known(self, key: str, asked: set[str]) -> str:
        """Why an accepted cell earns no label of its own; empty when it does."""
        if key in asked:
            return "the same cell as another atom of this frame"
        if key in self._learner.dataset:
            return "this cell has been learned already"
        return ""
