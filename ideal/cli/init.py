"""``ideal-run init``: a commented starter configuration for a structure file.

The comments are the help lines of the schema; the values are the schema's defaults except where the structure, or what
is installed, asks for others (each choice says why).
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import yaml

from ideal.config import CODES
from ideal.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ase import Atoms
    from pydantic import BaseModel

CODE_NAMES = ", ".join(name for name in CODES if name != "ase")
_COMMENT_WIDTH = 100
_VACUUM = 6.0
_SHORTEST_SIDE = 10.0
_MANY_ELEMENTS = 4
_NONMETALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 86))
"""Atomic numbers of the elements that are no metals; a structure without them is taken for a metal."""

_INSTALL = {
    "gpaw": 'CC=g++ pip install "ideal-md[gpaw]"',
    "tblite": 'pip install "ideal-md[tblite]"',
    "pyscf": 'pip install "ideal-md[pyscf]"',
    "espresso": "apt-get install quantum-espresso, or put pw.x on PATH",
}


def init(
    structure: Annotated[
        Path, typer.Argument(metavar="STRUCTURE", help="Structure file in any format that ASE reads.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")] = Path("config.yaml"),
    code: Annotated[
        str | None,
        typer.Option(metavar="CODE", help=f"Reference code: {CODE_NAMES}, or an ASE calculator as module:Class."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled structures to start from; without it the run makes and labels some.")
    ] = None,
    pseudo_dir: Annotated[Path | None, typer.Option(help="Folder of pseudopotentials (espresso).")] = None,
    temperature: Annotated[float, typer.Option(metavar="K", help="Target temperature in K.")] = 300.0,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Number of time steps.")] = 1000,
    full: Annotated[
        bool, typer.Option("--full", help="Write every key of the schema, not only the usual ones.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented starter configuration for a structure file."""
    from ideal.cli.output import write_text
    from ideal.cli.settings import installed_codes
    from ideal.config import Config, parse_config
    from ideal.dataset.files import read_structures

    if output.exists() and not force:
        raise ConfigError(f"{output}: exists already; name another file with --output or replace it with --force")
    if data is not None and not data.is_file():
        raise ConfigError(f"--data {data}: no such file; name a file of labelled structures")
    atoms = read_structures(structure)[-1]
    installed = installed_codes()
    notes: dict[str, str] = {}
    values: dict[str, Any] = {
        "title": f"{atoms.get_chemical_formula(mode='metal', empirical=True)} at {temperature:g} K",
        "seed": 0,
        "output": f"runs/{structure.stem}",
        "trajectories": [_trajectory(atoms, _relative(structure, output), temperature, steps, notes)],
        "uncertainty": _uncertainty(atoms, notes),
        "selection": {"max_per_frame": 2},
        "embedding": {"r_core": 4.0, "margin": 2.5, "max_atoms": 200},
        "labelling": _labelling(atoms, code, installed, pseudo_dir, output, notes),
        "dataset": _dataset(data, output),
        "model": {"n_blocks": 2, "units": 32, "cutoff": 5.0},
        "training": {"pretrain": {"epochs": 100}, "online": {"epochs": 12, "replay": 16}, "final": {"epochs": 100}},
        "engine": {"mode": "serial", "max_labels": None},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    parse_config(values, folder=output.parent, source=str(output))
    if full:
        values = Config.model_validate(values).model_dump(mode="json")
    text = _header(structure, output, full) + "".join(_section_lines(values, Config, notes, full=full))
    write_text(output, text)
    typer.echo(f"Wrote {output} for {len(atoms)} atoms of {', '.join(_elements(atoms))}.")
    chosen = values["labelling"]["code"]["type"]
    if chosen in _INSTALL and chosen not in installed:
        typer.echo(f"The code {chosen} is not installed: {_INSTALL[chosen]}")
    typer.echo(f"Next: ideal-run check {output}")


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead.")] = None,
) -> None:
    """Print the JSON schema of the configuration, for editors."""
    import json

    from ideal.cli.output import write_text
    from ideal.config import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"Wrote {output}.")


# --- choices ----------------------------------------------------------------------------------------------------------


def _elements(atoms: Atoms) -> list[str]:
    return sorted(set(atoms.get_chemical_symbols()))


def _relative(path: Path, output: Path) -> str:
    """``path`` as the YAML file at ``output`` should name it."""
    return Path(os.path.relpath(path.resolve(), output.parent.resolve())).as_posix()


