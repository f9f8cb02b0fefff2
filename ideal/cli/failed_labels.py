"""The failed labels of a run as ``ideal-run status`` shows them: code, cause, last line of the log, folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ideal.errors import LabelError

if TYPE_CHECKING:
    from ideal.records import FailedLabel

SHOWN = 5
KINDS = {
    "code": "failed in the code",
    "refused": "refused by the gate",
    "time": "ran out of time",
    "memory": "ran out of memory",
    "died": "lost with their worker",
}


def failed_labels(directory: Path) -> list[FailedLabel]:
    """The failures in the label store of a run, oldest first; none while there is no store that can be read."""
    from ideal.engine.run_directory import LABEL_STORE
    from ideal.labelling.store import LabelStore

    try:
        with LabelStore(directory / LABEL_STORE, read_only=True) as store:
            return store.failures()
    except LabelError:  # no label yet, or a store that `ideal-run resume` has to rescue first
        return []


def failure_lines(failures: Sequence[FailedLabel], directory: Path) -> list[str]:
    """How many failed of which kind, and the last of them in full.

    Example:
        >>> failure_lines([], Path("run"))
        []
    """
    if not failures:
        return []
    kinds = Counter(str(failure.circumstances.get("kind", "code")) for failure in failures)
    parts = ", ".join(f"{count} {KINDS.get(kind, kind)}" for kind, count in kinds.most_common())
    lines = [f"Failed labels: {len(failures)} ({parts})"]
    for failure in failures[-SHOWN:]:
        origin = " step ".join(str(failure.info[name]) for name in ("trajectory", "step") if name in failure.info)
        lines.append(f"  {failure.key[:8]}  {failure.code or 'code'}  {origin or 'initial data'}")
        lines.append(f"    cause   {failure.cause}")
        last = [line.strip() for line in failure.log_tail.splitlines() if line.strip() and not line.startswith("---")]
        if last:
            lines.append(f"    log     {last[-1][:200]}")
        if failure.folder:
            lines.append(f"    folder  {_relative(Path(failure.folder), directory)}")
    if len(failures) > SHOWN:
        lines.append(f"  and {len(failures) - SHOWN} more; all stand in the store with the tails of their logs")
    return lines


def _relative(folder: Path, directory: Path) -> Path:
    inside = folder.is_relative_to(directory.resolve())
    return directory / folder.relative_to(directory.resolve()) if inside else folder
