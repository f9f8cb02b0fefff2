"""Going back to the last good state: of a trajectory that left the physical range, or none of whose labels came.

A state is good when the run trusts the model there: at the start, at a check that finds no uncertain atom, and after
labels of the frame were learned (aims-PAX, Henkes et al. 2025, section S5: the checkpoint of a trajectory follows the
structures that were labelled). None is where atoms are in contact: a model with a hole may hold it for certain, and
whoever went back there would fall in again. A trajectory that goes back takes other random numbers from there, so that
it does not repeat itself: they follow from the run's seed, the trajectory's name and how often it went back. The next
time, where it did not get past the place, it goes back farther (`ideal.engine.good_states`).

A trajectory has left the physical range, too, when an uncertain atom of its frame cannot be embedded because atoms
around it are in contact, or when the label of one is refused for its force. What is labelled then is a frame of the way
there (`ideal.engine.way`): the last one before the contact, or the one halfway back from the force.
"""

from __future__ import annotations

from collections.abc import Mapping

from ideal.config import Config
from ideal.embedding.distances import ShortestDistances, contact_in
from ideal.engine.events import TrajectoryFailed, TrajectoryRestarted
from ideal.engine.journal import Journal
from ideal.engine.seeds import derive_seed
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.engine.way import Way
from ideal.samplers.base import Reseedable
from ideal.samplers.several import configurations


class Restarter:
    """Keeps good states and puts trajectories back to them, ``engine.restarts`` times in a row.

    Args:
        config: the run's configuration.
        journal: told about every restart and every end.
        min_distances: shortest distances of the training set (Å) by atomic numbers, kept up to date by the learner.

    Example:
        >>> restarter.note_good(trajectory)  # at step 40
        >>> restarter.go_back(trajectory, "the temperature is 2e+05 K")  # at step 57
        True
        >>> trajectory.step
        40
    """

    def __init__(self, config: Config, journal: Journal, min_distances: Mapping[tuple[int, int], float]) -> None:
        self._seed = config.seed
        self._limit = config.engine.restarts
        self._journal = journal
        self._min_distances = min_distances

    def can_go_back(self, trajectory: Trajectory) -> bool:
        """Whether restarts are wanted and the trajectory has a state and a sampler for it."""
        return trajectory.good.last is not None and self._keeps(trajectory)

    def _keeps(self, trajectory: Trajectory) -> bool:
        return self._limit > 0 and isinstance(trajectory.sampler, Reseedable)

    def note_step(self, trajectory: Trajectory) -> None:
        """Keep the frame that a step led to, as part of the way from the last good state."""
        if self._keeps(trajectory):
            trajectory.way.note(trajectory.step, configurations(trajectory.sampler))

    def note_good(self, trajectory: Trajectory) -> None:
        """Keep the trajectory's present state to come back to, unless atoms are in contact; the first one as it is."""
        if not self._keeps(trajectory) or (trajectory.good.last is not None and self._has_contact(trajectory)):
            return
        trajectory.good.note(trajectory.step, trajectory.sampler.state(), trajectory.last_learned_step)
        trajectory.way = Way(trajectory.name)
        if trajectory.step > trajectory.trouble_step:
            trajectory.setbacks = 0

    def go_back_or_fail(self, trajectory: Trajectory, reason: str) -> None:
        """Put the trajectory back to a good state; give it up when that was done too often. Others go on."""
        if not self.go_back(trajectory, reason):
            if trajectory.setbacks:
                reason = (
                    f"{reason} (after going back {trajectory.setbacks} times in a row without getting past step "
                    f"{trajectory.trouble_step}; more initial data may help, or a larger engine.restarts)"
                )
            trajectory.status, trajectory.reason = TrajectoryStatus.FAILED, reason
            self._journal.tell(TrajectoryFailed(trajectory.name, trajectory.step, reason))

    def go_back(self, trajectory: Trajectory, reason: str) -> bool:
        """Put the trajectory back to a good state: the last one, then the one before where it went back to, and so on.

        Returns:
            False where it may not go back, or would only repeat itself.
        """
        sampler, step = trajectory.sampler, trajectory.step
        trajectory.trouble_step = max(trajectory.trouble_step, step)
        if trajectory.good.last is None or trajectory.setbacks >= self._limit or not isinstance(sampler, Reseedable):
            return False
        good = trajectory.good.go_back(before=trajectory.good_step if trajectory.setbacks else None)
        trajectory.good_step = good.step
        trajectory.setbacks += 1
        trajectory.restarts += 1
        sampler.restore(good.sampler)
        sampler.reseed(derive_seed(self._seed, "restart", trajectory.name, trajectory.restarts))
        trajectory.status, trajectory.reason = TrajectoryStatus.RUNNING, reason
        trajectory.visited_step = trajectory.certain_since = trajectory.step
        trajectory.last_learned_step = good.last_learned_step
        trajectory.last_checkpoint_step = min(trajectory.last_checkpoint_step, trajectory.step)
        trajectory.refused_checks = 0
        trajectory.collapse, trajectory.way = "", Way(trajectory.name)
        self._journal.tell(
            TrajectoryRestarted(trajectory.name, step, trajectory.step, trajectory.setbacks, self._limit, reason)
        )
        return True

    def _has_contact(self, trajectory: Trajectory) -> bool:
        shortest = ShortestDistances(self._min_distances)
        return any(contact_in(atoms, shortest) for atoms in configurations(trajectory.sampler))
