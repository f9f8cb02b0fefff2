"""docs/labelling.md: every snippet is a valid section, and every code has one and a row of the table."""

import re
from pathlib import Path

import yaml

from ideal.config import CODES, LabellingConfig, parse_section

PAGE = (Path(__file__).parents[2] / "docs" / "labelling.md").read_text(encoding="utf-8")
SNIPPETS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


def test_every_snippet_is_valid():
    assert len(SNIPPETS) >= len(CODES)
    for snippet in SNIPPETS:
        parse_section(LabellingConfig, snippet, "labelling", "docs/labelling.md")


def test_every_code_is_shown():
    assert {snippet["code"]["type"] for snippet in SNIPPETS} == set(CODES)
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert rows[1:] == list(CODES)  # below the head of the table
