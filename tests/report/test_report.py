"""The report as its reader meets it: one page, its numbers, its figures; unfinished and hostile input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ideal.config import ModelConfig
from ideal.engine.events import TrajectoryRestarted
from ideal.engine.run_directory import RunDirectory
from ideal.errors import ConfigError
from ideal.report import write_report
from ideal.report.data import read_run
from ideal.report.derived import GROUPS, Derived, derive
from ideal.report.figures import FIGURES
from ideal.report.html import page
from ideal.report.style import LIGHT, to_png
from ideal.report.summary import _model, restart_grid, trajectory_grid

from .conftest import DONE, FAILED, STEPS, THRESHOLD, TIMESTEP, build

NO_ANALYSIS = Derived({}, None, ())
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A strict reading of a page: balanced tags, rows of its tables, attributes of its images."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[int] = []
        self.title = ""
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] == ["title"]:
            self.title += data
        if {"th", "td"} & set(self.stack):
            self.rows[-1][-1] += data
        if "style" not in self.stack:
            self.text.append(data)

    @property
    def table(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.rows if len(row) == 2}


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def without_figures(path: Path) -> Page:
    """The page alone: drawing takes seconds, and most tests look at words."""
    return Page(page(read_run(path), NO_ANALYSIS, []))


@pytest.fixture(scope="module")
def written(finished_run: Path) -> Page:
    assert write_report(finished_run) == finished_run / "report.html"
    return read(finished_run / "report.html")


class TestFinishedRun:
    def test_every_figure_is_written_and_embedded(self, finished_run: Path, written: Page) -> None:
        names = sorted(path.name for path in (finished_run / "figures").iterdir())
        assert names == sorted(f"{spec.name}.png" for spec in FIGURES if not spec.several)
        for path in (finished_run / "figures").iterdir():
            with Image.open(path) as image:
                image.load()
                assert image.width >= 1000
                assert len(np.unique(np.asarray(image.convert("L")))) > 20
        images = [attributes for tag, attributes in written.tags if tag == "img"]
        assert len(images) == sum(not spec.several for spec in FIGURES)
        assert all(len(attributes["alt"]) > 30 for attributes in images)
        assert all("nan" not in attributes["alt"].split() for attributes in images)

    def test_the_page_is_self_contained_and_accessible(self, written: Page) -> None:
        assert written.title == "Heating of lithium – IDEAL report"
        assert ("html", {"lang": "en"}) in written.tags
        for tag, attributes in written.tags:
            for name in ("src", "srcset", "href"):
                assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#")), (tag, name)
            assert tag not in ("script", "link", "iframe", "object")
        identifiers = [attributes["id"] for _, attributes in written.tags if "id" in attributes]
        assert len(set(identifiers)) == len(identifiers)
        assert written.headings[0] == 1
        assert written.headings.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(written.headings, written.headings[1:], strict=False))

    def test_the_numbers_are_those_of_the_files(self, finished_run: Path, written: Page) -> None:
        before, after = (
            json.loads((finished_run / f"held_out_{when}.json").read_text())["mae"] for when in ("before", "after")
        )
        table = written.table
        for name, unit, scale in (("energy", "meV/atom", 1000), ("force", "eV/Å", 1), ("stress", "GPa", 1)):
            old, new = scale * before[f"{name}_mae"], scale * after[f"{name}_mae"]
            change = f"{old / new:.2f} times lower" if old >= new else f"{new / old:.2f} times higher"
            assert table[f"Held-out {name} MAE, before → after"] == f"{old:.4g} → {new:.4g} {unit} ({change})"
        assert table["Labels asked by the dynamics"] == f"{DONE + FAILED}"
        assert table["Labels done"] == f"{DONE}"
        assert table["Labels failed"] == f"{FAILED}"
        assert table["Initial labels"] == "12"
        assert table["Embedded cells"] == f"{DONE + FAILED} accepted, 2 refused"
        assert table["Updates of the model"] == f"{DONE}, 1 rolled back"
        assert table["Wall time"] == "9 min 0 s"
        assert table["Worker time for all labels"] == "5 min 8 s"
        assert table["Steps"] == f"{STEPS:,} of {STEPS:,}"
        assert table["Simulated time"] == f"{STEPS * TIMESTEP / 1000:.3g} ps"
        assert table["Atoms"] == "128 (Li128)"
        assert table["Threshold of u"] == f"{THRESHOLD:.4g}"
        assert table["Target temperature"] == "200 → 1000 K"
        assert table["Functional, plane-wave cutoff"] == "PBE, 200 eV"
        assert table["Seed"] == "7"
        assert table["torch"] == "2.13.0"
        assert table["git revision"] == "0123456789abcdef"
        assert table["command"] == "ideal-run run config.yaml"
        assert any("SCF not converged after 150 iterations" in row for row in written.rows)

    def test_the_trajectory_disorders(self, derived: Derived) -> None:
        structure = derived.structures["md"]
        assert structure.order[0] > 0.45
        assert structure.order[-1] < 0.3
        assert structure.msd[0] == 0
        assert structure.msd[-1] > 0.3
        assert structure.rdf_before is not None
        assert structure.rdf_after is not None
        assert structure.rdf_before.values.max() > 2 * structure.rdf_after.values.max()
        assert derived.soap_map is not None
        assert all(len(derived.soap_map.points[name]) > 100 for name in GROUPS)
        assert derived.notes == ()

    def test_a_figure_is_the_same_each_time(self, finished_run: Path, derived: Derived) -> None:
        run = read_run(finished_run)
        spec = next(spec for spec in FIGURES if spec.name == "soap_map")
        images = {to_png(spec.draw(run, derived, LIGHT).figure, 50) for _ in range(2)}
        assert len(images) == 1

    def test_a_second_report_replaces_the_first_and_leaves_no_temporary_file(self, copied_run: Path) -> None:
        (copied_run / "held_out_before.json").unlink()
        for name in ("held_out_after.json", "events.jsonl", "crops.extxyz", "trajectories/md.extxyz"):
            (copied_run / name).unlink()
        (copied_run / "figures").mkdir(exist_ok=True)
        (copied_run / "figures" / "parity_forces.png").write_bytes(b"old")
        (copied_run / "figures" / "mine.png").write_bytes(b"the user's own")
        write_report(copied_run)
        left = {path.name for path in (copied_run / "figures").iterdir()}
        assert "parity_forces.png" not in left
        assert "mine.png" in left
        assert not [path for path in copied_run.rglob("*") if path.name.endswith(".tmp")]


class TestManyTrajectories:
    def test_every_figure_is_drawn(self, many_trajectories: Path) -> None:
        run = read_run(many_trajectories)
        derived = derive(run)
        for spec in FIGURES:
            drawing = spec.draw(run, derived, LIGHT)
            if spec.section in ("Dynamics", "Structure"):
                assert all(name in drawing.alt for name in ("cold", "hot", "surface"))
        table = [row[0] for row in without_figures(many_trajectories).rows]
        assert table.count("Simulated time") == 3


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten trajectories of two systems, one of which went back; a rule ended the run."""
    names = tuple(f"{system}-{number}" for system in ("bulk", "slab") for number in range(1, 6))
    path = build(tmp_path_factory.mktemp("crowd") / "crowd", trajectories=names, every=300)
    config = yaml.safe_load((path / "config.yaml").read_text())
    for one in config["trajectories"]:
        one["structure"] = f"/nowhere/{one['name'].split('-')[0]}.xyz"
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = (path / "events.jsonl").read_text().splitlines(keepends=True)
    back = TrajectoryRestarted("slab-2", 90, 60, 1, 3, "the temperature is 9e5 K", time=0.0)
    finished = json.loads(lines[-1])
    finished["summary"] = {**finished.get("summary", {}), "ended_by": "stop.labels: 9 labels of 9 have arrived"}
    (path / "events.jsonl").write_text("".join([*lines[:-1], back.to_json() + "\n", json.dumps(finished) + "\n"]))
    return path


