"""Under which circumstances a label failed, and whether the failure stands under today's.

The settings of the code are part of the key. What is not (mixing, gate, time limit, the machine's memory) may have
changed since, in this run or in another that shares the store: then the label is asked again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from ideal.config import CodeSection, LabelGateConfig
from ideal.records import FailedLabel

FailureKind = Literal["refused", "time", "memory", "died", "code"]
"""The gate said no; the time or memory limit was exceeded; the worker died; the code failed or did not converge."""


@dataclass(frozen=True)
class Circumstances:
    """What a failure depends on beside structure and settings.

    Attributes:
        code: numerical settings and retries.
        gate: what a label must satisfy.
        timeout: time limit of a calculation, s.
        run: folder of the calculations, which names the run.
        memory: memory limit of a calculation, GB; None: none.
    """

    code: CodeSection
    gate: LabelGateConfig
    timeout: float
    run: str
    memory: float | None = None

    def record(self, kind: FailureKind) -> dict[str, Any]:
        """What is stored with a failure, JSON-able."""
        return {
            "kind": kind,
            "run": self.run,
            "gate": self.gate.model_dump(mode="json"),
            "timeout": self.timeout,
            "memory": self.memory,
        }

    def confirm(self, failure: FailedLabel) -> bool:
        """Whether a failure stands.

        An SCF that failed under other numerical settings, a time or memory limit that was lower, another gate, and a
        worker that died in another run are tried again.
        """
        numerics, then = failure.info.get("numerics"), failure.circumstances
        if numerics is not None and numerics != _through_json(self.code.numerics()):
            return False
        kind = then.get("kind")
        if kind == "refused":
            return bool(then["gate"] == _through_json(self.gate.model_dump(mode="json")))
        if kind == "time":
            return bool(then["timeout"] >= self.timeout)
        if kind == "memory":
            return self.memory is not None and then["memory"] is not None and bool(then["memory"] >= self.memory)
        return kind != "died" or then["run"] == self.run


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
