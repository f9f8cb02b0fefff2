"""A folder that holds the models an uncertainty is made of, and its state, replaced in one step.

    state.safetensors       arrays; its header names format, version and the models' folders and fingerprints
    model-<fingerprint>/    one per model, written before the state

The state file is written last and decides: a write that was interrupted leaves the old state with the old models.
Model folders that the state no longer names are removed afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from ideal.errors import IdealError, UncertaintyError

STATE_FILE = "state.safetensors"
_VERSION = 1


class StoredModel(Protocol):
    """What is needed of a model here."""

    def save(self, directory: str | Path) -> None:
        """Write it into a folder."""
        ...

    def fingerprint(self) -> str:
        """Hash of all that decides its results."""
        ...


Model = TypeVar("Model", bound=StoredModel)


def write_folder(
    folder: str | Path,
    kind: str,
    models: Sequence[StoredModel],
    arrays: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
) -> None:
    """Write models and state.

    Args:
        folder: made when missing.
        kind: what wrote it; `read_folder` wants the same.
        models: models in order.
        arrays: arrays by name.
        header: JSON-able description.

    Raises:
        UncertaintyError: the folder cannot be written.
    """
    folder = Path(folder)
    fingerprints = [model.fingerprint() for model in models]
    names = [f"model-{fingerprint[:16]}" for fingerprint in fingerprints]
    metadata = {
        "kind": kind,
        "version": _VERSION,
        "models": names,
        "fingerprints": fingerprints,
        "header": dict(header),
    }
    content = to_safetensors(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"ideal": json.dumps(metadata)}
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in zip(names, models, strict=True):
            model.save(folder / name)
        write_file(folder / STATE_FILE, content)
        for old in folder.glob("model-*"):
            if old.name not in names:
                shutil.rmtree(old)
    except OSError as error:
        raise UncertaintyError(
            f"{folder}: the uncertainty cannot be written ({error.strerror or error}); make room or choose another one"
        ) from error


def read_folder(
    folder: str | Path, kind: str, load_model: Callable[[Path], Model]
) -> tuple[list[Model], dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_folder` wrote: models, arrays, header.

    Raises:
        UncertaintyError: missing, damaged, of another kind, or a model is not the one that was saved.
    """
    metadata, arrays = _read_state(folder)
    found, version = metadata["kind"], metadata["version"]
    if (found, version) != (kind, _VERSION):
        raise UncertaintyError(
            f"{folder} holds {found!r} of version {version}; {kind!r} of version {_VERSION} is wanted"
        )
    models = []
    for name, fingerprint in zip(metadata["models"], metadata["fingerprints"], strict=True):
        try:
            model = load_model(Path(folder) / name)
        except IdealError as error:
            raise UncertaintyError(f"{folder}: the model {name} cannot be loaded ({error})") from error
        if model.fingerprint() != fingerprint:
            raise UncertaintyError(f"{folder}: {name} is not the model that was saved there; restore the folder")
        models.append(model)
    return models, arrays, metadata["header"]


def folder_kind(folder: str | Path) -> str:
    """What wrote the folder.

    Raises:
        UncertaintyError: its state is missing or damaged.
    """
    return str(_read_state(folder)[0]["kind"])


def _read_state(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = Path(folder) / STATE_FILE
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})["ideal"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {key: metadata[key] for key in ("kind", "version", "models", "fingerprints", "header")}, arrays
    except FileNotFoundError:
        raise UncertaintyError(f"{path} does not exist; name a folder that an uncertainty was saved to") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UncertaintyError(f"{path} cannot be read as an uncertainty's state ({error}); restore it") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
