"""From an uncertain frame to label requests: select atoms, draw audits, have cells made, keep the accepted ones.

A frame *opens* the cells of the atoms that were selected; they are made beside everything else (`ideal.embedding.pool`)
and *taken* in the order of asking, each as soon as it is made. When the last selected one is in, the audits that go
with them are drawn and opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ideal.audit import AuditDraw
from ideal.config import Config
from ideal.embedding.pool import CellJob, CellPool, Order
from ideal.engine.auditing import Auditor
from ideal.engine.budget import LabelBudget
from ideal.engine.calculations import Calculations
from ideal.engine.events import Embedded
from ideal.engine.frame_files import cell_to_label, crop_frame, substructure_frame
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.open_cells import OpenCell
from ideal.engine.trajectory import LabelRequest, Trajectory
from ideal.errors import EmbeddingError, UncertaintyError
from ideal.records import FloatArray, Frame, Substructure
from ideal.selection import LEARNED_RADIUS, Pending, select


@dataclass(frozen=True)
class Refusal:
    """Why a cell earns no label.

    Attributes:
        reason: one line; empty for a cell that is known already.
        physical: false when atoms of the frame itself are in contact there.
    """

    reason: str
    physical: bool = True


class Asker:
    """Decides what a frame asks for, and has it made.

    Args:
        config: the run's configuration.
        learner: distribution, thresholds and what is known already.
        auditor: says which certain environments are audited with what is asked for.
        budget: labels that may still be asked for.
        calculations: names the keys.
        journal: told about every embedded atom.
        pool: makes the cells.
    """

    def __init__(
        self,
        config: Config,
        learner: Learner,
        auditor: Auditor,
        budget: LabelBudget,
        calculations: Calculations,
        journal: Journal,
        pool: CellPool,
    ) -> None:
        self._config = config
        self._learner = learner
        self._auditor = auditor
        self._budget = budget
        self._calculations = calculations
        self._journal = journal
        self._pool = pool
        self._orders: dict[OpenCell, tuple[Order, int]] = {}

    # --- opening ------------------------------------------------------------------------------------------------------

    def may_ask(self, trajectory: Trajectory) -> bool:
        """Whether a frame of it may ask now: it has moved on since it learned, and the budget is not spent."""
        return trajectory.may_ask(self._config.selection.min_steps_between) and self._budget.selected > 0

    def open(self, trajectory: Trajectory, u: FloatArray, others: Sequence[Trajectory] = ()) -> list[OpenCell]:
        """The cells that the trajectory's present frame earns; empty when it may go on without. Nothing is begun yet.

        Nothing is asked for while the trajectory is within ``selection.min_steps_between`` of its last learning, nor
        beyond ``engine.max_labels``.

        Args:
            trajectory: stands at the frame.
            u: (n_atoms,) uncertainty of every atom.
            others: trajectories that wait; what their labels will teach is not asked for again.
        """
        if not trajectory.may_ask(self._config.selection.min_steps_between):
            return []
        learner = self._learner
        if u.max() <= learner.threshold:
            return []  # before the frame is asked for, which may have to be gathered
        frame = Frame(cell_to_label(trajectory.sampler.atoms), trajectory.name, trajectory.step)
        with self._journal.times.stage("uncertainty"):
            selection = select(
                frame,
                u,
                learner.threshold,
                self._config.selection,
                learner.uncertainty,
                self._config.seed,
                _pending(others, self._config.selection.min_distance),
            )
        if selection.indices.size and self._budget.selected == 0:
            self._budget.tell_spent(trajectory.name, trajectory.step)
            return []
        return [
            OpenCell(
                frame.atoms, frame.trajectory, frame.step, atoms, "selected", learner.threshold, learner.in_distribution
            )
            for atoms in selection.cells
        ]

    def audits_of(self, n_selected: int) -> list[OpenCell]:
        """The audits that go with ``n_selected`` cells of one frame."""
        return self.open_audits(self._auditor.close(n_selected))

    def open_way(self, trajectory: Trajectory, cell: OpenCell) -> list[OpenCell]:
        """The cell that takes the place of one whose frame is not physical: around the same atoms, on the way there.

        Args:
            trajectory: whose frame it is; its way ends before the frame that is taken.
            cell: was refused.

        Returns:
            One cell of the last frame in which no atoms were in contact; none where there is no such frame.
        """
        frame = trajectory.way.last_physical(cell.atoms, self._learner.min_distances)
        if frame is None:
            return []
        trajectory.way.end_before(frame.step)
        return [replace(cell, atoms=frame.atoms, step=frame.step)]

    def open_halfway(self, trajectory: Trajectory, request: LabelRequest) -> list[OpenCell]:
        """The cell that takes the place of a label that is not learned: around the same atoms, halfway on the way.

        Args:
            trajectory: stands where the way leads; its way ends before the frame that is taken.
            request: the label, of its frame or of one on the way.

        Returns:
            One cell of the frame in the middle of those left before the label's, or the last before that in which no
            atoms were in contact; none where there is no such frame.
        """
        info = request.info
        frame = trajectory.way.last_physical(trajectory.sampler.atoms, self._learner.min_distances, info["step"])
        if frame is None:
            return []
        trajectory.way.end_before(frame.step)
        centers = tuple(info.get("atoms", [info["atom"]]))
        limit = self._learner.in_distribution
        return [OpenCell(frame.atoms, trajectory.name, frame.step, centers, "selected", info["threshold"], limit)]

    def open_audits(self, draws: Sequence[AuditDraw]) -> list[OpenCell]:
        """The cells of environments that were drawn from those held for certain."""
        learner = self._learner
        return [
            OpenCell(
                cell_to_label(draw.atoms),
                draw.trajectory,
                draw.step,
                (draw.atom,),
                "audit",
                learner.threshold,
                learner.in_distribution,
                float(draw.weight),
            )
            for draw in draws
        ]

    # --- making -------------------------------------------------------------------------------------------------------

    def order(self, cells: Sequence[OpenCell]) -> None:
        """Have cells made by the distribution as it is now."""
        version = self._learner.updates
        for cell in cells:
            job = CellJob(
                cell.atoms, cell.centers, cell.seed(self._config.seed), cell.limit, dict(self._learner.min_distances)
            )
            self._orders[cell] = self._pool.order(job, self._learner.uncertainty, version), version

    def is_made(self, cell: OpenCell) -> bool:
        """Whether `take` has nothing to wait for."""
        return self._orders[cell][0].ready

    def is_current(self, cell: OpenCell) -> bool:
        """Whether nothing was learned since the cell was ordered: having it made again would give the same one."""
        return self._orders[cell][1] == self._learner.updates

    def wait(self, cell: OpenCell, seconds: float) -> None:
        """Return when the cell is made, or after ``seconds``."""
        with self._journal.times.stage("embedding"):
            self._orders[cell][0].wait(seconds)

    def drop(self, cells: Sequence[OpenCell]) -> None:
        """Have cells no longer made."""
        for cell in cells:
            self._orders.pop(cell)[0].cancel()

    # --- taking -------------------------------------------------------------------------------------------------------

    def may_take(self, cell: OpenCell) -> bool:
        """Whether ``engine.max_labels`` leaves a label for it."""
        return (self._budget.selected if cell.purpose == "selected" else self._budget.audits) >= 1

    def take(self, cell: OpenCell, asked: Sequence[LabelRequest]) -> LabelRequest | Refusal:
        """The request for a cell, waited for where it is not made yet, or why there is none.

        Writes and tells either way.

        Args:
            cell: has been ordered.
            asked: requests that were taken before it and wait for the same update.

        Raises:
            EmbeddingError, UncertaintyError: no cell can be made of this frame. It is told; an audit's is a refusal.
        """
        order, _ = self._orders.pop(cell)
        name, step, atom = cell.trajectory, cell.step, cell.atom
        try:
            with self._journal.times.stage("embedding"):
                made, seconds = order.cell()
        except (EmbeddingError, UncertaintyError) as error:
            self._journal.tell(
                Embedded(name, step, atom, False, str(error), 0, float("nan"), 0.0, key="", purpose=cell.purpose)
            )
            if cell.purpose == "audit":
                return Refusal(str(error))
            raise
        made = replace(made, trajectory=name, step=step)
        answer: LabelRequest | Refusal = Refusal(made.reason, made.physical)
        if made.accepted:
            request = self._calculations.request(cell_to_label(made.atoms), _origin(cell, made))
            known = self._known(request.key, {other.key for other in asked})
            answer = Refusal(known) if known else request
        reason = answer.reason if isinstance(answer, Refusal) else ""
        key = answer.key if isinstance(answer, LabelRequest) else ""
        directory = self._journal.directory
        with self._journal.times.stage("io"):
            directory.log("substructures.extxyz").append(substructure_frame(made, key, name, step, atom))
            directory.log("crops.extxyz").append(crop_frame(made, key, name, step, atom))
        self._journal.tell(
            Embedded(
                trajectory=name,
                step=step,
                atom=atom,
                accepted=not reason,
                reason=reason,
                n_atoms=len(made.atoms),
                max_u=float(made.max_u),
                seconds=seconds,
                key=key,
                purpose=cell.purpose,
            )
        )
        return answer

    def take_audits(self, draws: Sequence[AuditDraw]) -> list[LabelRequest]:
        """Requests for environments that were drawn, all at once.

        One that cannot be embedded, whose cell is known, or for which ``engine.max_labels`` leaves no label is counted
        and left out.
        """
        cells = self.open_audits(draws)[: int(min(self._budget.audits, len(draws)))]
        self.order(cells)
        requests: list[LabelRequest] = []
        for cell in cells:
            answer = self.take(cell, requests)
            if isinstance(answer, LabelRequest):
                requests.append(answer)
        self._journal.counters.audits_missing += len(draws) - len(requests)
        return requests

    def _known(self, key: str, asked: set[str]) -> str:
        """Why an accepted cell earns no label of its own; empty when it does."""
        if key in asked:
            return "the same cell as another atom of this frame"
        if key in self._learner.dataset:
            return "this cell has been learned already"
        return ""


def _pending(others: Sequence[Trajectory], min_distance: float) -> list[Pending]:
    """What the labels that trajectories wait for will teach.

    Of a frame, the atoms that would not be chosen beside those it asks for; of a cell that is made, every environment.
    """
    pending: list[Pending] = []
    radius = max(min_distance, LEARNED_RADIUS)
    for other in others:
        selected = [cell for cell in other.open_cells if cell.purpose == "selected"]
        pending += [Pending.around(cell.atoms, cell.centers, radius) for cell in selected]
        pending += [Pending(request.atoms, np.ones(len(request.atoms), dtype=bool)) for request in other.requests]
    return pending


def _origin(cell: OpenCell, made: Substructure) -> dict[str, Any]:
    """What a label remembers of its cell."""
    info: dict[str, Any] = {
        "purpose": cell.purpose,
        "trajectory": cell.trajectory,
        "step": cell.step,
        "atom": cell.atom,
        "max_u": float(made.max_u),
        "whole_frame": bool(made.whole_frame),
        "center": int(made.center),
        "core": np.flatnonzero(made.core).tolist(),
        "threshold": cell.threshold,
    }
    if len(cell.centers) > 1:
        info["atoms"] = list(cell.centers)
    if cell.weight is not None:
        info["weight"] = cell.weight
    return info
