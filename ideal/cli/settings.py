"""Configurations as the command line gives them: a file or folder, with ``--set key=value`` on top.

An override's value is read as YAML and the result goes through the strict schema, so ``--set seed=3`` is a number,
``--set 'trajectories.0.repeat=[2,2,2]'`` a list, and a misspelt key is refused like one in the file.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ideal.config import CODES as CODES
from ideal.config import Config, Section, SectionType, parse_config, parse_section, read_yaml
from ideal.errors import ConfigError, did_you_mean

PROGRAMS = {
    "espresso": "pw.x",
    "cp2k": "cp2k.psmp",
    "abinit": "abinit",
    "vasp": "vasp_std",
    "aims": "aims.x",
    "orca": "orca",
    "dftb": "dftb+",
}
"""Codes that are programs, by the name that they are found under; the others are Python packages."""


def config_file(path: Path) -> Path:
    """The YAML file that ``path`` names: itself, or ``config.yaml`` in the folder ``path``.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        return path
    file = path / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{path}: the folder holds no config.yaml; name the YAML file itself")
    return file


def read_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """`ideal.config.load_config` of a file or folder, with overrides applied before validation.

    Raises:
        ConfigError: as `load_config`; an override that is not ``key=value``.
    """
    file = config_file(path)
    data = read_yaml(file)
    overrides = list(overrides)
    if isinstance(data, dict):
        apply_overrides(data, overrides)
    source = f"{file} with --set" if overrides else str(file)
    return parse_config(data, folder=file.parent, source=source)


def apply_overrides(data: Any, overrides: Iterable[str]) -> None:
    """Write each ``key.subkey=value`` into nested dictionaries and lists, in place.

    Example:
        >>> data = {"trajectories": [{"name": "a"}]}
        >>> apply_overrides(data, ["trajectories.0.name=b", "seed=3"])
        >>> data
        {'trajectories': [{'name': 'b'}], 'seed': 3}
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r}: write key=value, for example --set seed=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value; put text in quotes") from None
        _assign(data, key.strip().split("."), value, override)


def _assign(data: Any, names: list[str], value: Any, override: str) -> None:
    place = data
    for position, name in enumerate(names):
        last = position == len(names) - 1
        if isinstance(place, list):
            if not name.isdigit() or int(name) >= len(place):
                raise ConfigError(
                    f"--set {override!r}: {name!r} is not an item of a list of {len(place)}; count from 0"
                )
            if last:
                place[int(name)] = value
            else:
                place = place[int(name)]
        elif isinstance(place, dict):
            if last:
                place[name] = value
            else:
                if place.get(name) is None:
                    place[name] = {}
                place = place[name]
        else:
            raise ConfigError(
                f"--set {override!r}: {'.'.join(names[:position])} is the value {place!r} and has no key {name!r}"
            )


def read_sections(
    sections: dict[str, type[Section]], overrides: Iterable[str], start: dict[str, Any]
) -> dict[str, Section]:
    """Sections of a configuration from their defaults, ``start`` and overrides, for commands that need no full one.

    Args:
        sections: model by top-level key.
        overrides: ``key=value`` with the keys of a full configuration.
        start: values set before the overrides.

    Raises:
        ConfigError: an override names another section, or is wrong.
    """
    data = dict(start)
    overrides = list(overrides)
    apply_overrides(data, overrides)
    for key in data:
        if key not in sections:
            raise ConfigError(f"--set {key}: not used by this command; {did_you_mean(key, sections)}")
    return {key: _read(section, data.get(key) or {}, key) for key, section in sections.items()}


def _read(section: type[SectionType], data: Any, key: str) -> SectionType:
    return parse_section(section, data, key, "command line")


def code_data(name: str) -> dict[str, Any]:
    """``labelling.code`` of a code named on the command line: one of `CODES`, or the import path of an ASE calculator.

    Example:
        >>> code_data("ase.calculators.emt:EMT")
        {'type': 'ase', 'calculator': 'ase.calculators.emt:EMT'}
    """
    if ":" in name:
        return {"type": "ase", "calculator": name}
    if name == "ase":
        raise ConfigError("--code ase: name the calculator instead, such as ase.calculators.emt:EMT")
    if name not in CODES:
        raise ConfigError(
            f"--code {name!r}: unknown; {did_you_mean(name, CODES)} "
            "(or an ASE calculator such as ase.calculators.emt:EMT)"
        )
    return {"type": name}


def installed_codes() -> list[str]:
    """The codes of `CODES` that this environment has; nothing is imported or started."""
    packages = [code for code in CODES if code not in (*PROGRAMS, "teacher", "ase")]
    found = {code for code in packages if importlib.util.find_spec(code) is not None}
    found |= {code for code, program in PROGRAMS.items() if shutil.which(program) is not None}
    return [code for code in CODES if code in found]
