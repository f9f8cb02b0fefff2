"""Rows of results: kept in files of their own, told as one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def cached(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The row in ``path``; made by ``make(*arguments)`` and written as a whole where it is missing."""
    if not path.is_file():
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(make(*arguments)))
        temporary.replace(path)
    row: dict[str, Any] = json.loads(path.read_text())
    return row


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Markdown: every row with "arm" and "seed", then mean and standard deviation over the seeds of every arm.

    Args:
        rows: what is missing or None stays empty.
        columns: names of numbers.
    """
    lines = [f"| {' | '.join(('arm', 'seed', *columns))} |", f"|{' --- |' * (2 + len(columns))}"]
    for row in rows:
        cells = ("" if row.get(name) is None else f"{row[name]:.4g}" for name in columns)
        lines.append(f"| {row['arm']} | {row['seed']} | {' | '.join(cells)} |")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        if len(own) > 1:
            numbers = ([row[name] for row in own if row.get(name) is not None] for name in columns)
            lines.append(f"| {arm} | {len(own)} seeds | {' | '.join(map(_spread, numbers))} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
