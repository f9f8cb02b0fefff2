"""The main job over several seeds: wall time, labels, held-out errors before and after; writes ``docs/results.md``.

    python benchmarks/first_light.py --seeds 0 1 2 --output runs/first_light

A run that is finished already is read, not repeated; an interrupted one is resumed. Each run is one call of
``ideal-run``, as a user would make it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("ideal-run")
STAGES = ("md", "uncertainty", "embedding", "labelling_wait", "training")


def run(seed: int, folder: Path) -> dict[str, Any]:
    """One run of the lithium example; its summary with the held-out errors and the cells' sizes."""
    if not (folder / "summary.json").exists():
        action = ["resume", str(folder)] if folder.exists() else ["run", str(ROOT / "examples" / "lithium")]
        options = [] if folder.exists() else ["--output", str(folder), "--seed", str(seed)]
        subprocess.run([str(COMMAND), *action, *options], check=True)
    summary = json.loads((folder / "summary.json").read_text())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    summary["cell_sizes"] = [e["n_atoms"] for e in events if e["event"] == "embedded" and e["accepted"]]
    summary["label_seconds"] = [e["seconds"] for e in events if e["event"] == "label_finished" and e["trajectory"]]
    summary["provenance"] = json.loads((folder / "provenance.json").read_text())
    return summary


def machine() -> str:
    """Processor and number of cores."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def table(runs: dict[int, dict[str, Any]], note: str) -> str:
    """The page, from the summaries by seed and a remark on how they were made."""
    versions = next(iter(runs.values()))["provenance"]["versions"]
    lines = [
        "# Results of the main job",
        "",
        "250 lithium atoms heated from 200 to 1000 K (`examples/lithium`). M3GNet is pretrained in the run on 36 cold",
        "crystals; uncertain environments are embedded into small cells and labelled by GPAW (PBE, 200 eV, k-points",
        "from 16 Å). Held-out frames: 15 frames of the same heating in a 54-atom cell, labelled with the same",
        "settings, never trained on. Errors are mean absolute errors (energy per atom, force components).",
        "",
        "    python benchmarks/first_light.py --seeds " + " ".join(map(str, runs)),
        "",
        f"Machine: {machine()}. Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + ".",
        "",
        "| seed | wall time, min | labels done / failed | refused cells | atoms per cell (median) "
        "| s per label (median) | energy MAE before -> after, meV/atom | force MAE before -> after, meV/Å | factor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    factors = []
    for seed, s in runs.items():
        before, after = s["held_out_before"], s["held_out_after"]
        factors.append(before["force_mae"] / after["force_mae"])
        lines.append(
            f"| {seed} | {s['wall_seconds'] / 60:.1f} | {s['labels']['done']} / {s['labels']['failed']} "
            f"| {s['labels']['refused']} | {statistics.median(s['cell_sizes']):.0f} "
            f"| {statistics.median(s['label_seconds']):.0f} "
            f"| {before['energy_mae'] * 1e3:.1f} -> {after['energy_mae'] * 1e3:.1f} "
            f"| {before['force_mae'] * 1e3:.1f} -> {after['force_mae'] * 1e3:.1f} | {factors[-1]:.2f} |"
        )
    spread = f" ± {statistics.stdev(factors):.2f}" if len(factors) > 1 else ""
    lines += [
        "",
        f"Factor by which learning on the fly lowers the held-out force error: {statistics.mean(factors):.2f}{spread} "
        f"({len(factors)} seeds; mean and standard deviation).",
        *(["", note] if note else []),
        "",
        "Wall time by stage, s:",
        "",
        "| seed | dynamics | uncertainty | embedding | waiting for labels | training | everything else |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for seed, s in runs.items():
        seconds = [s["stage_seconds"].get(stage, 0.0) for stage in STAGES]
        rest = s["wall_seconds"] - sum(seconds)
        lines.append(f"| {seed} | " + " | ".join(f"{value:.1f}" for value in [*seconds, rest]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/first_light"))
    parser.add_argument("--note", default="", help="a remark for the page, such as what else the machine was doing")
    arguments = parser.parse_args()
    runs = {seed: run(seed, arguments.output / f"seed{seed}") for seed in arguments.seeds}
    (ROOT / "docs" / "results.md").write_text(table(runs, arguments.note), encoding="utf-8")


if __name__ == "__main__":
    main()
