"""One uninterrupted run that several tests compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ideal.config import Config
from ideal.engine.engine import Engine
from ideal.engine.summary import RunSummary

from .runs import copper_config


@pytest.fixture(scope="session", autouse=True)
def importable_calculators() -> Iterator[None]:
    """Let worker processes and the configuration find ``engine_calculators``."""
    here = str(Path(__file__).parent)
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])))
    patch.syspath_prepend(here)
    yield
    patch.undo()


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    folder: Path
    path: Path
    config: Config
    summary: RunSummary


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny copper run, uninterrupted, in serial mode."""
    folder = tmp_path_factory.mktemp("reference")
    config = copper_config(folder)
    summary = Engine.create(config, folder / "run").run()
    return Finished(folder, folder / "run", config, summary)
