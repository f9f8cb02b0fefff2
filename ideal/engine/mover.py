"""Moving one trajectory to its next check and scoring the frame there."""

from __future__ import annotations

from collections.abc import Callable

from ideal.config import Config
from ideal.engine.auditing import Auditor
from ideal.engine.events import Check, TrajectoryFailed, TrajectoryFinished
from ideal.engine.frame_files import trajectory_frame
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.errors import SamplerError, TrainingError, UncertaintyError
from ideal.records import FloatArray


class Mover:
    """Moves, writes frames, checks.

    Args:
        config: the run's configuration.
        learner: holds distribution and threshold.
        auditor: counts the environments of every check and keeps a sample of the certain ones.
        journal: told about checks and ends.
        after_step: called after every MD step; may raise to stop the run there.
    """

    def __init__(
        self, config: Config, learner: Learner, auditor: Auditor, journal: Journal, after_step: Callable[[], None]
    ) -> None:
        self._config = config
        self._learner = learner
        self._auditor = auditor
        self._journal = journal
        self._after_step = after_step

    def move(self, trajectory: Trajectory) -> FloatArray | None:
        """Move to the next check.

        The present step is visited first when it was not yet: the very first one, and that of a run which was stopped
        between a step and its check.

        Returns:
            (n_atoms,) u of the frame that was checked; None when the trajectory finished or failed instead.
        """
        sampler = trajectory.sampler
        while True:
            if trajectory.step == trajectory.visited_step:
                if sampler.finished:
                    trajectory.status = TrajectoryStatus.FINISHED
                    self._journal.tell(TrajectoryFinished(trajectory.name, trajectory.step))
                    return None
                try:
                    with self._journal.times.stage("md"):
                        sampler.advance(1)
                except (SamplerError, TrainingError) as error:
                    self.fail(trajectory, error)
                    return None
                self._after_step()
            is_check = trajectory.step % trajectory.config.check_every == 0 or sampler.finished
            u = None
            if is_check:
                try:
                    u = self._check(trajectory)
                except (SamplerError, TrainingError, UncertaintyError) as error:
                    self.fail(trajectory, error)
                    return None
            self._write(trajectory, u)
            trajectory.visited_step = trajectory.step
            if is_check:
                return u

    def fail(self, trajectory: Trajectory, error: Exception) -> None:
        """Give the trajectory up; the others go on."""
        trajectory.status = TrajectoryStatus.FAILED
        trajectory.reason = str(error)
        self._journal.tell(TrajectoryFailed(trajectory.name, trajectory.step, trajectory.reason))

    def _write(self, trajectory: Trajectory, u: FloatArray | None) -> None:
        sampler = trajectory.sampler
        if trajectory.step % self._config.engine.write_every and not sampler.finished:
            return
        with self._journal.times.stage("io"):
            text = trajectory_frame(sampler.atoms, trajectory.step, sampler.time_fs, u)
            self._journal.directory.log(f"trajectories/{trajectory.name}.extxyz").append(text)

    def _check(self, trajectory: Trajectory) -> FloatArray:
        sampler = trajectory.sampler
        atoms = sampler.atoms
        with self._journal.times.stage("uncertainty"):
            u = self._learner.uncertainty.atomic(atoms)
        with self._journal.times.stage("md"):
            potential_energy = float(atoms.get_potential_energy())
        trajectory.max_u = float(u.max())
        self._learner.observe(trajectory.max_u)
        threshold = self._learner.threshold
        self._auditor.offer(trajectory.name, trajectory.step, atoms, u, threshold)
        self._journal.tell(
            Check(
                trajectory=trajectory.name,
                step=trajectory.step,
                time_fs=sampler.time_fs,
                temperature=sampler.temperature,
                potential_energy=potential_energy,
                kinetic_energy=float(atoms.get_kinetic_energy()),
                max_u=trajectory.max_u,
                threshold=threshold,
                n_uncertain=int((u > threshold).sum()),
                volume=float(atoms.get_volume()) if atoms.cell.rank == 3 else None,
            )
        )
        return u
