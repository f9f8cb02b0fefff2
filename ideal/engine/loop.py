"""How trajectories take turns: one after another, all in lockstep, or each on its own while others wait.

    serial       one moves to its next check; when it asks it is answered before the next one moves
    lockstep     all move to their next checks together; what they ask for is chosen over all of them, labelled at once
                 and learned in one update
    concurrent   those that run move on while others wait for cells and labels; each learns when its own are in

Serial and lockstep are reproducible: each gives the same run again for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ideal.config import Config
from ideal.engine.answering import Answers
from ideal.engine.calculations import Calculations
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.mover import Mover
from ideal.engine.requesting import Requests
from ideal.engine.restarting import Restarter
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.records import FailedLabel, FloatArray, Label
from ideal.samplers.base import Remote

RUNNING, WAITING = TrajectoryStatus.RUNNING, TrajectoryStatus.WAITING

LABEL_WAIT = 0.5
"""Seconds between two looks at a stop request while the run waits for labels."""


class Loop:
    """Lets trajectories move, ask, wait and learn.

    Args:
        config: the run's configuration.
        trajectories: all of them, in the order of the configuration.
        mover: moves them.
        requests: asks for them.
        answers: tells and learns what comes back.
        restarter: puts back trajectories whose labels failed.
        calculations: where labels arrive.
        learner: holds the threshold.
        journal: counts the time that is waited.
        save: writes a checkpoint.
        tick: called while waiting and between turns; may raise to stop the run there.

    Attributes:
        turn: index of the trajectory that moves next in serial mode.
    """

    def __init__(
        self,
        config: Config,
        trajectories: Sequence[Trajectory],
        mover: Mover,
        requests: Requests,
        answers: Answers,
        restarter: Restarter,
        calculations: Calculations,
        learner: Learner,
        journal: Journal,
        save: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self._config = config
        self._trajectories = trajectories
        self._mover = mover
        self._requests = requests
        self._answers = answers
        self._restarter = restarter
        self._calculations = calculations
        self._learner = learner
        self._journal = journal
        self._save = save
        self._tick = tick
        self.turn = 0
        self._audited = False  # lockstep: the audits of this round are drawn
        self._saved_ended: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether any trajectory runs or waits."""
        return any(not trajectory.is_over for trajectory in self._trajectories)

    def round(self) -> None:
        """One turn: every trajectory at most moves to its next check, and learns what its labels say."""
        match self._config.engine.mode:
            case "serial":
                self._serial_turn()
            case "lockstep":
                self._lockstep_round()
            case "concurrent":
                self._concurrent_round()

    def settle(self) -> None:
        """Nobody moves any more: wait for what was asked for, and learn it."""
        while self._waiting:
            if self._config.engine.mode == "lockstep":
                self._answer_together()
            else:
                self._wait(self._waiting)
                self.take_and_learn()

    # --- modes --------------------------------------------------------------------------------------------------------

    def _serial_turn(self) -> None:
        trajectory = self._trajectories[self.turn]
        if trajectory.status is RUNNING:
            self._move_and_ask([trajectory])
        while trajectory.status is WAITING and not self._may_learn(trajectory):
            self._wait([trajectory])
        # From here on a checkpoint belongs to the next one's turn.
        self.turn = (self.turn + 1) % len(self._trajectories)
        if trajectory.status is WAITING:
            self._learn([trajectory])
        self._save_if_due([trajectory])
        self._tick()

    def _concurrent_round(self) -> None:
        running = self._running
        groups = self._groups(running)
        for group in groups:
            self._move_and_ask(group)
            self._save_if_due(group)
            self._calculations.poll()
            self.take_and_learn()
            self._tick()
        if not groups:
            self._wait(self._waiting)
            self.take_and_learn()

    def _lockstep_round(self) -> None:
        if not self._waiting:  # else the run was resumed amid the round
            self._audited = False
            running = self._running
            # Nothing that is kept of a batch of other trajectories may decide. A search that ended would look again.
            for trajectory in running:
                if not (trajectory.sampler.finished or isinstance(trajectory.sampler, Remote)):
                    trajectory.sampler.set_calculator(self._learner.calculator())
            self._move_and_ask(running)
        self._answer_together()
        self._save_if_due(self._trajectories)
        self._tick()

    def _answer_together(self) -> None:
        """Take all cells in a fixed order, then wait for all labels and learn them at once."""
        for trajectory in self._waiting:
            self._take_all(trajectory)
        if not self._audited:
            self._audited = True
            leader = self._requests.audit(self._waiting)
            if leader is not None and leader.open_cells:
                self._save()
                self._requests.order(leader)
                self._take_all(leader)
        waiting = self._waiting
        self._await_labels(waiting)
        while self._requests.ask_on_the_way(waiting):
            for trajectory in waiting:
                self._take_all(trajectory)
            self._await_labels(waiting)
        if waiting:
            self._learn(waiting)

    def _await_labels(self, waiting: Sequence[Trajectory]) -> None:
        while not all(self._has_answers(trajectory) for trajectory in waiting):
            self._wait_for_labels()

    def _groups(self, running: Sequence[Trajectory]) -> list[list[Trajectory]]:
        """Small trajectories move together, larger ones each alone."""
        largest = self._config.engine.batch_atoms
        small: list[Trajectory] = []
        alone: list[list[Trajectory]] = []
        for trajectory in running:
            sampler = trajectory.sampler
            if isinstance(sampler, Remote) or len(sampler.atoms) > largest:
                alone.append([trajectory])
            else:
                small.append(trajectory)
        return [small, *alone] if small else alone

    # --- moving, asking -----------------------------------------------------------------------------------------------

    def _move_and_ask(self, trajectories: Sequence[Trajectory]) -> None:
        """Move trajectories to their next checks and let the frames there ask, the most uncertain first."""
        frames: list[tuple[Trajectory, FloatArray]] = []
        for trajectory, u in zip(trajectories, self._mover.move_together(trajectories), strict=True):
            if u is not None:
                frames.append((trajectory, u))
        frames.sort(key=lambda frame: -float(frame[1].max()))
        waiting = self._waiting
        self._requests.ask_together(frames, self._learner.threshold, waiting)
        if self._config.engine.mode != "lockstep":
            for trajectory, _ in frames:
                self._requests.take_made(trajectory, self._learner.threshold)

    def _take_all(self, trajectory: Trajectory) -> None:
        """Take every cell of a trajectory, waiting for each."""
        self._requests.take_made(trajectory, self._learner.threshold)
        while trajectory.status is WAITING and trajectory.open_cells:
            self._wait([trajectory])

    def take_and_learn(self) -> None:
        """Take the cells that are made; whoever's answers are complete learns."""
        for trajectory in self._trajectories:
            self._requests.take_made(trajectory, self._learner.threshold)
            if trajectory.status is WAITING and self._may_learn(trajectory):
                self._learn([trajectory])

    # --- waiting, learning --------------------------------------------------------------------------------------------

    def _wait(self, waiting: Sequence[Trajectory]) -> None:
        """Wait for the next cell of one of them, else for labels."""
        opened = next((trajectory for trajectory in waiting if trajectory.open_cells), None)
        if opened is None:
            self._wait_for_labels()
            return
        self._requests.wait(opened, LABEL_WAIT)
        self._calculations.poll()
        self._requests.take_made(opened, self._learner.threshold)
        self._tick()

    def _wait_for_labels(self) -> None:
        with self._journal.times.stage("labelling_wait"):
            self._calculations.wait(LABEL_WAIT)
        self._tick()

    def _has_answers(self, trajectory: Trajectory) -> bool:
        """Whether every label that it waits for is in; none is told before its last cell is made."""
        return not trajectory.open_cells and self._answers.complete(trajectory.requests, trajectory.announced)

    def _may_learn(self, trajectory: Trajectory) -> bool:
        """Whether it has its answers; where one is not learned it asks anew in its place first, and has to wait."""
        return self._has_answers(trajectory) and not self._requests.ask_on_the_way([trajectory])

    def _learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Learn what trajectories waited for; each goes on from its frame, or back if it is no place to go on from."""
        requests = [request for trajectory in trajectories for request in trajectory.requests]
        failures = {trajectory.name: self._failure(trajectory) for trajectory in trajectories}
        for trajectory in trajectories:
            trajectory.status = RUNNING
            trajectory.requests, trajectory.announced = [], set()
            trajectory.last_learned_step = trajectory.step
        leader, *others = trajectories
        self._answers.learn(requests, leader.name, leader.step, {other.name: other.step for other in others})
        for trajectory in trajectories:
            cause = failures[trajectory.name]
            if trajectory.collapse:
                self._restarter.go_back_or_fail(trajectory, trajectory.collapse)
            elif not cause:
                self._restarter.note_good(trajectory)
            elif self._restarter.can_go_back(trajectory):
                self._restarter.go_back_or_fail(trajectory, f"none of its labels could be calculated: {cause}")
        self._save()

    def _failure(self, trajectory: Trajectory) -> str:
        """Why none of the labels of the trajectory's uncertain atoms came; empty when one did."""
        requests = [request for request in trajectory.requests if request.info["purpose"] == "selected"]
        answers = [self._calculations.results[request.key] for request in requests]
        failed = [answer for answer in answers if isinstance(answer, FailedLabel)]
        return failed[0].cause if failed and not any(isinstance(answer, Label) for answer in answers) else ""

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _save_if_due(self, trajectories: Sequence[Trajectory]) -> None:
        """A checkpoint every ``checkpoint_every`` steps, and when a trajectory is over."""
        due = [trajectory for trajectory in trajectories if self._is_due(trajectory)]
        for trajectory in due:
            trajectory.last_checkpoint_step = trajectory.step
        if due:
            self._saved_ended = self._ended
            self._save()

    def _is_due(self, trajectory: Trajectory) -> bool:
        if trajectory.status is RUNNING:
            return trajectory.step - trajectory.last_checkpoint_step >= self._config.engine.checkpoint_every
        return trajectory.name in self._ended - self._saved_ended

    @property
    def _ended(self) -> set[str]:
        return {trajectory.name for trajectory in self._trajectories if trajectory.is_over}

    @property
    def _running(self) -> list[Trajectory]:
        return [trajectory for trajectory in self._trajectories if trajectory.status is RUNNING]

    @property
    def _waiting(self) -> list[Trajectory]:
        return [trajectory for trajectory in self._trajectories if trajectory.status is WAITING]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"turn": self.turn, "audited": self._audited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.turn = int(state["turn"])
        self._audited = bool(state["audited"])
        self._saved_ended = self._ended
