"""Where torch runs, and with how many threads."""

from __future__ import annotations

from typing import Literal

import torch

from ideal.errors import TrainingError

Device = Literal["auto", "cpu", "cuda"]


def set_threads(threads: int) -> None:
    """Number of threads that torch uses on the CPU; one is best for frames of hundreds of atoms."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def torch_device(device: Device) -> torch.device:
    """The torch device of a configuration's name; "auto" prefers a GPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device 'cuda': torch sees no GPU; set `model.device: cpu` or install torch with CUDA")
    return torch.device(device)
