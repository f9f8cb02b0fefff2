"""The commands of ``examples/embedding/README.md``, as a new user would run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read

EXAMPLE = Path(__file__).parents[2] / "examples" / "embedding"
COMMANDS = re.findall(r"^    (?:ideal-run) (embed .*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
SMALL = re.search(r'SMALL="(.*)"', (EXAMPLE / "README.md").read_text())


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    subprocess.run([sys.executable, str(EXAMPLE / "build_frames.py")], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command(frames: Path, command: str) -> None:
    assert SMALL is not None
    arguments = shlex.split(command.replace("$SMALL", SMALL.group(1)))
    code = "import sys; from ideal.cli.app import main; sys.argv[0] = 'ideal-run'; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=frames, capture_output=True, text=True, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("accepted: ")
    structure, atom = Path(arguments[1]), int(arguments[3])
    cell = read(frames / f"{structure.stem}-atom{atom}.extxyz")
    frame = read(frames / structure)
    assert len(cell) < len(frame)
    assert cell.arrays["parent_index"][cell.info["center"]] == atom
    assert (frames / f"{structure.stem}-atom{atom}.png").stat().st_size > 20_000


def test_the_example_names_every_material() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "lithium.extxyz",
        "silica.extxyz",
        "slab.extxyz",
        "particle.extxyz",
    }