def _trajectory(atoms: Atoms, structure: str, temperature: float, steps: int, notes: dict[str, str]) -> dict[str, Any]:
    lightest = float(atoms.get_masses().min())
    hydrogen = "H" in atoms.get_chemical_symbols()
    timestep = 0.5 if hydrogen else 1.0 if lightest < 20 else 2.0
    reason = "the structure holds hydrogen" if hydrogen else f"the lightest atom has {lightest:.1f} amu"
    notes["trajectories.sampler.timestep"] = f"Here {timestep:g}: {reason}."
    repeat = _repeats(atoms)
    if repeat != [1, 1, 1]:
        notes["trajectories.repeat"] = f"Here: every periodic side reaches {_SHORTEST_SIDE:g} Å."
    return {
        "name": "md",
        "structure": structure,
        "repeat": repeat,
        "sampler": {
            "type": "molecular_dynamics",
            "ensemble": "nvt_langevin",
            "timestep": timestep,
            "steps": steps,
            "temperature": temperature,
        },
        "check_every": 10,
    }


def _repeats(atoms: Atoms) -> list[int]:
    """Repeats that bring every periodic side without vacuum to twice the usual cutoff."""
    import numpy as np

    repeats = [1, 1, 1]
    for axis in range(3):
        if not atoms.pbc[axis]:
            continue
        height = abs(atoms.cell.volume) / np.linalg.norm(
            np.cross(atoms.cell[(axis + 1) % 3], atoms.cell[(axis + 2) % 3])
        )
        fractions = np.sort(atoms.get_scaled_positions()[:, axis])
        gaps = np.diff(np.append(fractions, fractions[0] + 1.0)) * height
        if len(atoms) > 1 and gaps.max() > _VACUUM:
            continue
        repeats[axis] = int(np.ceil(_SHORTEST_SIDE / height - 1e-9))
    return repeats


def _uncertainty(atoms: Atoms, notes: dict[str, str]) -> dict[str, Any]:
    n_max, l_max = 6, 4
    if len(_elements(atoms)) >= _MANY_ELEMENTS:
        n_max, l_max = 4, 3
        notes["uncertainty.soap.n_max"] = f"Here 4: {len(_elements(atoms))} elements make many features."
    return {
        "soap": {"r_cut": 5.0, "n_max": n_max, "l_max": l_max},
        "threshold": {"force_error": "0.15 eV/Å"},
    }


def _labelling(
    atoms: Atoms, code: str | None, installed: list[str], pseudo_dir: Path | None, output: Path, notes: dict[str, str]
) -> dict[str, Any]:
    from ideal.cli.settings import code_data

    periodic = bool(atoms.pbc.any())
    order = ("gpaw", "espresso", "tblite", "pyscf") if periodic else ("pyscf", "tblite", "gpaw")
    usable = [name for name in order if name in installed and (name != "espresso" or pseudo_dir is not None)]
    if code is None:
        code = "espresso" if pseudo_dir is not None else usable[0] if usable else order[0]
    values = code_data(code)
    others = [name for name in installed if name != code]
    notes["labelling.code.type"] = f"Reference code: {CODE_NAMES} or ase. " + (
        f"Also installed: {', '.join(others)}." if others else "No other code is installed."
    )
    if values["type"] in ("gpaw", "espresso"):
        metal = not _NONMETALS.intersection(atoms.numbers.tolist())
        values["kpoint_length"] = (20.0 if metal else 12.0) if periodic else 0.0
        reason = "a metal" if metal else "holds nonmetals; 20 for a metal"
        notes["labelling.code.kpoint_length"] = f"Here: {reason}." if periodic else "Here: nothing is periodic."
    if values["type"] == "gpaw":
        values |= {"xc": "PBE", "cutoff": 300.0 if _elements(atoms) == ["Li"] else 400.0, "smearing": 0.1}
    elif values["type"] == "espresso":
        values |= _espresso(_elements(atoms), pseudo_dir, output)
    elif values["type"] == "pyscf":
        values |= {"xc": "PBE", "basis": "gth-dzvp" if periodic else "def2-svp"}
        if periodic:
            values |= {"pseudo": "gth-pbe"}
    elif values["type"] == "tblite":
        values["method"] = "GFN1-xTB"
    elif values["type"] == "abinit":
        chosen = _espresso(_elements(atoms), pseudo_dir, output, "abinit", (".psp8", ".xml", ".gth", ".upf"))
        values |= {key: chosen[key] for key in ("pseudo_dir", "pseudopotentials")}
    else:
        _refuse_what_is_missing(values)
    return {"code": values, "workers": 2, "timeout": "1 h"}


