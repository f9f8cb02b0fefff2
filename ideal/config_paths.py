"""Paths of a configuration count from the folder of its YAML file; here they become absolute, and must exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideal.config_codes import CodeSection, TeacherConfig
from ideal.config_sampler import SamplerSection
from ideal.errors import ConfigError

if TYPE_CHECKING:
    from ideal.config import Config


def resolve_paths(config: Config, folder: Path, source: str) -> Config:
    """The configuration with absolute paths.

    Args:
        config: validated.
        folder: what relative paths count from.
        source: where the configuration comes from, for errors.

    Raises:
        ConfigError: a file or folder that it names does not exist.
    """

    def existing(path: Path, key: str, kind: str = "file") -> Path:
        absolute = path if path.is_absolute() else folder / path
        if not (absolute.is_dir() if kind == "folder" else absolute.is_file()):
            raise ConfigError(f"{source}: {key}: no such {kind}: {absolute}; correct the path (relative to {folder})")
        return absolute

    def placed_sampler(sampler: SamplerSection, key: str) -> SamplerSection:
        files = {name: getattr(sampler, name) for name in sampler.files}
        return sampler.model_copy(
            update={name: existing(file, f"{key}.{name}") for name, file in files.items() if file is not None}
        )

    trajectories = [
        t.model_copy(
            update={
                "structure": existing(t.structure, f"trajectories.{i}.structure"),
                "sampler": placed_sampler(t.sampler, f"trajectories.{i}.sampler"),
            }
        )
        for i, t in enumerate(config.trajectories)
    ]
    dataset = config.dataset
    for key in ("initial", "held_out"):
        value = getattr(dataset, key)
        if value is not None:
            dataset = dataset.model_copy(update={key: existing(value, f"dataset.{key}")})
    labelling = config.labelling

    def placed(code: CodeSection, key: str) -> CodeSection:
        places: dict[str, Any] = {
            name: existing(place, f"{key}.{name}", kind)
            for name, kind in code.places.items()
            if isinstance(place := getattr(code, name), Path)
        }
        if isinstance(code, TeacherConfig) and (folder / code.path).exists():
            places["path"] = str((folder / code.path).resolve())
        return code.model_copy(update=places)

    store = labelling.store
    labelling = labelling.model_copy(
        update={
            "code": placed(labelling.code, "labelling.code"),
            "codes": {name: placed(code, f"labelling.codes.{name}") for name, code in labelling.codes.items()},
            "store": store if store is None or store.is_absolute() else folder / store,
        }
    )
    model = config.model
    if model.path is not None and (folder / model.path).exists():
        model = model.model_copy(update={"path": str((folder / model.path).resolve())})
    file, _, name = (model.module or "").rpartition(":")
    if file.endswith(".py") and (folder / file).is_file():
        model = model.model_copy(update={"module": f"{(folder / file).resolve()}:{name}"})
    output = config.output
    if output is not None and not output.is_absolute():
        output = folder / output
    return config.model_copy(
        update={
            "trajectories": trajectories,
            "dataset": dataset,
            "labelling": labelling,
            "model": model,
            "output": output,
        }
    )
