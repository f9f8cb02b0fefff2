"""Results as small JSON files, each written once and atomically: an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def part(path: Path, make: Callable[[], Result]) -> Result:
    """The result stored at ``path``; made and stored where there is none yet.

    Args:
        path: a JSON file.
        make: called only where the file is missing.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        result = make()
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(result, indent=1))
        temporary.replace(path)
        print(f"made {path.parent.name}/{path.name}", flush=True)
    stored: Result = json.loads(path.read_text())
    return stored


def finished(folder: Path) -> list[Result]:
    """All results stored in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def file_name(*words: object) -> str:
    """A file name that holds all ``words``."""
    return "_".join(str(word) for word in words).replace(" ", "-").replace(",", "") + ".json"


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds; the plain value where there is one seed."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
