"""A model on disk: one safetensors file in a folder.

The weights are raw arrays; everything else stands as JSON in the file's header, so that a model is one file, replaced
in one step, and nothing in it can run code. Any safetensors reader opens it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ideal.errors import TrainingError

MODEL_FILE = "model.safetensors"
_HEADER_KEY = "ideal"


def write_model(directory: str | Path, weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a model; an interrupted or failed write leaves the previous one untouched.

    Args:
        directory: folder, made when missing.
        weights: arrays by name.
        header: JSON-able description.

    Raises:
        TrainingError: the file cannot be written (no space, no permission).
    """
    directory = Path(directory)
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    content = save(arrays, metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)})
    temporary: Path | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".model-", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(directory / MODEL_FILE)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"{directory}: the model cannot be written ({error.strerror}); make room or choose another folder"
        ) from error


def read_model(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_model` wrote.

    Raises:
        TrainingError: no model there, or the file is damaged.
    """
    path = Path(directory) / MODEL_FILE
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return weights, json.loads(metadata[_HEADER_KEY])
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file; name a folder that a model was saved to") from None
    except KeyError:
        raise TrainingError(
            f"{path}: not a model of IDEAL (no {_HEADER_KEY!r} header); name a folder that a model was saved to"
        ) from None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise TrainingError(f"{path}: the model cannot be read ({error}); restore the file") from error


def fingerprint(weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of weights and header, 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
