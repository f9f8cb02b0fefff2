"""Limited-memory BFGS with bounded steps that can be continued (Nocedal and Wright, algorithm 7.5)."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import numpy as np

from ideal.records import FloatArray

MEMORY = 12
"""Steps that the estimate of the Hessian remembers."""

SETTLED = 1e-5
"""The descent ends when a step lowers the objective by less than this fraction of it."""


class Point(Protocol):
    """The objective at one set of parameters."""

    @property
    def parameters(self) -> FloatArray: ...
    @property
    def value(self) -> float: ...
    @property
    def gradient(self) -> FloatArray: ...


P = TypeVar("P", bound=Point)


class Problem(Protocol[P]):
    """What is to be minimized."""

    def evaluate(self, parameters: FloatArray) -> P:
        """Value and gradient."""
        ...

    def limit(self, parameters: FloatArray, step: FloatArray) -> float:
        """Largest factor (at most 1) by which ``step`` may be taken."""
        ...

    def finished(self, point: P) -> bool:
        """Whether ``point`` is good enough."""
        ...


class Descent(Generic[P]):
    """A minimization that remembers where it is.

    Args:
        problem: the objective.
        start: parameters to begin with; evaluated at once.

    Attributes:
        point: the best point so far.
        evaluations: of the objective.
        over: no further progress is possible or wanted.
    """

    def __init__(self, problem: Problem[P], start: FloatArray) -> None:
        self._problem = problem
        self._steps: list[FloatArray] = []
        self._changes: list[FloatArray] = []
        self.point = problem.evaluate(start)
        self.evaluations = 1
        self.over = problem.finished(self.point)

    def run(self, max_evaluations: int) -> P:
        """Go on until the problem is finished, nothing improves, or ``max_evaluations`` in all are used up."""
        while not self.over and self.evaluations < max_evaluations:
            steepest = float(np.abs(self.point.gradient).max(initial=0.0))
            if steepest < 1e-10:
                self.over = True
                break
            direction = self._direction(0.05 / steepest)
            slope = float(direction @ self.point.gradient)
            if slope >= 0.0:
                self._forget()
                direction = -self.point.gradient * (0.05 / steepest)
                slope = float(direction @ self.point.gradient)
            trial = self._line_search(direction, slope, max_evaluations)
            if trial is not None:
                self._learn(trial)
            elif self.evaluations < max_evaluations:
                if not self._steps:
                    self.over = True
                self._forget()
        return self.point

    def _line_search(self, direction: FloatArray, slope: float, max_evaluations: int) -> P | None:
        factor = self._problem.limit(self.point.parameters, direction)
        while self.evaluations < max_evaluations and factor > 1e-3:
            candidate = self._problem.evaluate(self.point.parameters + factor * direction)
            self.evaluations += 1
            if candidate.value <= self.point.value + 1e-4 * factor * slope:
                return candidate
            factor *= 0.4
        return None

    def _learn(self, trial: P) -> None:
        step, change = trial.parameters - self.point.parameters, trial.gradient - self.point.gradient
        if step @ change > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            self._steps.append(step)
            self._changes.append(change)
            del self._steps[:-MEMORY], self._changes[:-MEMORY]
        settled = self.point.value - trial.value < SETTLED * abs(self.point.value)
        self.point = trial
        self.over = settled or self._problem.finished(trial)

    def _forget(self) -> None:
        self._steps.clear()
        self._changes.clear()

    def _direction(self, first_step: float) -> FloatArray:
        """Minus the inverse Hessian estimate applied to the gradient (two-loop recursion)."""
        if not self._steps:
            return -self.point.gradient * first_step
        result = self.point.gradient.copy()
        factors = []
        for step, change in zip(reversed(self._steps), reversed(self._changes), strict=True):
            factor = float(step @ result) / float(step @ change)
            factors.append(factor)
            result -= factor * change
        step, change = self._steps[-1], self._changes[-1]
        result *= float(step @ change) / float(change @ change)
        for step, change, factor in zip(self._steps, self._changes, reversed(factors), strict=True):
            result += (factor - float(change @ result) / float(step @ change)) * step
        return np.asarray(-result)
