"""What is wrong with a configuration, one line per mistake: key, value, remedy.

pydantic says where a model was violated and how; `explain` says it in the words of the YAML file, `explain_yaml` does
the same for text that is no YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ideal.errors import did_you_mean

_EXAMPLE = "`ideal-run init` writes a commented example"
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
_EXPECTED = (
    (("int_",), "a whole number", ""),
    (("float_", "finite_number"), "a number", ""),
    (("bool_",), "true or false", "write true or false"),
    (("string_type",), "text", "put it into quotes"),
    (("path_",), "a path", "write the path of a file"),
    (("list_type", "tuple_type"), "a list", "write `[a, b, ...]` or lines that start with '- '"),
    (("dict_type", "model_type", "model_attributes_type"), "keys and values", "write `key: value` lines below it"),
    (("invalid_key",), "a key that is text", "put it into quotes"),
)


def explain(error: ValidationError, root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """One line per mistake.

    Args:
        error: of ``root.model_validate``.
        root: the model that was validated.
        prefix: key of ``root`` in the whole configuration, empty for the whole.
    """
    for item in error.errors(include_url=False):
        path = _Path(item["loc"], root)
        key = ".".join([prefix] * bool(prefix) + [str(name) for name in path.names])
        yield _line(item, key, path)


def explain_yaml(error: yaml.YAMLError) -> str:
    """One line: where the text stops to be YAML, and why."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    if "written twice" in problem:
        remedy = "remove one of the two"
    elif r"character '\t'" in problem:
        remedy = "indent with spaces, not tabs"
    else:
        remedy = "check indentation, colons, quotes and brackets there"
    return f"{where}not valid YAML ({problem}); {remedy}"


class _Path:
    """A pydantic error location as keys of the YAML file.

    Attributes:
        names: keys and list indices, without the tags that pydantic inserts for the members of a union.
        parent: model that the last key belongs to; None below free-form values.
        field: the field that the last key names; None when it is unknown.
        tags: names of the alternatives at the end of the path, such as the codes below ``labelling.code``.
    """

    def __init__(self, location: tuple[int | str, ...], root: type[BaseModel]) -> None:
        self.names: list[int | str] = []
        self.parent: type[BaseModel] | None = root
        self.field: FieldInfo | None = None
        self.tags: dict[str, type[BaseModel] | None] = {}
        model: type[BaseModel] | None = root
        for part in location:
            if part in self.tags:
                model = self.tags[str(part)]
                self.tags = {}
                continue
            self.names.append(part)
            if isinstance(part, int):
                continue
            self.parent = model
            self.field = model.model_fields.get(part) if model is not None else None
            annotation = self.field.annotation if self.field is not None else None
            self.tags = _alternatives(annotation)
            models = _models(annotation)
            model = models[0] if models and not self.tags else None


def _alternatives(annotation: Any) -> dict[str, type[BaseModel] | None]:
    """The tagged members of a union and the model behind each: by pydantic's Tag, else by the model's own ``type``."""
    found: dict[str, type[BaseModel] | None] = {}
    members = get_args(annotation)
    for member in members:
        models = _models(member)
        tags = [meta.tag for meta in getattr(member, "__metadata__", ()) if isinstance(meta, Tag)]
        if tags:
            found[tags[0]] = models[0] if models else None
        elif len(_models(annotation)) > 1 and member in models:
            found[str(member.model_fields["type"].default)] = member
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among the parts of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _line(item: ErrorDetails, key: str, path: _Path) -> str:
    kind, value = item["type"], _short(item["input"])
    context: dict[str, Any] = item.get("ctx", {})
    last = path.names[-1] if path.names else ""
    if kind == "extra_forbidden":
        valid = list(path.parent.model_fields) if path.parent is not None else []
        return f"unknown key {key!r} (value {value}); {did_you_mean(str(last), valid)}"
    if kind == "missing" and isinstance(last, int):
        return f"{key.rpartition('.')[0]}: item {last} is missing; {_meaning(path)}"
    if kind == "missing":
        return f"missing key {key!r}; add it ({_EXAMPLE})"
    if path.tags and kind == "model_attributes_type":
        return (
            f"{key}: expected keys and values, got {value}; write `type: ...` below it, one of {', '.join(path.tags)}"
        )
    if kind == "union_tag_not_found":
        return f"missing key '{key}.type'; valid: {', '.join(path.tags)}"
    if kind == "union_tag_invalid":
        return f"{key}.type: unknown value {context['tag']!r}; {did_you_mean(str(context['tag']), path.tags)}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"{key}: unknown value {value}; valid: {', '.join(valid)}"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind in _BOUNDS:
        name, relation = _BOUNDS[kind]
        return f"{key}: {value} is out of range; write a value {relation} {context[name]:g}"
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        relation = "at least" if kind == "too_short" else "at most"
        return f"{key}: {value} has {context['actual_length']} items; write {relation} {limit}"
    if kind == "string_pattern_mismatch":
        return f"{key}: {value} is not accepted; {_meaning(path)}"
    for kinds, expected, remedy in _EXPECTED:
        if kind.startswith(kinds):
            if item["input"] is None:
                return f"{key}: expected {expected}, got nothing; write a value or remove the key"
            remedy = remedy or _meaning(path)
            return f"{key}: expected {expected}, got {value}; {remedy}"
    return f"{key}: {item['msg']}, got {value}; {_meaning(path)}"


def _meaning(path: _Path) -> str:
    """The help line of the field as a remedy."""
    text = path.field.description if path.field is not None else None
    return f"meaning: {text}" if text else _EXAMPLE


def _short(value: Any, length: int = 80) -> str:
    """The value as the file may show it, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[: length - 4]} ..."
