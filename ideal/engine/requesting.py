"""What a trajectory asks for, from the frame that asks to the label that is sent: opened, made, taken, saved, sent.

A checkpoint stands before every label that is sent, so that a resumed run knows whose it is. It need not be a new one
each time: a cell that a checkpoint holds as open, and whose distribution it holds too, is made again bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ideal.config import Config
from ideal.engine.asking import Asker, Refusal
from ideal.engine.calculations import Calculations
from ideal.engine.events import LabelSubmitted
from ideal.engine.journal import Journal
from ideal.engine.mover import Mover
from ideal.engine.open_cells import OpenCell
from ideal.engine.restarting import Restarter
from ideal.engine.trajectory import LabelRequest, Trajectory, TrajectoryStatus
from ideal.errors import EmbeddingError, SamplerError, UncertaintyError
from ideal.labelling.gate import is_for_force
from ideal.records import FailedLabel, FloatArray, Label


class Requests:
    """Asks on behalf of trajectories.

    Args:
        config: the run's configuration.
        asker: opens and takes cells.
        mover: gives trajectories up.
        restarter: says which can go back from a frame that is not physical.
        calculations: labels are sent there.
        journal: told, and counts.
        save: writes a checkpoint.

    Audits go with the cells of each frame; in lockstep with those of all frames together (`audit`).
    """

    def __init__(
        self,
        config: Config,
        asker: Asker,
        mover: Mover,
        restarter: Restarter,
        calculations: Calculations,
        journal: Journal,
        save: Callable[[], None],
    ) -> None:
        self._config = config
        self._asker = asker
        self._mover = mover
        self._restarter = restarter
        self._calculations = calculations
        self._journal = journal
        self._save = save

    def ask(self, trajectory: Trajectory, u: FloatArray, threshold: float) -> None:
        """Let one trajectory's present frame ask, and take the cells that are made at once; see `ask_together`."""
        self.ask_together([(trajectory, u)], threshold)
        self.take_made(trajectory, threshold)

    def ask_together(
        self, frames: Sequence[tuple[Trajectory, FloatArray]], threshold: float, others: Sequence[Trajectory] = ()
    ) -> None:
        """Let the present frames of trajectories ask; those that do wait until their cells are made, labelled, learned.

        One checkpoint is written for all of them, before their first cell is ordered.

        Args:
            frames: trajectories and (n_atoms,) u of the frames where they stand, in the order of asking.
            threshold: u above which an atom is uncertain.
            others: trajectories that wait already; what they and the frames before ask for is not asked for again.
        """
        opened: list[Trajectory] = []
        for trajectory, u in frames:
            try:
                cells = self._asker.open(trajectory, u, [*others, *opened])
            except (EmbeddingError, SamplerError, UncertaintyError) as error:
                self._mover.fail(trajectory, error)
                continue
            if cells:
                trajectory.open_cells = cells
                trajectory.requests, trajectory.announced = [], set()
                trajectory.status = TrajectoryStatus.WAITING
                trajectory.last_checkpoint_step = trajectory.step
                opened.append(trajectory)
            elif u.max() <= threshold:
                trajectory.refused_checks = 0
            elif self._config.engine.mode == "concurrent":
                self._wait_with(trajectory, others)
        if opened:
            self._save()
            for trajectory in opened:
                self._asker.order(trajectory.open_cells)

    def _wait_with(self, trajectory: Trajectory, others: Sequence[Trajectory]) -> None:
        """Let an uncertain frame that is to ask for nothing of its own wait for what others have asked for.

        Others may still hold labels that this trajectory had asked for: it has had their answers.
        """
        requests = {request.key: request for other in others for request in other.requests}
        shared = [
            request
            for request in requests.values()
            if request.info["purpose"] == "selected" and request.info["trajectory"] != trajectory.name
        ]
        if shared and self._asker.may_ask(trajectory):
            trajectory.requests, trajectory.announced = shared, {request.key for request in shared}
            trajectory.status = TrajectoryStatus.WAITING

    def audit(self, waiting: Sequence[Trajectory]) -> Trajectory | None:
        """Have audited what goes with the cells that trajectories asked for together; returns who waits for it."""
        leader = next((trajectory for trajectory in waiting if trajectory.requests), None)
        if leader is None:
            return None
        leader.open_cells = self._asker.audits_of(sum(len(trajectory.requests) for trajectory in waiting))
        return leader

    def order(self, trajectory: Trajectory) -> None:
        """Have a trajectory's open cells made."""
        self._asker.order(trajectory.open_cells)

    def take_made(self, trajectory: Trajectory, threshold: float) -> None:
        """Take the trajectory's cells that are made, in the order of asking, and send each accepted one at once.

        A selected atom that cannot be embedded is told, counted and left out; so is an audit. A frame that is not
        physical around one asks for nothing more; the last physical one on the way there asks instead, and then the
        trajectory goes back.
        """
        if trajectory.status is not TrajectoryStatus.WAITING or not trajectory.open_cells:
            return
        answer: LabelRequest | Refusal | None = None
        while trajectory.open_cells and self._asker.is_made(trajectory.open_cells[0]):
            try:
                answer = self._take_first(trajectory)
            except (EmbeddingError, UncertaintyError) as error:
                self._give_up(trajectory, error)
        if not trajectory.open_cells and not trajectory.requests and trajectory.status is TrajectoryStatus.WAITING:
            trajectory.status = TrajectoryStatus.RUNNING
            if trajectory.collapse:
                self._restarter.go_back_or_fail(trajectory, trajectory.collapse)
            elif isinstance(answer, Refusal):
                self._refused(trajectory, threshold, answer)

    def ask_on_the_way(self, trajectories: Sequence[Trajectory]) -> bool:
        """Ask anew in the place of labels that came and are not learned since their forces are too large.

        Where the forces of an uncertain atom are too large its frame is no place to go on from: the trajectory will go
        back, as from a frame with atoms in contact. Of the way there the frame halfway is labelled around the same
        atom; if that is refused too, the one halfway there, until one is learned or nothing is left of the way. No
        audits go with it.

        Args:
            trajectories: wait, and all their answers are in.

        Returns:
            Whether any of them has to wait for more.
        """
        asking = [trajectory for trajectory in trajectories if self._opens_halfway(trajectory)]
        if asking:
            self._save()
            for trajectory in asking:
                self._asker.order(trajectory.open_cells)
        return bool(asking)

    def _opens_halfway(self, trajectory: Trajectory) -> bool:
        """Open a trajectory's cell on the way, where a label of its own is to be replaced and none of the way came."""
        answered = [
            (request, self._calculations.results[request.key])
            for request in trajectory.requests
            if request.info["purpose"] == "selected" and request.info["trajectory"] == trajectory.name
        ]
        refused = [
            (request, answer.cause)
            for request, answer in answered
            if isinstance(answer, FailedLabel) and is_for_force(answer)
        ]
        if not refused or not self._restarter.can_go_back(trajectory):
            return False
        earliest, cause = min(refused, key=lambda one: int(one[0].info["step"]))
        trajectory.collapse = trajectory.collapse or f"a label of the frame is not learned: {cause}"
        of_the_way = [answer for request, answer in answered if request.info["step"] < trajectory.step]
        if any(isinstance(answer, Label) for answer in of_the_way) or not self._asker.may_ask(trajectory):
            return False
        trajectory.open_cells = self._asker.open_halfway(trajectory, earliest)
        for cell in trajectory.open_cells:
            trajectory.collapse += f"; asked for smaller forces at step {cell.step}, on the way there"
        return bool(trajectory.open_cells)

    def wait(self, trajectory: Trajectory, seconds: float) -> None:
        """Return when the trajectory's next cell is made, or after ``seconds``."""
        self._asker.wait(trajectory.open_cells[0], seconds)

    def send(self, requests: Sequence[LabelRequest]) -> None:
        """Count, tell, save, submit."""
        self._count(requests)
        self._save()
        self.submit(requests)

    def tell_submitted(self, requests: Sequence[LabelRequest]) -> None:
        """Tell that labels are asked for."""
        for request in requests:
            name, step, atom = (request.info.get(key, 0) for key in ("trajectory", "step", "atom"))
            purpose = request.info["purpose"]
            self._journal.tell(LabelSubmitted(request.key, name or "", step, atom, len(request.atoms), purpose))

    def submit(self, requests: Sequence[LabelRequest]) -> None:
        """Send labels; those in the store are answered at once."""
        for request in requests:
            self._calculations.submit(request)

    def _take_first(self, trajectory: Trajectory) -> LabelRequest | Refusal | None:
        """Take a cell and send its label; None, and nothing is left open, where ``max_labels`` leaves none for it."""
        cell, rest = trajectory.open_cells[0], trajectory.open_cells[1:]
        answer, known_to_checkpoint = None, True
        if self._asker.may_take(cell):
            known_to_checkpoint = self._asker.is_current(cell)
            answer = self._asker.take(cell, trajectory.requests)
            trajectory.open_cells = rest
            self._count_taken(trajectory, cell, answer)
        else:
            self._drop(trajectory, trajectory.open_cells)
        opened = []
        if cell.purpose == "selected" and isinstance(answer, Refusal) and not answer.physical:
            opened = self._ask_on_the_way(trajectory, cell, answer.reason)
        is_last = cell.purpose == "selected" and not trajectory.open_cells and trajectory.requests
        is_first_time = not trajectory.announced  # else it stands in for a label that came: the audits went with that
        if is_last and is_first_time and self._config.engine.mode != "lockstep":
            opened = trajectory.open_cells = self._asker.audits_of(len(trajectory.requests))
        if opened or not known_to_checkpoint:
            self._save()
        self._asker.order(opened)
        if isinstance(answer, LabelRequest):
            self.submit([answer])
        return answer

    def _ask_on_the_way(self, trajectory: Trajectory, cell: OpenCell, reason: str) -> list[OpenCell]:
        """The frame is not physical: drop the rest of it, and open a cell of how it came there if it will go back."""
        self._drop(trajectory, trajectory.open_cells)
        if not trajectory.collapse and self._restarter.can_go_back(trajectory):
            trajectory.collapse = reason
            trajectory.open_cells = self._asker.open_way(trajectory, cell)
        return trajectory.open_cells

    def _count_taken(self, trajectory: Trajectory, cell: OpenCell, answer: LabelRequest | Refusal) -> None:
        if isinstance(answer, LabelRequest):
            trajectory.refused_checks = 0
            trajectory.requests.append(answer)
            self._count([answer])
        elif cell.purpose == "selected":
            trajectory.refused += 1
            self._journal.counters.refused += 1
        else:
            self._journal.counters.audits_missing += 1

    def _drop(self, trajectory: Trajectory, cells: Sequence[OpenCell]) -> None:
        """Ask for the rest no longer."""
        self._journal.counters.audits_missing += sum(cell.purpose == "audit" for cell in cells)
        self._asker.drop(cells)
        trajectory.open_cells = []

    def _give_up(self, trajectory: Trajectory, error: Exception) -> None:
        """No cell can be made of the frame: the trajectory fails, now or when it meets that again after learning."""
        trajectory.refused += 1
        self._journal.counters.refused += 1
        self._drop(trajectory, trajectory.open_cells[1:])
        if not trajectory.requests:
            self._mover.fail(trajectory, error)

    def _count(self, requests: Sequence[LabelRequest]) -> None:
        self._journal.counters.asked += len(requests)
        self._journal.counters.audits += sum(request.info["purpose"] == "audit" for request in requests)
        self.tell_submitted(requests)

    def _refused(self, trajectory: Trajectory, threshold: float, last: Refusal) -> None:
        """Give a trajectory up that moves on and on through what can be neither embedded nor learned."""
        trajectory.refused_checks += 1
        if trajectory.refused_checks >= self._config.selection.max_refused_checks:
            stuck = f" (sampler {trajectory.config.sampler.type}, engine.restarts {self._config.engine.restarts})"
            stays = "" if last.physical else f", and it cannot go back to a good state{stuck}"
            reason = (
                f"no uncertain atom could be embedded at {trajectory.refused_checks} checks in a row{stays}; u is now "
                f"{trajectory.max_u:.3g} against a threshold of {threshold:.3g}; the last: {last.reason}; give the run "
                "more initial data, lower check_every, timestep or temperature, or raise selection.max_refused_checks"
            )
            self._mover.fail(trajectory, SamplerError(reason))
