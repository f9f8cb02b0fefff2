"""The exceptions of IDEAL.

Every message names the offending value, the valid set and the remedy. The command line turns each class into one line
and an exit code (``ideal.cli``); nothing here imports more than the standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IdealError(Exception):
    """Base of every error that IDEAL raises on purpose."""

    exit_code = 1


class ConfigError(IdealError):
    """The configuration, or a file that it names, is wrong."""

    exit_code = 2


class UncertaintyError(IdealError):
    """A descriptor or uncertainty cannot be evaluated for the given structure."""

    exit_code = 3


class EmbeddingError(IdealError):
    """No small periodic cell could be built around the requested atom."""

    exit_code = 4


class LabelError(IdealError):
    """A reference calculation cannot be run or its result is refused."""

    exit_code = 5


class TrainingError(IdealError):
    """A model cannot be loaded, evaluated or trained."""

    exit_code = 6


class SamplerError(IdealError):
    """The dynamics left the physical range or cannot be started."""

    exit_code = 7


class MissingPackageError(IdealError):
    """An optional package or program is not installed; the message says how to get it."""

    exit_code = 8

    def __init__(self, package: str, purpose: str, install: str | None = None, kind: str = "package") -> None:
        super().__init__(f"{purpose} needs the {kind} {package!r}: {install or f'pip install {package}'}")


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """A remedy for a misspelt ``word``: the nearest valid one, else the valid set.

    Example:
        >>> did_you_mean("gpwa", ["gpaw", "pyscf"])
        "did you mean 'gpaw'?"
    """
    options = sorted(valid)
    close = difflib.get_close_matches(word, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(options)}"
