"""The reference calculations of a run: asks for labels and keeps the answers until they are learned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ase import Atoms

from ideal.config import LabellingConfig
from ideal.engine.run_directory import RunDirectory
from ideal.engine.trajectory import LabelRequest
from ideal.labelling.choice import DEFAULT, choose_code
from ideal.labelling.codes import ReferenceCode, make_code
from ideal.labelling.executors import make_executor
from ideal.labelling.gate import refuse_force
from ideal.labelling.labeller import Labeller
from ideal.labelling.rescue import Rescued, open_or_rescue
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label, structure_key

_POLL_SECONDS = 0.05
_RECOVERY_WAIT = 1.0


class Calculations:
    """Store, workers and the answers that nobody has used yet.

    Args:
        config: codes, executor, time limit, gate, shared store.
        directory: the run directory; labels go to ``labels.db``, calculations run below ``calculations``.
        wanted: name in ``labelling.codes`` of the code of a trajectory, by the trajectory's name; null: by the rules.

    Attributes:
        code: the reference code that labels where nothing else is said.
        store: every label and failure of the run, those taken from a shared store included.
        rescued: what was saved of a damaged store; None as a rule.
        results: answers by key.

    Raises:
        MissingPackageError: the code is not installed.
        LabelError: the code, the store or the executor cannot be used.

    Example:
        >>> request = calculations.request(atoms, {"trajectory": "md"})
        >>> calculations.submit(request)
        >>> calculations.wait(10.0)
        >>> calculations.results[request.key]
        Label(...)
    """

    def __init__(
        self, config: LabellingConfig, directory: RunDirectory, wanted: Mapping[str, str | None] | None = None
    ) -> None:
        self._config = config
        self._wanted = dict(wanted or {})
        self._codes: dict[str, ReferenceCode] = {
            name: make_code(section) for name, section in {DEFAULT: config.code, **config.codes}.items()
        }
        self.code = self._codes[DEFAULT]
        self.rescued: Rescued | None
        self.store, self.rescued = open_or_rescue(directory.label_store())
        self._shared = None if config.store is None else LabelStore(config.store)
        self.results: dict[str, Label | FailedLabel] = {}
        folder = directory.path / "calculations"
        self._executor = make_executor(config, folder)
        self._labellers = {
            name: Labeller(
                code,
                self._shared or self.store,
                folder,
                timeout=config.timeout,
                gate=config.gate,
                executor=self._executor,
                memory=config.memory,
            )
            for name, code in self._codes.items()
        }
        if self.rescued is not None:
            self._recover(self.rescued.lost)

    def request(self, atoms: Atoms, info: Mapping[str, Any]) -> LabelRequest:
        """A request for the label of ``atoms``; nothing is sent yet."""
        name = choose_code(self._config, atoms, self._wanted.get(info.get("trajectory", "")))
        info = dict(info) if name == DEFAULT else {**info, "labelled_by": name}
        return LabelRequest(structure_key(atoms, self._codes[name].settings), atoms, info)

    def submit(self, request: LabelRequest) -> None:
        """Send a request; one that the store has answered before is ready at once and is not calculated again."""
        if request.key not in self.results:
            self._labellers[request.info.get("labelled_by", DEFAULT)].submit(request.atoms, request.info)

    def poll(self) -> None:
        """Take in what has finished."""
        for labeller in self._labellers.values():
            self._take(labeller.poll())

    def wait(self, seconds: float) -> None:
        """Take in what finishes next, or return after ``seconds``."""
        if len(self._labellers) == 1:
            self._take(self._labellers[DEFAULT].wait(seconds))
            return
        before, deadline = len(self.results), time.monotonic() + seconds
        self.poll()
        while len(self.results) == before and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self.poll()

    def forget(self, keys: Iterable[str]) -> None:
        """Drop answers that have been used."""
        for key in keys:
            self.results.pop(key, None)

    def close(self) -> None:
        """End the workers; what they had not finished is asked again when the run resumes."""
        for labeller in self._labellers.values():
            labeller.close()
        self._executor.terminate()
        if self._shared is not None:
            self._shared.close()
        self.store.close()

    def _take(self, answers: Iterable[Label | FailedLabel]) -> None:
        for answer in answers:
            if self._shared is not None and (isinstance(answer, Label) or self.store.get(answer.key) is None):
                self.store.put(answer)  # the run's own store stays complete without the shared one
            self.results[answer.key] = self._learnable(answer)

    def _learnable(self, answer: Label | FailedLabel) -> Label | FailedLabel:
        """The answer; where its forces are too large to learn, a failure in its place (the store keeps the label)."""
        limit = self._config.gate.max_learned_force
        if limit is None or isinstance(answer, FailedLabel):
            return answer
        reason = refuse_force(answer.atoms, answer.forces, "max_learned_force", limit)
        if reason is None:
            return answer
        cause = f"{reason}: the label stays in the store and is not learned; weaken the bias, or raise the limit"
        return FailedLabel(answer.key, answer.atoms, cause, seconds=answer.seconds, info=answer.info)

    def _recover(self, lost: Iterable[str]) -> None:
        """Calculate again what a damaged store has lost, before the run asks for what it has learned from it."""
        wanted = set()
        for key in lost:
            request = self.store.requested(key)
            if request is None:
                continue
            asked = self.request(request.atoms, request.info)
            if asked.key == key:
                self.submit(asked)
                wanted.add(key)
        while wanted - self.results.keys():
            self.wait(_RECOVERY_WAIT)
        self.forget(wanted)
