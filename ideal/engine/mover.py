"""Moving trajectories to their next checks and scoring the frames there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ase import Atoms

from ideal.config import Config
from ideal.engine.auditing import Auditor
from ideal.engine.events import Check, TrajectoryFinished
from ideal.engine.frame_files import configuration_frame, trajectory_frame
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.lockstep import Lockstep
from ideal.engine.restarting import Restarter
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.errors import SamplerError, TrainingError, UncertaintyError
from ideal.records import FloatArray
from ideal.samplers.base import Observation, Remote, Sampler, observables, observation
from ideal.samplers.several import Several, conclusion, configurations

_LEFT_RANGE = (SamplerError, TrainingError, UncertaintyError)


class Mover:
    """Moves, writes frames, checks.

    Args:
        config: the run's configuration.
        learner: holds distribution and threshold.
        auditor: counts the environments of every check and keeps a sample of the certain ones.
        journal: told about checks and ends.
        restarter: keeps good states and puts a trajectory back that left the physical range.
        lockstep: evaluates the forces of trajectories that move together.
        after_step: called after every MD step (a `Remote` sampler takes several at once); may raise to stop the run
            there.
    """

    def __init__(
        self,
        config: Config,
        learner: Learner,
        auditor: Auditor,
        journal: Journal,
        restarter: Restarter,
        lockstep: Lockstep,
        after_step: Callable[[], None],
    ) -> None:
        self._config = config
        self._learner = learner
        self._auditor = auditor
        self._journal = journal
        self._restarter = restarter
        self._lockstep = lockstep
        self._after_step = after_step

    def move_together(self, trajectories: Sequence[Trajectory]) -> list[FloatArray | None]:
        """Move each trajectory to its next check, step by step side by side.

        The present step is visited first when it was not yet: the very first one, and that of a run which was stopped
        between a step and its check.

        Returns:
            For each trajectory (n_atoms,) u of the frame that was checked; None when it finished, failed or went back
            to a good state instead.
        """
        found: dict[str, FloatArray | None] = {}
        for trajectory in trajectories:
            if trajectory.good.last is None:
                self._restarter.note_good(trajectory)
        while moving := [trajectory for trajectory in trajectories if trajectory.name not in found]:
            to_advance = []
            for trajectory in moving:
                if trajectory.step != trajectory.visited_step:
                    continue
                if trajectory.sampler.finished:
                    trajectory.status = TrajectoryStatus.FINISHED
                    trajectory.conclusion = self._conclusion(trajectory)
                    self._journal.tell(TrajectoryFinished(trajectory.name, trajectory.step, trajectory.conclusion))
                    found[trajectory.name] = None
                else:
                    to_advance.append(trajectory)
            for trajectory, error in zip(to_advance, self._advance(to_advance), strict=True):
                if error is not None:
                    self.fail(trajectory, error)
                    found[trajectory.name] = None
                else:
                    self._restarter.note_step(trajectory)
            for trajectory in moving:
                if trajectory.name not in found:
                    self._visit(trajectory, found)
        return [found[trajectory.name] for trajectory in trajectories]

    def fail(self, trajectory: Trajectory, error: Exception) -> None:
        """Put the trajectory back to a good state, or give it up; the others go on."""
        self._restarter.go_back_or_fail(trajectory, str(error))

    def _advance(self, trajectories: Sequence[Trajectory]) -> list[Exception | None]:
        """Take one step of each (see `_stride`); returns how each left the physical range, None where it did not.

        Raises:
            Exception: any other error.
        """
        if not trajectories:
            return []
        tasks = [lambda t=trajectory: t.sampler.advance(self._stride(t)) for trajectory in trajectories]
        errors: list[Exception | None] = [None]
        with self._journal.times.stage("md"):
            if len(tasks) > 1:
                errors = self._lockstep.run(tasks)
            else:
                try:
                    tasks[0]()
                except (SamplerError, TrainingError) as error:
                    errors = [error]
        for problem in errors:
            if problem is not None and not isinstance(problem, SamplerError | TrainingError):
                raise problem
        self._after_step()
        return errors

    def _stride(self, trajectory: Trajectory) -> int:
        """Steps to be taken at once: one, or as many as lie before the next frame that is checked or written."""
        if not isinstance(trajectory.sampler, Remote):
            return 1
        return min(n - trajectory.step % n for n in (trajectory.config.check_every, self._config.engine.write_every))

    def _visit(self, trajectory: Trajectory, found: dict[str, FloatArray | None]) -> None:
        """Write and check the present frame as its turn demands."""
        is_check = trajectory.step % trajectory.config.check_every == 0 or trajectory.sampler.finished
        u, values = None, {}
        if is_check:
            try:
                with self._journal.times.stage("md"):
                    values = observables(trajectory.sampler)
                u = self._check(trajectory, values)
            except _LEFT_RANGE as error:
                self.fail(trajectory, error)
                found[trajectory.name] = None
                return
        try:
            self._write(trajectory, u, values)
        except SamplerError as error:  # the frame was lost with the process that held it
            self.fail(trajectory, error)
            found[trajectory.name] = None
            return
        trajectory.visited_step = trajectory.step
        if u is not None:
            found[trajectory.name] = u

    def _write(self, trajectory: Trajectory, u: FloatArray | None, values: Mapping[str, float]) -> None:
        sampler = trajectory.sampler
        if trajectory.step % self._config.engine.write_every and not sampler.finished:
            return
        with self._journal.times.stage("io"):
            text = trajectory_frame(sampler.atoms, trajectory.step, sampler.time_fs, u, values)
            self._journal.directory.log(f"trajectories/{trajectory.name}.extxyz").append(text)
            for index, atoms in enumerate(sampler.configurations if isinstance(sampler, Several) else ()):
                text = configuration_frame(atoms, trajectory.step, sampler.time_fs)
                self._journal.directory.log(f"trajectories/{trajectory.name}/{index:02d}.extxyz").append(text)

    def _check(self, trajectory: Trajectory, values: Mapping[str, float]) -> FloatArray:
        sampler = trajectory.sampler
        frames, seen = self._look(sampler)
        u = seen.u
        trajectory.max_u = float(u.max())
        self._learner.observe(trajectory.max_u)
        threshold = self._learner.threshold
        for frame, its_u in frames:
            self._auditor.offer(trajectory.name, trajectory.step, frame, its_u, threshold)
        if trajectory.max_u > threshold:
            trajectory.certain_since = trajectory.step
        else:
            self._restarter.note_good(trajectory)
        self._journal.tell(
            Check(
                trajectory=trajectory.name,
                step=trajectory.step,
                time_fs=sampler.time_fs,
                temperature=sampler.temperature,
                potential_energy=seen.potential_energy,
                kinetic_energy=seen.kinetic_energy,
                max_u=trajectory.max_u,
                threshold=threshold,
                n_uncertain=int((u > threshold).sum()),
                volume=seen.volume,
                observables=values,
            )
        )
        return u

    def _look(self, sampler: Sampler) -> tuple[list[tuple[Atoms | Callable[[], Atoms], FloatArray]], Observation]:
        """Every configuration of a sampler, or how to get at it, with its u; and what is to be told of the check."""
        known = self._learner.uncertainty
        if isinstance(sampler, Remote):
            with self._journal.times.stage("uncertainty"):
                seen = sampler.observe(known)
            return [(lambda: sampler.atoms, seen.u)], seen
        with self._journal.times.stage("uncertainty"):
            looked_at = [(atoms, known.atomic(atoms)) for atoms in configurations(sampler)]
        atoms, u = self._shown(sampler, looked_at)
        with self._journal.times.stage("md"):
            return [*looked_at], observation(atoms, u)

    def _shown(self, sampler: Sampler, looked_at: Sequence[tuple[Atoms, FloatArray]]) -> tuple[Atoms, FloatArray]:
        """The configuration that stands for the sampler at this check: the most uncertain one, if any is uncertain."""
        if not isinstance(sampler, Several):
            return looked_at[0]
        largest = [float(u.max()) for _, u in looked_at]
        worst = int(np.argmax(largest))
        sampler.show(worst if largest[worst] > self._learner.threshold else None)
        return next((atoms, u) for atoms, u in looked_at if atoms is sampler.atoms)

    def _conclusion(self, trajectory: Trajectory) -> str:
        """How a trajectory ended; that of a search says, too, where the model does not know what it found."""
        text, max_u, threshold = conclusion(trajectory.sampler), trajectory.max_u, self._learner.threshold
        if trajectory.config.sampler.ends_converged and max_u is not None and max_u > threshold:
            text += f"; still uncertain, u {max_u:.3g} against a threshold of {threshold:.3g}"
        return text
