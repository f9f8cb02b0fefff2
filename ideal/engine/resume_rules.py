"""Which keys of ``config.yaml`` may change between two sessions of one run.

Anything that decides what was computed so far must stay; only how long the run goes on (steps, labels, stop rules) and
how labels are dispatched may change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ideal.errors import ConfigError

ALLOWED = (
    "engine.max_labels",
    "embedding.workers",
    "labelling.workers",
    "labelling.timeout",
    "labelling.memory",
    "labelling.threads",
    "labelling.executor",
    "labelling.store",
)
_SECTIONS = ("labelling.executor.", "stop.", "serve.")
_GROWS = re.compile(r"trajectories\.\d+\.sampler\.steps")
_IGNORED = ("output", "title")  # say where the run lies and what it is called


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], source: str) -> None:
    """Refuse a configuration that a resumed run cannot follow.

    Args:
        old: the configuration of the last checkpoint, as nested dictionaries of JSON types.
        new: the present one.
        source: file to name in the message.

    Raises:
        ConfigError: names the first key that differs and may not.

    Example:
        >>> check_unchanged({"seed": 0}, {"seed": 1}, "config.yaml")
        Traceback (most recent call last):
        ideal.errors.ConfigError: config.yaml: seed was 0 and is now 1; ...
    """
    for key, before, after in differences(old, new):
        grows = bool(_GROWS.fullmatch(key)) and isinstance(after, int) and after >= before
        if key in ALLOWED or key in _IGNORED or grows or key.startswith(_SECTIONS):
            continue
        raise ConfigError(
            f"{source}: {key} was {before!r} and is now {after!r}; a run can be resumed only with the configuration "
            f"it was started with: put the old value back or start a new run (may change: {', '.join(ALLOWED)}, "
            "stop, a larger sampler.steps)"
        )


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that differs, as (dotted key, old value, new value)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: list[Any] = [*old, *(key for key in new if key not in old)]
        pairs = [(key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(index, *both) for index, both in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield prefix, old, new
        return
    for key, before, after in pairs:
        yield from differences(before, after, f"{prefix}.{key}" if prefix else str(key))
