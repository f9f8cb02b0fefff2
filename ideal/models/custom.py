"""A user's own potential, named by the configuration: ``model: {type: custom, module: my_model.py:MyPotential}``.

The class satisfies `ideal.models.base.TrainablePotential` and has two class methods,

    new(elements, seed, device, threads, **arguments)       random weights that depend on seed alone
    load(path, device, threads)                             what `save` wrote

A torch network of edge vectors gets all but `new` from `ideal.models.edge_potential.EdgePotential`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ideal.errors import TrainingError, did_you_mean

if TYPE_CHECKING:
    from ideal.config import ModelConfig
    from ideal.models.base import TrainablePotential


def custom_class(config: ModelConfig) -> Any:
    """The class that ``config.module`` names.

    Raises:
        TrainingError: no such file, module or class; it cannot be imported.
    """
    name = config.module or ""
    place, _, class_name = name.rpartition(":")
    if not place or not class_name:
        raise TrainingError(f"model.module {name!r}: write package.module:Class or path/to/file.py:Class")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    if not hasattr(module, class_name):
        raise TrainingError(f"model.module: {place} has no {class_name!r}; {did_you_mean(class_name, dir(module))}")
    return getattr(module, class_name)


def new_custom(config: ModelConfig, elements: Sequence[str], seed: int) -> TrainablePotential:
    """A new potential of the class that the configuration names.

    Raises:
        TrainingError: as for `custom_class`; arguments that the class does not take.
    """
    made = custom_class(config)
    try:
        potential: TrainablePotential = made.new(
            elements, seed, device=config.device, threads=config.threads, **config.arguments
        )
    except TypeError as error:
        raise TrainingError(f"model.arguments: {config.module} cannot be made ({error})") from error
    return potential


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TrainingError(f"model.module: no file {path}; name it relative to the configuration")
    name = f"_ideal_custom_{path.stem}"
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(path.resolve()):
        return present
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TrainingError(f"model.module: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise TrainingError(f"model.module: {path} cannot be imported ({type(error).__name__}: {error})") from error
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(
            f"model.module: the module {name!r} cannot be imported ({error}); install the package that holds it, or "
            "correct the path"
        ) from error
