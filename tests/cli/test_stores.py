"""Labels out of a run and into a store, and what `status` says of those that failed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase.build import bulk
from typer.testing import Result

from ideal.dataset import read_labels, write_labels
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label, structure_key


def given(count: int = 3) -> list[Label]:
    rng = np.random.default_rng(0)
    labels = []
    for n in range(count):
        atoms = bulk("Cu") * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.1, (2, 3))
        key = structure_key(atoms, {"n": n})
        labels.append(Label(key, atoms, -float(n), rng.normal(size=(2, 3)), rng.normal(size=6), "gpaw 26.7.0"))
    return labels


def test_out_and_in(tmp_path: Path, ideal_run: Callable[..., Result]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with LabelStore(run / "labels.db") as store:
        for label in given():
            store.put(label)
    for name in ("a.h5", "b.extxyz", "c.db"):
        done = ideal_run("export", run, "--output", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert "Wrote 3 labels" in done.stdout
        assert [label.energy for label in read_labels(tmp_path / name)] == [0.0, -1.0, -2.0]
        again = ideal_run("export", run, "--output", tmp_path / name)
        assert again.exit_code == 2 and "exists already" in again.stderr
    done = ideal_run("import", tmp_path / "a.h5", run, "--store", tmp_path / "shared.db")
    assert "3 new labels, 0 known" in done.stdout and "0 new labels, 3 known" in done.stdout
    with LabelStore(tmp_path / "shared.db") as shared:
        for label in given():
            found = shared.get(label.key)
            assert isinstance(found, Label) and found.forces.tobytes() == label.forces.tobytes()
    refused = ideal_run("export", run, "--output", run / "labels.db", "--force")
    assert refused.exit_code == 2 and "never replaced" in refused.stderr
    write_labels(tmp_path / "d.extxyz", given(1))
    assert ideal_run("export", tmp_path / "none", "-o", tmp_path / "x.h5").exit_code == 2
    assert ideal_run("export", tmp_path / "d.extxyz", "-o", tmp_path / "d.h5").exit_code == 0


def test_rescue(tmp_path: Path, ideal_run: Callable[..., Result]) -> None:
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        for label in given(20):
            store.put(label)
        store.checkpoint()
    assert "is sound: 20 labels" in ideal_run("rescue", path).stdout
    data = bytearray(path.read_bytes())
    place = data.index(given(20)[5].forces.tobytes())
    data[place - 2000 : place + 40] = bytes(2040)
    path.write_bytes(bytes(data))
    done = ideal_run("rescue", tmp_path)
    assert done.exit_code == 0 and "was damaged: 20 labels" in done.stdout and "labels.db.damaged-1" in done.stdout
    assert len(list(tmp_path.glob("labels.db.damaged-1"))) == 1


def test_status_tells_why_labels_failed(tmp_path: Path, ideal_run: Callable[..., Result]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").write_text("")
    atoms = bulk("Cu")
    with LabelStore(run / "labels.db") as store:
        for n, (kind, cause) in enumerate([("time", "exceeded the time limit of 2 s"), ("code", "SCF not converged")]):
            store.put(
                FailedLabel(
                    f"{n}" * 64,
                    atoms,
                    cause,
                    "--- gpaw.txt\niter 149\niter 150 not there yet\n",
                    2.0,
                    {"trajectory": "melt", "step": 40},
                    "gpaw 26.7.0",
                    str(run / "calculations" / f"{n}-x"),
                    {"kind": kind, "run": str(run)},
                )
            )
    text = ideal_run("status", run).stdout
    assert "Failed labels: 2 (1 ran out of time, 1 failed in the code)" in text
    assert "11111111  gpaw 26.7.0  melt step 40" in text
    assert "cause   SCF not converged" in text and "log     iter 150 not there yet" in text
    assert str(Path("calculations") / "1-x") in text.replace("\n", "")
