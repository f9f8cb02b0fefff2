"""The reference calculations of a run: asks for labels and keeps the answers until they are learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ase import Atoms

from ideal.config import LabellingConfig
from ideal.engine.run_directory import RunDirectory
from ideal.engine.trajectory import LabelRequest
from ideal.labelling.codes import ReferenceCode, make_code
from ideal.labelling.executors import make_executor
from ideal.labelling.labeller import Labeller
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label, structure_key


class Calculations:
    """Store, workers and the answers that nobody has used yet.

    Args:
        config: code, workers, time limit, gate.
        directory: the run directory; labels go to ``labels.sqlite``, calculations run below ``calculations``.

    Attributes:
        code: the reference code.
        store: every label and failure of the run.
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

    def __init__(self, config: LabellingConfig, directory: RunDirectory) -> None:
        self.code: ReferenceCode = make_code(config.code)
        self.store = LabelStore(directory.path / "labels.sqlite")
        self.results: dict[str, Label | FailedLabel] = {}
        folder = directory.path / "calculations"
        self._executor = make_executor(config, folder)
        self._labeller = Labeller(
            self.code,
            self.store,
            folder,
            timeout=config.timeout,
            gate=config.gate,
            executor=self._executor,
        )

    def request(self, atoms: Atoms, info: Mapping[str, Any]) -> LabelRequest:
        """A request for the label of ``atoms``; nothing is sent yet."""
        return LabelRequest(structure_key(atoms, self.code.settings), atoms, dict(info))

    def submit(self, request: LabelRequest) -> None:
        """Send a request; one that the store has answered before is ready at once and is not calculated again."""
        if request.key not in self.results:
            self._labeller.submit(request.atoms, request.info)

    def poll(self) -> None:
        """Take in what has finished."""
        self._take(self._labeller.poll())

    def wait(self, seconds: float) -> None:
        """Take in what finishes next, or return after ``seconds``."""
        self._take(self._labeller.wait(seconds))

    def forget(self, keys: Iterable[str]) -> None:
        """Drop answers that have been used."""
        for key in keys:
            self.results.pop(key, None)

    def close(self) -> None:
        """End the workers; what they had not finished is asked again when the run resumes."""
        self._labeller.close()
        self._executor.terminate()
        self.store.close()

    def _take(self, answers: Iterable[Label | FailedLabel]) -> None:
        self.results.update((answer.key, answer) for answer in answers)
