"""Generated documentation is up to date, and every committed configuration is valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ideal.config import load_config

ROOT = Path(__file__).parent.parent


def test_the_configuration_reference_is_up_to_date() -> None:
    script = ROOT / "docs" / "configuration_reference.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/config.yaml")), ids=lambda p: p.parent.name)
def test_the_configurations_of_the_examples_are_valid(path: Path) -> None:
    assert load_config(path).trajectories