class TestManySystems:
    def test_grid_holds_every_trajectory(self, crowd: Path) -> None:
        run = read_run(crowd)
        grid = trajectory_grid(run)
        assert grid is not None and len(grid.rows) == 10
        rows = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
        assert rows["slab-2"]["restarts"] == "1" and "9e5 K" in rows["slab-2"]["reason"]
        assert rows["bulk-1"]["restarts"] == "0" and int(rows["bulk-1"]["labels"]) > 0
        restarts = restart_grid(run)
        assert restarts is not None and restarts.rows == (("slab-2", "90", "60", "1 of 3", "the temperature is 9e5 K"),)
        page = without_figures(crowd)
        assert restarts.rows[0] in {tuple(row) for row in page.rows}
        assert "stop.labels: 9 labels of 9 have arrived" in {row[1] for row in page.rows if len(row) > 1}

    def test_figures_name_the_systems(self, crowd: Path) -> None:
        run = read_run(crowd)
        derived = derive(run)
        for name in ("temperature", "uncertainty", "labels", "msd"):
            spec = next(spec for spec in FIGURES if spec.name == name)
            legend = spec.draw(run, derived, LIGHT).figure.axes[0].get_legend()
            assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["bulk", "slab"]
        bars = next(spec for spec in FIGURES if spec.name == "labels_by_trajectory").draw(run, derived, LIGHT)
        assert [label.get_text() for label in bars.figure.axes[0].get_yticklabels()] == sorted(run.log.traces)