def _refuse_what_is_missing(values: dict[str, Any]) -> None:
    """Refuse a code whose section needs what neither a structure nor a default tells."""
    from ideal.config import LabellingConfig

    section = _pick(_sections_of(LabellingConfig.model_fields["code"].annotation), values)
    missing = [name for name, field in section.model_fields.items() if field.is_required() and name not in values]
    if missing:
        raise ConfigError(
            f"--code {values['type']}: its section needs {', '.join(missing)}, which no structure tells; start from "
            f"examples/codes/{values['type']}.yaml"
        )


def _espresso(
    elements: list[str],
    pseudo_dir: Path | None,
    output: Path,
    code: str = "espresso",
    suffixes: tuple[str, ...] = (".upf",),
) -> dict[str, Any]:
    if pseudo_dir is None:
        raise ConfigError(f"--code {code}: name the folder of the pseudopotentials with --pseudo-dir")
    if not pseudo_dir.is_dir():
        raise ConfigError(f"--pseudo-dir {pseudo_dir}: no such folder; name the folder of the pseudopotentials")
    files = sorted(path.name for path in pseudo_dir.iterdir() if path.suffix.lower() in suffixes)
    chosen: dict[str, str] = {}
    for element in elements:
        matching = [name for name in files if re.match(rf"{element}[._-]", name, re.IGNORECASE)]
        if not matching:
            raise ConfigError(
                f"--pseudo-dir {pseudo_dir}: no pseudopotential for {element} (expected {element}.*{suffixes[0]}); "
                "add the file"
            )
        chosen[element] = matching[0]
    folder = _relative(pseudo_dir, output)
    return {"pseudo_dir": folder, "pseudopotentials": chosen, "ecutwfc": "60 rydberg", "smearing": 0.1}


def _dataset(data: Path | None, output: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"initial": None if data is None else _relative(data, output)}
    if data is None:
        values["rattled"] = {"count": 10, "rattle": 0.1, "strain": 0.03, "max_atoms": 64}
    return values | {"held_out": None}


# --- writing ----------------------------------------------------------------------------------------------------------


def _header(structure: Path, output: Path, full: bool) -> str:
    more = (
        "" if full else "\n# Only the usual keys stand here; `ideal-run init --full` writes every key with its default."
    )
    return (
        f"# Configuration of ideal-run for {structure.name}.\n"
        "# Numbers are in eV, Å, fs, K; text may carry a unit: '2 fs', '0.002 ps', '1 GPa', '30 min'."
        f"{more}\n"
        f"# Check it with `ideal-run check {output.name}`, start it with `ideal-run run {output.name}`.\n\n"
    )


def _section_lines(
    values: dict[str, Any],
    model: type[BaseModel],
    notes: dict[str, str],
    prefix: str = "",
    depth: int = 0,
    full: bool = False,
) -> Iterator[str]:
    """YAML of one section, each key below the schema's help line."""
    indent = "  " * depth
    for key, value in values.items():
        if key not in model.model_fields:
            raise ConfigError(f"{prefix}{key}: not in the schema; {did_you_mean(key, model.model_fields)}")
        field = model.model_fields[key]
        sections = _sections_of(field.annotation)
        help_line = " ".join(filter(None, [field.description, notes.get(prefix + key)]))
        yield from (
            f"{indent}# {line}\n"
            for line in textwrap.wrap(help_line, _COMMENT_WIDTH - len(indent), break_long_words=False)
        )
        if sections and isinstance(value, dict) and value:
            yield f"{indent}{key}:\n"
            section = _pick(sections, value)
            yield from _section_lines(value, section, notes, f"{prefix}{key}.", depth + 1, full)
        elif sections and isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:\n"
            for item in value:
                lines = list(_section_lines(item, _pick(sections, item), notes, f"{prefix}{key}.", depth + 2, full))
                yield from _as_item(lines, indent)
        else:
            yield f"{indent}{key}: {_scalar(value)}\n"
        if depth == 0:
            yield "\n"


def _as_item(lines: list[str], indent: str) -> Iterator[str]:
    """The lines of a mapping as an item of a list: the dash goes before the first key."""
    first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
    for number, line in enumerate(lines):
        yield f"{indent}  - {line[len(indent) + 4 :]}" if number == first else line


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The schema's sections within a type annotation."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]


def _pick(sections: list[type[BaseModel]], value: dict[str, Any]) -> type[BaseModel]:
    """The section of a union that ``value`` belongs to, by its ``type``."""
    for section in sections:
        field = section.model_fields.get("type")
        if field is not None and value.get("type") in get_args(field.annotation):
            return section
    return sections[0]
