"""Write ``docs/configuration.md`` from the schema in `ideal.config`; ``--check`` only compares."""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ideal.config import Config, Section

WORDS = {str: "text", float: "number", int: "integer", bool: "true or false", Path: "path", Any: "anything"}
PAGE = Path(__file__).with_name("configuration.md")
HEADER = """# Configuration reference

Generated from `ideal/config.py` by `python docs/configuration_reference.py`. A run is one YAML file; unknown keys are
refused. Numbers are in eV, Å, fs, K (durations of calculations in s), or texts with a unit: `2 fs`, `0.5 nm`,
`40 rydberg`, `1 GPa`.
`ideal-run schema` prints the same as a JSON schema for editors.
"""


def sections_of(annotation: Any) -> list[type[Section]]:
    """The configuration sections among the parts of a type."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_of(argument)]


def type_name(annotation: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} x {type_name(arguments[0])}"
    if origin is dict:
        return f"map to {type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return WORDS.get(annotation, str(annotation))


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is PydanticUndefined:
        return "see section"
    return f"`{'null' if field.default is None else field.default}`"


def render(section: type[Section], seen: set[type[Section]]) -> str:
    seen.add(section)
    lines = [
        f"\n## {section.__name__}\n",
        (section.__doc__ or "").strip(),
        "",
        "| key | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    later: list[type[Section]] = []
    for name, field in section.model_fields.items():
        cells = (f"`{name}`", type_name(field.annotation), default_text(field), field.description or "")
        lines.append(f"| {' | '.join(cells)} |")
        later += sections_of(field.annotation)
    text = "\n".join(lines) + "\n"
    return text + "".join(render(s, seen) for s in later if s not in seen)


def main() -> int:
    page = HEADER + render(Config, set())
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") == page:
            return 0
        print(f"{PAGE.name} is out of date: run `python docs/configuration_reference.py`")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