class TestHostileText:
    def test_everything_from_the_user_is_escaped(self, tmp_path: Path) -> None:
        attack = "</title><script>alert('x')</script>\"&amp;<img src=x onerror=alert(1)>"
        path = build(tmp_path / "run <b>bold<b> &c", title=attack, every=200)
        with (path / "events.jsonl").open("a") as file:
            for key in ("evil", "worse"):
                event = {"time": 1.8e9, "event": "label_failed", "key": key, "trajectory": "<i>md", "cause": attack}
                file.write(json.dumps(event) + "\n")
        (path / "provenance.json").write_text(json.dumps({"git_revision": attack, attack: {attack: attack}}))
        result = without_figures(path)
        assert attack in result.title
        assert any(attack in row for row in result.rows)
        for tag, attributes in result.tags:
            assert tag not in ("script", "b", "i", "img")
            assert "onerror" not in attributes


class TestUnfinishedRun:
    def test_a_run_that_has_just_begun_gives_a_report(self, finished_run: Path, tmp_path: Path) -> None:
        path = tmp_path / "begun"
        path.mkdir()
        (path / "config.yaml").write_text((finished_run / "config.yaml").read_text())
        result = read(write_report(path))
        text = " ".join(result.text)
        assert "not finished" in text
        assert "no frame has been checked yet" in text
        assert "events.jsonl cannot be read" in text
        assert not [tag for tag, _ in result.tags if tag == "img"]
        assert not list((path / "figures").iterdir())

    def test_a_run_cut_off_within_a_line_gives_a_report(self, copied_run: Path, derived: Derived) -> None:
        for name in ("events.jsonl", "training.jsonl", "trajectories/md.extxyz", "substructures.extxyz"):
            file = copied_run / name
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6) + 7])
        for name in ("summary.json", "held_out_after.json"):
            (copied_run / name).unlink()
        run = read_run(copied_run)
        assert run.state == "interrupted"
        assert 0.5 < run.log.traces["md"].steps[-1] / STEPS < 0.7
        assert run.wall_seconds == pytest.approx(run.log.ended - run.log.started)
        text = " ".join(without_figures(copied_run).text)
        assert "1 line(s) of events.jsonl are not complete" in text
        assert "The last frame of trajectories/md.extxyz is not complete" in text
        assert "held_out_after.json is missing" in text
        assert "Held-out force MAE before learning" in text
        for spec in FIGURES:
            spec.draw(run, derived, LIGHT)

    def test_damaged_files_are_named(self, copied_run: Path) -> None:
        (copied_run / "config.yaml").write_text("trajectories: [unclosed")
        (copied_run / "provenance.json").write_text("{")
        (copied_run / "held_out_before.json").write_text('{"reference": {}}')
        (copied_run / "held_out_after.json").write_text("[1, 2]")
        (copied_run / "trajectories" / "md.extxyz").write_bytes(b"\x00\xff not a frame\n" * 5)
        (copied_run / "crops.extxyz").unlink()
        text = " ".join(without_figures(copied_run).text)
        for part in (
            "config.yaml is not a valid configuration",
            "provenance.json cannot be read",
            "held_out_before.json does not hold what is expected",
            "held_out_after.json holds no mapping",
            "The last frame of trajectories/md.extxyz is not complete",
            "crops.extxyz is missing",
        ):
            assert part in text

    def test_a_run_that_goes_on_is_called_running(self, copied_run: Path) -> None:
        lines = (copied_run / "events.jsonl").read_text().splitlines()[:-1]
        (copied_run / "events.jsonl").write_text("\n".join(lines) + "\n")
        with RunDirectory.open(copied_run):
            assert read_run(copied_run).state == "running"
        assert read_run(copied_run).state == "interrupted"

    def test_what_is_no_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such directory"):
            write_report(tmp_path / "missing")
        with pytest.raises(ConfigError, match="holds no run"):
            write_report(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_the_report_needs_no_torch() -> None:
    code = (
        "import sys; import ideal.report, ideal.report.html, ideal.report.figures, ideal.report.derived, ideal.soap; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'matgl', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=280).returncode == 0


def test_the_model_is_called_by_its_name() -> None:
    assert _model(ModelConfig()).startswith("M3GNet, 2 blocks of 32 units, max_n 3")
    assert _model(ModelConfig(type="tensornet", path="old")) == "TensorNet from old"
    assert _model(ModelConfig(type="tensornet")).startswith("TensorNet, 2 blocks of 32 units, 32 radial functions")
    custom = ModelConfig(type="custom", module="mine.py:Model", arguments={"width": 8})
    assert _model(custom) == "mine.py:Model, width 8"
