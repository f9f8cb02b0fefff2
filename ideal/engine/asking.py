"""From an uncertain frame to label requests: select atoms, draw audits, embed each, keep the accepted cells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ideal.audit import AuditDraw
from ideal.config import Config
from ideal.embedding import embed
from ideal.engine.auditing import Auditor
from ideal.engine.budget import LabelBudget
from ideal.engine.calculations import Calculations
from ideal.engine.events import Embedded
from ideal.engine.frame_files import cell_to_label, crop_frame, substructure_frame
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.seeds import derive_seed
from ideal.engine.trajectory import LabelRequest, Trajectory
from ideal.records import FloatArray, Frame
from ideal.selection import select

Purpose = Literal["selected", "audit"]


class Asker:
    """Decides what a frame asks for.

    Args:
        config: the run's configuration.
        learner: distribution, thresholds and what is known already.
        auditor: says which certain environments are audited with what is asked for.
        budget: labels that may still be asked for.
        calculations: names the keys.
        journal: told about every embedded atom.
    """

    def __init__(
        self,
        config: Config,
        learner: Learner,
        auditor: Auditor,
        budget: LabelBudget,
        calculations: Calculations,
        journal: Journal,
    ) -> None:
        self._config = config
        self._learner = learner
        self._auditor = auditor
        self._budget = budget
        self._calculations = calculations
        self._journal = journal

    def requests(self, trajectory: Trajectory, u: FloatArray) -> list[LabelRequest]:
        """The labels that the trajectory's present frame earns, audits last; empty when it may go on without.

        Nothing is asked for while the trajectory is within ``selection.min_steps_between`` of its last learning, nor
        beyond ``engine.max_labels``. A selected atom that cannot be embedded is told, counted and left out.

        Args:
            trajectory: stands at the frame.
            u: (n_atoms,) uncertainty of every atom.
        """
        if not trajectory.may_ask(self._config.selection.min_steps_between):
            return []
        frame = Frame(cell_to_label(trajectory.sampler.atoms), trajectory.name, trajectory.step)
        uncertainty = self._learner.uncertainty
        selection = select(frame, u, self._learner.threshold, self._config.selection, uncertainty)
        if selection.indices.size and self._budget.selected == 0:
            self._budget.tell_spent(trajectory.name, trajectory.step)
            return []
        requests: list[LabelRequest] = []
        for atom in selection.indices:
            if len(requests) >= self._budget.selected:
                break
            request = self._embed(frame, int(atom), "selected", requests)
            if request is None:
                trajectory.refused += 1
                self._journal.counters.refused += 1
            else:
                requests.append(request)
        if requests:
            requests += self.audits(self._auditor.close(len(requests)), requests)
        return requests

    def audits(self, draws: Sequence[AuditDraw], asked: Sequence[LabelRequest] = ()) -> list[LabelRequest]:
        """Requests for environments that were drawn from those held for certain.

        One that cannot be embedded, whose cell is known, or for which ``engine.max_labels`` leaves no label is counted
        and left out.

        Args:
            draws: what was drawn.
            asked: requests that go out with them.
        """
        requests: list[LabelRequest] = []
        for draw in draws:
            if len(asked) + len(requests) >= self._budget.audits:
                break
            frame = Frame(cell_to_label(draw.atoms), draw.trajectory, draw.step)
            request = self._embed(frame, draw.atom, "audit", [*asked, *requests], weight=float(draw.weight))
            if request is not None:
                requests.append(request)
        self._journal.counters.audits_missing += len(draws) - len(requests)
        return requests

    def _embed(
        self, frame: Frame, atom: int, purpose: Purpose, asked: Sequence[LabelRequest], **origin: Any
    ) -> LabelRequest | None:
        """The request for the cell around an atom; None when it is refused or known. Writes and tells either way."""
        name, step = frame.trajectory, frame.step
        stream = "embedding" if purpose == "selected" else "audit embedding"
        start = time.perf_counter()
        with self._journal.times.stage("embedding"):
            cell = embed(
                frame.atoms,
                atom,
                self._learner.uncertainty,
                rng=derive_seed(self._config.seed, stream, name, step, atom),
                config=self._config.embedding,
                threshold=self._learner.in_distribution,
                min_distances=self._learner.min_distances,
            )
        seconds = time.perf_counter() - start
        request = None
        reason = cell.reason
        if cell.accepted:
            info = {
                "purpose": purpose,
                "trajectory": name,
                "step": step,
                "atom": atom,
                "max_u": float(cell.max_u),
                "whole_frame": bool(cell.whole_frame),
                "center": int(cell.center),
                "core": np.flatnonzero(cell.core).tolist(),
                "threshold": self._learner.threshold,
                **origin,
            }
            request = self._calculations.request(cell_to_label(cell.atoms), info)
            reason = self._known(request.key, {other.key for other in asked})
        if reason:
            request = None
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
                purpose=purpose,
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
