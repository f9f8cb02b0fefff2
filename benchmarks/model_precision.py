"""What a lower precision does to a trained M3GNet: errors of forces and energies, and how rough the energy becomes.

Two kinds are compared with float32: weights rounded to bfloat16, and operands of every matrix product rounded to it
and sums kept in float32, as processors and GPUs with such units do. Roughness is the
difference between a force and the central difference of energies over 0.01 Å, for the displacement of one atom.

    python benchmarks/model_precision.py RUN/model DATA/Li_test.extxyz

DATA as for ``lithium_mlearn.py``; any labelled file of structures that the model knows will do.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ideal.dataset import read_labels
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import FloatArray, Label

_PRODUCTS = {"mm", "matmul", "__matmul__", "bmm", "linear", "addmm", "addmm_"}
_STEP = 0.01


class Bfloat16Products(TorchFunctionMode):
    """Rounds what goes into matrix products."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call ``function`` with its two factors rounded if it is a matrix product."""
        name = getattr(function, "__name__", "")
        if name in _PRODUCTS:
            first = 1 if name.startswith("addmm") else 0
            factors = [x.bfloat16().to(x.dtype) if isinstance(x, torch.Tensor) else x for x in args[first : first + 2]]
            args = (*args[:first], *factors, *args[first + 2 :])
        return function(*args, **(kwargs or {}))


def main() -> None:
    """Print one table of errors and one of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--count", type=int, default=6, help="structures; the largest ones")
    arguments = parser.parse_args()
    labels = sorted(read_labels(arguments.labels), key=lambda label: len(label.atoms))[-arguments.count :]
    exact = M3GNetPotential.load(arguments.model, device="cpu")
    rounded = M3GNetPotential.load(arguments.model, device="cpu")
    with torch.no_grad():
        for _, weight in rounded.named_parameters():
            weight.copy_(weight.bfloat16().float())
    rounded.changed()
    reference = [exact.evaluate(label.atoms) for label in labels]
    own = np.mean([abs(r.forces - label.forces).mean() for r, label in zip(reference, labels, strict=True)])
    print(f"{len(labels)} structures; the model's own force error is {own:.2e} eV/Å")
    print(f"{'':<28} {'F MAE':>9} {'F max':>9} {'E spread':>9} {'rough':>9}   eV/Å, eV/atom, eV/Å")
    kinds: list[tuple[str, M3GNetPotential, contextlib.AbstractContextManager[Any]]] = [
        ("float32", exact, contextlib.nullcontext()),
        ("bfloat16 weights", rounded, contextlib.nullcontext()),
        ("bfloat16 matrix products", exact, Bfloat16Products()),
    ]
    for name, potential, mode in kinds:
        with mode:
            forces, energies, rough = _evaluate(potential, labels)
        difference = abs(forces - np.concatenate([r.forces for r in reference]))
        sizes = np.array([len(label.atoms) for label in labels])
        spread = np.std((energies - [r.energy for r in reference]) / sizes)
        print(f"{name:<28} {difference.mean():>9.1e} {difference.max():>9.1e} {spread:>9.1e} {rough:>9.1e}")
    for width in (32, 128):
        times = [_product_time(width, dtype) for dtype in (torch.float32, torch.bfloat16)]
        print(f"2000 x {width} x {width} product: {times[0]:.0f} us in float32, {times[1]:.0f} us in bfloat16")


def _evaluate(potential: M3GNetPotential, labels: Sequence[Label]) -> tuple[FloatArray, FloatArray, float]:
    results = [potential.evaluate(label.atoms) for label in labels]
    rough = []
    for label, result in zip(labels, results, strict=True):
        energies = []
        for sign in (1, -1):
            moved = label.atoms.copy()
            moved.positions[0, 0] += sign * _STEP
            energies.append(potential.evaluate(moved).energy)
        rough.append(abs(result.forces[0, 0] + (energies[0] - energies[1]) / (2 * _STEP)))
    return np.concatenate([r.forces for r in results]), np.array([r.energy for r in results]), float(np.mean(rough))


def _product_time(width: int, dtype: torch.dtype) -> float:
    """Least of five, microseconds."""
    left, right = torch.randn(2000, width, dtype=dtype), torch.randn(width, width, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(100):
            _ = left @ right
        times.append((time.process_time() - start) * 1e4)
    return min(times)


if __name__ == "__main__":
    main()
