"""Generated documentation is up to date, and every committed configuration is valid."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ideal.config import Config, load_config, parse_config, read_yaml
from ideal.errors import ConfigError

ROOT = Path(__file__).parent.parent
TEXTS = (".md", ".py", ".rst", ".yaml", ".sh", ".txt")


def test_the_configuration_reference_is_up_to_date() -> None:
    script = ROOT / "docs" / "configuration_reference.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/config.yaml")), ids=lambda p: p.parent.name)
def test_the_configurations_of_the_examples_are_valid(path: Path) -> None:
    assert load_config(path).trajectories


SNIPPETS = [
    pytest.param(text, id=f"{file.stem}-{number}")
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_every_snippet_of_yaml_is_valid(text: str, tmp_path: Path) -> None:
    """Put where it belongs in the quick example; only the files that it names may be missing."""
    (tmp_path / "snippet.yaml").write_text(text)
    config = read_yaml(ROOT / "examples" / "quick" / "config.yaml")
    for key, value in read_yaml(tmp_path / "snippet.yaml").items():
        section = config
        if key in ("sampler", "structure"):
            section = config["trajectories"][0]
        elif key not in Config.model_fields:
            section = config["labelling"]
        section[key] = value
    try:
        parse_config(config, ROOT / "examples" / "quick", "snippet")
    except ConfigError as error:
        wrong = [line for line in str(error).splitlines() if not re.search(r": no such (file|folder): ", line)]
        assert not wrong, "\n".join(wrong)


def test_every_extra_that_is_told_of_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    folders = ("docs", "examples", "ideal", "csrc", "benchmarks", ".ci")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in TEXTS]
    for file in [ROOT / "README.md", ROOT / ".ci" / "run", *files]:
        for named in re.findall(r"(?:ideal-md|[\"'. ]\.)\[([a-z0-9,]+)\]", file.read_text(encoding="utf-8")):
            assert not set(named.split(",")) - set(extras), f"{file.relative_to(ROOT)}: [{named}]"
