"""Going back to the last good state: of a trajectory that left the physical range, or none of whose labels came.

A state is good when the run trusts the model there: at the start, at a check that finds no uncertain atom, and after
labels of the frame were learned (aims-PAX, Henkes et al. 2025, section S5: the checkpoint of a trajectory follows the
structures that were labelled). A trajectory that goes back takes other random numbers from there, so that it does not
repeat itself: they follow from the run's seed, the trajectory's name and how often it went back.
"""

from __future__ import annotations

from ideal.config import Config
from ideal.engine.events import TrajectoryFailed, TrajectoryRestarted
from ideal.engine.journal import Journal
from ideal.engine.seeds import derive_seed
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.samplers.base import Reseedable


class Restarter:
    """Keeps the good states and puts trajectories back to them, ``engine.restarts`` times in a row.

    Args:
        config: the run's configuration.
        journal: told about every restart and every end.

    Example:
        >>> restarter.note_good(trajectory)  # at step 40
        >>> restarter.go_back(trajectory, "the temperature is 2e+05 K")  # at step 57
        True
        >>> trajectory.step
        40
    """

    def __init__(self, config: Config, journal: Journal) -> None:
        self._seed = config.seed
        self._limit = config.engine.restarts
        self._journal = journal

    def can_go_back(self, trajectory: Trajectory) -> bool:
        """Whether restarts are wanted and the trajectory has a state and a sampler for it."""
        return self._limit > 0 and trajectory.good is not None and isinstance(trajectory.sampler, Reseedable)

    def note_good(self, trajectory: Trajectory) -> None:
        """Keep the trajectory's present state to come back to."""
        if self._limit == 0 or not isinstance(trajectory.sampler, Reseedable):
            return
        trajectory.good = {"sampler": trajectory.sampler.state(), "last_learned_step": trajectory.last_learned_step}
        if trajectory.step > trajectory.trouble_step:
            trajectory.setbacks = 0

    def go_back_or_fail(self, trajectory: Trajectory, reason: str) -> None:
        """Put the trajectory back to its last good state; give it up when that was done too often. Others go on."""
        if not self.go_back(trajectory, reason):
            trajectory.status, trajectory.reason = TrajectoryStatus.FAILED, reason
            self._journal.tell(TrajectoryFailed(trajectory.name, trajectory.step, reason))

    def go_back(self, trajectory: Trajectory, reason: str) -> bool:
        """Put the trajectory back to its last good state; false where it may not, or would only repeat itself."""
        sampler, good, step = trajectory.sampler, trajectory.good, trajectory.step
        trajectory.trouble_step = max(trajectory.trouble_step, step)
        if good is None or trajectory.setbacks >= self._limit or not isinstance(sampler, Reseedable):
            return False
        trajectory.setbacks += 1
        trajectory.restarts += 1
        sampler.restore(good["sampler"])
        sampler.reseed(derive_seed(self._seed, "restart", trajectory.name, trajectory.restarts))
        trajectory.status, trajectory.reason = TrajectoryStatus.RUNNING, reason
        trajectory.visited_step = trajectory.certain_since = trajectory.step
        trajectory.last_learned_step = good["last_learned_step"]
        trajectory.last_checkpoint_step = min(trajectory.last_checkpoint_step, trajectory.step)
        trajectory.refused_checks = 0
        self._journal.tell(
            TrajectoryRestarted(trajectory.name, step, trajectory.step, trajectory.setbacks, self._limit, reason)
        )
        return True
