"""Several trajectories move side by side, and whenever all of them wait for forces these are evaluated in one batch.

A sampler asks for forces in the midst of its step, wherever its integrator wants them. So each step runs in a thread of
its own that has the turn until it asks; then the next one has it. Only one runs at a time, in a fixed order: nothing
depends on the scheduler, and no sampler needs to know. When the last one has asked, the structures are evaluated
together (`Potential.evaluate_batch`), and each thread goes on with its own result. A small structure costs little more
than the overhead of an evaluation, which a batch pays once.

A batch's results equal those of single evaluations to rounding, and bit by bit those of the same batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from ideal.errors import TrainingError
from ideal.models.base import Evaluation, Potential

Task = Callable[[], None]

_here = threading.local()


class SharedPotential:
    """A potential whose evaluations, when asked for within `Lockstep.run`, wait for those of the other trajectories.

    Args:
        potential: what evaluates.
        largest: structures of more atoms are evaluated alone.
    """

    def __init__(self, potential: Potential, largest: int) -> None:
        self.potential = potential
        self.elements = potential.elements
        self.cutoff = potential.cutoff
        self._largest = largest

    def __getattr__(self, name: str) -> Any:
        """Whatever else the potential can do."""
        return getattr(self.potential, name)

    @property
    def revision(self) -> int:
        """See `Potential`."""
        return self.potential.revision

    @revision.setter
    def revision(self, value: int) -> None:
        self.potential.revision = value

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """See `Potential`; within `Lockstep.run` together with the other trajectories."""
        turn: _Turn | None = getattr(_here, "turn", None)
        if turn is None or len(atoms) > self._largest:
            return self.potential.evaluate(atoms)
        return turn.ask(atoms)

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """See `Potential`."""
        return self.potential.evaluate_batch(structures)

    def save(self, directory: str | Path) -> None:
        """See `Potential`."""
        self.potential.save(directory)

    def fingerprint(self) -> str:
        """See `Potential`."""
        return self.potential.fingerprint()


class Lockstep:
    """Runs tasks side by side; close it to end its threads.

    Args:
        potential: evaluates what the tasks ask for.

    Example:
        >>> shared = SharedPotential(potential, largest=200)
        >>> errors = Lockstep(potential).run([lambda: a.advance(1), lambda: b.advance(1)])  # both calculators hold it
        >>> errors
        [None, None]
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._turns: list[_Turn] = []

    def run(self, tasks: Sequence[Task]) -> list[Exception | None]:
        """Run every task to its end; returns the error of each, None where there was none."""
        while len(self._turns) < len(tasks):
            self._turns.append(_Turn())
        turns = self._turns[: len(tasks)]
        for turn, task in zip(turns, tasks, strict=True):
            turn.start(task)
        while asking := [turn for turn in turns if turn.structure is not None]:
            for turn, answer in zip(asking, self._evaluate([turn.structure for turn in asking]), strict=True):
                turn.answer(answer)
        return [turn.error for turn in turns]

    def close(self) -> None:
        """End the threads."""
        for turn in self._turns:
            turn.close()
        self._turns = []

    def _evaluate(self, structures: Sequence[Atoms | None]) -> list[Evaluation | Exception]:
        known = [atoms for atoms in structures if atoms is not None]
        if len(known) > 1:
            try:
                return list(self.potential.evaluate_batch(known))
            except TrainingError:
                pass  # one of them is broken: let each have its own result or error
        return [self._alone(atoms) for atoms in known]

    def _alone(self, atoms: Atoms) -> Evaluation | Exception:
        try:
            return self.potential.evaluate(atoms)
        except TrainingError as error:
            return error


class _Turn:
    """A thread that runs only while it was given the turn.

    Attributes:
        structure: what it waits to have evaluated; None when its task is over.
        error: how the task failed.
    """

    def __init__(self) -> None:
        self.structure: Atoms | None = None
        self.error: Exception | None = None
        self._task: Task | None = None
        self._answer: Evaluation | Exception | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, daemon=True, name="ideal-lockstep")
        self._thread.start()

    # --- called by the one that gives turns ---

    def start(self, task: Task) -> None:
        """Let it work at a task until it asks or is done."""
        self._task, self.error = task, None
        self._give()

    def answer(self, answer: Evaluation | Exception) -> None:
        """Let it go on with what it asked for until it asks again or is done."""
        self._answer = answer
        self._give()

    def close(self) -> None:
        """End the thread; what its task still waits for is refused."""
        while self.structure is not None:
            self.answer(TrainingError("the run ends"))
        self._task = None
        self._go.release()
        self._thread.join()

    def _give(self) -> None:
        self.structure = None
        self._go.release()
        self._back.acquire()

    # --- called within the thread ---

    def ask(self, atoms: Atoms) -> Evaluation:
        """Have a structure evaluated; the others have the turn meanwhile."""
        self.structure = atoms
        self._back.release()
        self._go.acquire()
        answer, self._answer = self._answer, None
        assert answer is not None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _work(self) -> None:
        _here.turn = self
        while True:
            self._go.acquire()
            if self._task is None:
                return
            try:
                self._task()
            except Exception as error:
                self.error = error
            self._back.release()
