"""Where a run comes from: versions, git revision, platform, seed, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ideal

_PACKAGES = ("torch", "matgl", "torch_geometric", "ase", "numpy", "scipy", "safetensors")


def provenance(seed: int, code: Mapping[str, Any]) -> dict[str, Any]:
    """The record written once as ``provenance.json``.

    Args:
        seed: the run's seed.
        code: settings of the reference code, its version included.

    Example:
        >>> provenance(0, {"name": "emt"})["versions"]["ideal"]
        '0.1.0'
    """
    return {
        "seed": seed,
        "code": dict(code),
        "versions": versions(),
        "git_revision": git_revision(Path(ideal.__file__).parent),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "sessions": [session()],
    }


def session() -> dict[str, Any]:
    """One process that worked on the run."""
    return {"time": time.time(), "pid": os.getpid(), "command": sys.argv, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of Python, IDEAL and the packages that decide its numbers."""
    found = {"ideal": ideal.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_revision(folder: Path) -> str | None:
    """Commit that the package runs from, with ``-dirty`` after it when files differ; None outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
