"""A whole run whose reference code goes wrong in every way at once, whose store is damaged, and which shares labels."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ideal.cli.app import app
from ideal.engine.engine import Engine
from ideal.engine.run_directory import LABEL_STORE
from ideal.labelling.executors import worker_process
from ideal.labelling.store import LabelStore
from ideal.records import structure_key

from .conftest import Finished
from .runs import calculated, copper_config, named, outcome

FAULTS = ("killed", "hung", "garbage", "unconverged", "absurd")
CAUSES = {
    "killed": "signal 9",
    "hung": "exceeded the time limit of 250 s",
    "garbage": "could not convert string to float",
    "unconverged": "the SCF did not converge in 60 iterations",
    "absurd": "refused: the largest force",
}


@pytest.mark.slow
def test_every_fault_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the time limit leaps ahead whenever the code hangs: how fast the machine is must not decide."""
    path = tmp_path / "run"

    def monotonic() -> float:
        return time.monotonic() + 1000 * len(list((path / "calculations").glob("hung-*")))

    monkeypatch.setattr(worker_process, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    config = copper_config(
        tmp_path,
        labelling__code={
            "type": "ase",
            "calculator": "engine_calculators:FaultyEMT",
            "arguments": {"faults": list(FAULTS), "share": 0.5},
        },
        labelling__timeout=250,
        dataset__rattled={"count": 26, "rattle": 0.05, "max_atoms": 16},
    )
    summary = Engine.create(config, path).run()
    assert summary.status == "finished"
    with LabelStore(path / LABEL_STORE, read_only=True) as store:
        labels, failures = store.labels(), store.failures()
        assert store.pending() == []
    asked = [event["key"] for event in named(path, "label_submitted")]
    assert len(asked) == len(set(asked)), "a label was asked for twice"
    assert Counter(asked) == Counter([item.key for item in [*labels, *failures]]), "a label was lost"
    text = " ".join(failure.cause for failure in failures)
    met = [fault for fault, cause in CAUSES.items() if cause in text]
    assert set(met) == set(FAULTS), text
    assert all(Path(failure.folder).is_dir() for failure in failures)
    told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["status", str(path)]).output
    assert f"Failed labels: {len(failures)} (" in told
    for kind in ("failed in the code", "ran out of time", "lost with their worker", "refused by the gate"):
        assert kind in told
    for failure in failures[-5:]:
        assert failure.cause in told and Path(failure.folder).name in told
    assert len(calculated(path)) == len(labels) + sum("refused: the largest" in item.cause for item in failures)


@pytest.mark.slow
def test_damaged_store_is_rescued_and_the_run_goes_on(reference: Finished, tmp_path: Path) -> None:
    """A page of the store is overwritten between two sessions; the run ends as if nothing had happened."""
    config = copper_config(tmp_path)
    path = tmp_path / "run"
    trajectory = config.trajectories[0]
    short = trajectory.model_copy(update={"sampler": trajectory.sampler.model_copy(update={"steps": 8})})
    Engine.create(config.model_copy(update={"trajectories": [short]}), path).run()
    before = calculated(path)
    file = path / LABEL_STORE
    with LabelStore(file) as store:
        labels = store.labels()
        store.checkpoint()
    data = bytearray(file.read_bytes())
    place = data.index(labels[2].forces.tobytes()[:100])
    data[place - place % 4096 : place - place % 4096 + 4096] = b"\x5a" * 4096
    file.write_bytes(bytes(data))
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("steps: 8", "steps: 16"))
    summary = Engine.resume(path).run()
    assert summary.status == "finished"
    (event,) = named(path, "store_rescued")
    assert "no label is lost" in event["text"] and (path / f"{LABEL_STORE}.damaged-1").is_file()
    assert "Note: the label store was damaged" in CliRunner().invoke(app, ["status", str(path)]).output
    done = Counter(calculated(path))
    assert all(done[structure] == 1 for structure in before), "a finished label was calculated again"
    with LabelStore(file, read_only=True) as store:
        assert {label.key for label in labels} <= {label.key for label in store.labels()}


@pytest.mark.slow
def test_second_run_takes_every_label_from_the_shared_store(reference: Finished, tmp_path: Path) -> None:
    shared = tmp_path / "shared.db"
    for name in ("one", "two"):
        config = copper_config(tmp_path / name, labelling__store=str(shared))
        Engine.create(config, tmp_path / name / "run").run()
    first, second = tmp_path / "one" / "run", tmp_path / "two" / "run"
    assert outcome(first)["labels"] == outcome(second)["labels"] == outcome(reference.path)["labels"]
    assert outcome(first)["model"] == outcome(second)["model"]
    assert len(calculated(first)) > 5
    assert not (second / "calculations" / "calculated.txt").exists(), "the second run calculated something"
    with LabelStore(shared, read_only=True) as store:
        assert len(store.labels()) == len(outcome(first)["labels"])


@pytest.mark.slow
def test_trajectories_with_codes_of_their_own(tmp_path: Path) -> None:
    """Two trajectories, the second labelled by a code on another energy scale that offsets bring back."""
    from .runs import trajectory

    shifted = {
        "type": "ase",
        "calculator": "engine_calculators:ShiftedEMT",
        "arguments": {"shift": 100.0},
        "energy_offsets": {"Cu": 100.0},
    }
    config = copper_config(
        tmp_path,
        labelling__codes={"other": shifted},
        trajectories=[trajectory("md"), trajectory("hot", code="other")],
    )
    summary = Engine.create(config, tmp_path / "run").run()
    assert summary.status == "finished"
    with LabelStore(tmp_path / "run" / LABEL_STORE, read_only=True) as store:
        labels, codes = store.labels(), store.codes()
    by = {label.info.get("trajectory", ""): set() for label in labels}
    for label in labels:
        by[label.info.get("trajectory", "")].add(label.info["settings"])
        assert abs(label.energy / len(label.atoms)) < 20, "an energy on the other scale"
        assert structure_key(label.atoms, codes[label.info["settings"]][1]) == label.key
    assert all(len(settings) == 1 for settings in by.values()) and by["md"] != by["hot"] and by[""] == by["md"]
