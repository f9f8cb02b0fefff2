"""The configuration: what it accepts, and one clear line for every kind of mistake."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ideal.config import (
    CODES,
    Config,
    EngineConfig,
    LabellingConfig,
    MolecularDynamicsConfig,
    OnlineConfig,
    dump_config,
    json_schema,
    load_config,
    parse_config,
    parse_section,
)
from ideal.errors import ConfigError, IdealError, MissingPackageError, did_you_mean
from ideal.quantities import OWN_UNITS, parse_quantity

MINIMAL: dict[str, Any] = {
    "trajectories": [{"name": "a", "structure": "li.extxyz"}],
    "labelling": {"code": {"type": "gpaw"}},
    "dataset": {"rattled": {"count": 3}},
}
SAMPLER = ("trajectories", 0, "sampler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "li.extxyz").write_text("1\n\nLi 0 0 0\n")
    return tmp_path


def edited(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The minimal configuration with one value set; `...` removes the key."""
    data = copy.deepcopy(MINIMAL)
    node: Any = data
    for key in path[:-1]:
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


def parse(folder: Path, path: tuple[Any, ...], value: Any) -> Config:
    return parse_config(edited(path, value), folder, "c.yaml")


def mistake(folder: Path, path: tuple[Any, ...], value: Any) -> str:
    """The only line of the error."""
    with pytest.raises(ConfigError) as caught:
        parse(folder, path, value)
    message = str(caught.value)
    assert "\n" not in message, message
    assert message.startswith("c.yaml: ")
    return message.removeprefix("c.yaml: ")


# --- what is accepted -------------------------------------------------------------------------------------------------


def test_copies_and_temperatures_stand_for_many_trajectories(folder: Path) -> None:
    templates = [
        {"name": "a", "structure": "li.extxyz", "temperatures": [300, "450.5 K"], "copies": 2},
        {"name": "b", "structure": "li.extxyz", "copies": 10},
        {"name": "c", "structure": "li.extxyz"},
    ]
    config = parse(folder, ("trajectories",), templates)
    names = [trajectory.name for trajectory in config.trajectories]
    assert names[:4] == ["a-300K-1", "a-300K-2", "a-450.5K-1", "a-450.5K-2"]
    assert names[4:] == [*(f"b-{number:02d}" for number in range(1, 11)), "c"]
    assert [t.sampler.thermostat()[1] for t in config.trajectories[1:3]] == [[300.0], [450.5]]
    assert parse_config(yaml.safe_load(dump_config(config)), folder) == config


def test_temperatures_are_given_once_each(folder: Path) -> None:
    one = {"structure": "li.extxyz", "temperatures": [300, 450, 300.0]}
    assert "some are equal" in mistake(folder, ("trajectories",), [one])


def test_temperatures_need_a_sampler_that_has_one(folder: Path) -> None:
    one = {"structure": "li.extxyz", "temperatures": [300], "sampler": {"type": "relaxation"}}
    assert "a sampler of type relaxation has no one temperature" in mistake(folder, ("trajectories",), [one])


def test_stop_rule_on_the_validation_error_needs_validation_labels(folder: Path) -> None:
    data = edited(("stop",), {"force_mae": 0.1})
    data["dataset"] = {**data.get("dataset", {}), "validation_fraction": 0.0}
    with pytest.raises(ConfigError, match="validation_fraction 0 keeps no validation labels"):
        parse_config(data, folder)


def test_minimal_configuration(folder: Path) -> None:
    config = parse_config(MINIMAL, folder)
    assert config.trajectories[0].structure == folder / "li.extxyz"
    assert config.trajectories[0].sampler == MolecularDynamicsConfig()
    assert config.labelling.code.type == "gpaw"


@pytest.mark.parametrize("kind", ["molecular_dynamics", "biased_dynamics", "monte_carlo"])
def test_samplers_go_by_their_type(folder: Path, kind: str) -> None:
    config = parse(folder, (*SAMPLER, "type"), kind)
    assert config.trajectories[0].sampler.type == kind
    assert parse_config(yaml.safe_load(dump_config(config)), folder) == config


def test_expanded_configuration_is_read_back_equal(folder: Path) -> None:
    data = edited(
        SAMPLER,
        {
            "ensemble": "npt_berendsen",
            "timestep": "0.002 ps",
            "temperature": [{"time": 0, "value": "200 K"}, {"time": "1 ps", "value": 900}],
            "pressure": "1 GPa",
        },
    )
    config = parse_config(data, folder)
    (folder / "expanded.yaml").write_text(dump_config(config))
    again = load_config(folder / "expanded.yaml")
    assert again == config
    assert dump_config(again) == dump_config(config)
    sampler = again.trajectories[0].sampler
    assert sampler.timestep == 2.0
    assert sampler.schedule("temperature") == ([0.0, 1000.0], [200.0, 900.0])
    assert sampler.schedule("pressure")[0] == [0.0]
    assert sampler.schedule("pressure")[1][0] == pytest.approx(0.00624150907)


def test_numbers_as_yaml_1_1_misreads_them(folder: Path) -> None:
    """YAML reads 1e-3 (without a point) as text."""
    assert yaml.safe_load("1e-3") == "1e-3"
    config = parse(folder, ("training", "pretrain", "learning_rate"), "1e-3")
    assert config.training.pretrain.learning_rate == 1e-3


@pytest.mark.parametrize("code", ["gpaw", "pyscf", "tblite"])
def test_every_code_has_defaults(folder: Path, code: str) -> None:
    assert parse(folder, ("labelling", "code"), {"type": code}).labelling.code.type == code


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    (folder / "pseudo").mkdir()
    code = {"type": "espresso", "pseudo_dir": "pseudo", "pseudopotentials": {"Li": "li.upf"}}
    data = edited(("labelling", "code"), code)
    data["output"] = "runs/x"
    data["dataset"]["held_out"] = "li.extxyz"
    (folder / "c.yaml").write_text(yaml.safe_dump(data))
    config = load_config(folder / "c.yaml")
    assert config.output == folder / "runs" / "x"
    assert config.dataset.held_out == folder / "li.extxyz"
    assert config.labelling.code.pseudo_dir == folder / "pseudo"  # type: ignore[union-attr]


def test_the_configuration_is_frozen(folder: Path) -> None:
    config = parse_config(MINIMAL, folder)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_json_schema_is_json_and_holds_help() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["properties"]["seed"]["description"]
    text = json.dumps(schema)
    for word in ("timestep", "kpoint_length", "pseudo_dir", "young_factor"):
        assert word in text


def test_reading_a_configuration_imports_neither_torch_nor_ase(folder: Path) -> None:
    (folder / "c.yaml").write_text(yaml.safe_dump(MINIMAL))
    program = (
        "import sys; from ideal.config import load_config; load_config('c.yaml');"
        "print([name for name in ('torch', 'matgl', 'ase', 'pint') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- unknown and missing keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        (("seeed",), "seed"),
        (("trajectories", 0, "structur"), "structure"),
        ((*SAMPLER, "timestp"), "timestep"),
        (("uncertainty", "soap", "rcut"), "r_cut"),
        (("uncertainty", "threshold", "quantil"), "quantile"),
        (("selection", "max_per_frames"), "max_per_frame"),
        (("embedding", "rcore"), "r_core"),
        (("labelling", "worker"), "workers"),
        (("labelling", "code", "cutof"), "cutoff"),
        (("labelling", "gate", "max_netforce"), "max_net_force"),
        (("dataset", "rattled", "cuont"), "count"),
        (("model", "n_block"), "n_blocks"),
        (("training", "loss", "enrgy"), "energy"),
        (("training", "pretrain", "epoch"), "epochs"),
        (("training", "online", "reply"), "replay"),
        (("engine", "maxlabels"), "max_labels"),
    ],
)
def test_unknown_keys_at_every_depth(folder: Path, path: tuple[Any, ...], suggestion: str) -> None:
    key = ".".join(map(str, path))
    assert mistake(folder, path, 1) == f"unknown key {key!r} (value 1); did you mean {suggestion!r}?"


def test_unknown_key_without_a_near_one_lists_the_valid_ones(folder: Path) -> None:
    message = mistake(folder, ("engine", "xyz"), 1)
    assert message == f"unknown key 'engine.xyz' (value 1); valid: {', '.join(sorted(EngineConfig.model_fields))}"


def test_a_key_named_like_a_code_is_still_named(folder: Path) -> None:
    message = mistake(folder, ("labelling", "gpaw"), {"xc": "PBE"})
    assert message.startswith("unknown key 'labelling.gpaw' (value {'xc': 'PBE'}); valid: code,")
    assert "'labelling.code.ase'" in mistake(folder, ("labelling", "code", "ase"), 1)


def test_unknown_key_of_a_schedule_point(folder: Path) -> None:
    points = [{"time": 0, "value": 1}, {"time": 1, "value": 2, "unit": "K"}]
    message = mistake(folder, (*SAMPLER, "temperature"), points)
    assert message == "unknown key 'trajectories.0.sampler.temperature.1.unit' (value 'K'); valid: time, value"


@pytest.mark.parametrize(
    "path",
    [("trajectories",), ("trajectories", 0, "structure"), ("labelling",), ("labelling", "code")],
    ids=lambda path: ".".join(map(str, path)),
)
def test_missing_keys(folder: Path, path: tuple[Any, ...]) -> None:
    key = ".".join(map(str, path))
    assert mistake(folder, path, ...) == f"missing key {key!r}; add it (`ideal-run init` writes a commented example)"


def test_missing_and_unknown_code_type(folder: Path) -> None:
    valid = ", ".join(CODES)
    assert mistake(folder, ("labelling", "code"), {"xc": "PBE"}) == f"missing key 'labelling.code.type'; valid: {valid}"
    message = mistake(folder, ("labelling", "code"), {"type": "gpwa"})
    assert message == "labelling.code.type: unknown value 'gpwa'; did you mean 'gpaw'?"
    message = mistake(folder, ("labelling", "code"), "gpaw")
    assert (
        message == f"labelling.code: expected keys and values, got 'gpaw'; write `type: ...` below it, one of {valid}"
    )


def test_missing_key_of_a_code(folder: Path) -> None:
    code = {"type": "espresso", "pseudo_dir": "."}
    assert mistake(folder, ("labelling", "code"), code).startswith("missing key 'labelling.code.pseudopotentials'; add")


# --- wrong values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*SAMPLER, "timestep"), "2 angstrom", "'2 angstrom' is not a time: write a number in fs, or text with one of"),
        ((*SAMPLER, "timestep"), "fast", "'fast' holds no number: write a number in fs"),
        ((*SAMPLER, "timestep"), "fs", "'fs' holds no number"),
        ((*SAMPLER, "timestep"), "", "'' holds no number"),
        ((*SAMPLER, "timestep"), "2 parsnips", "'2 parsnips' is not a time"),
        ((*SAMPLER, "timestep"), [1], "[1] is not a time"),
        ((*SAMPLER, "timestep"), None, "None is not a time"),
        ((*SAMPLER, "timestep"), math.nan, "nan is not finite"),
        ((*SAMPLER, "timestep"), "1e400 fs", "'1e400 fs' is not finite"),
        ((*SAMPLER, "timestep"), -1, "-1.0 is out of range; write a value above 0"),
        ((*SAMPLER, "timestep"), "1 ps", "1000.0 is out of range; write a value of at most 20"),
        ((*SAMPLER, "temperature"), "300 C", "'300 C' is not a temperature: write a number in K"),
        ((*SAMPLER, "temperature"), "warm", "'warm' holds no number"),
        ((*SAMPLER, "pressure"), "1 K", "'1 K' is not a pressure"),
        ((*SAMPLER, "friction"), "1 ps", "'1 ps' is not an inverse time: write a number in 1/fs"),
        (("labelling", "code", "cutoff"), "300 fs", "'300 fs' is not an energy"),
        (
            ("labelling", "timeout"),
            "30 m",
            "'30 m' is not a duration: write a number in s, or text with one of s, min, h",
        ),
        (("embedding", "r_core"), "4 eV", "'4 eV' is not a length"),
        (("trajectories", 0, "max_force"), "9 eV", "'9 eV' is not a force"),
        (("uncertainty", "threshold", "force_error"), "0.1 eV", "'0.1 eV' is not a force"),
    ],
)
def test_wrong_quantities(folder: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    assert mistake(folder, path, value).startswith(f"{'.'.join(map(str, path))}: {message}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*SAMPLER, "steps"), "many", "expected a whole number, got 'many'; meaning: Number of time steps."),
        ((*SAMPLER, "steps"), 1.5, "expected a whole number, got 1.5"),
        ((*SAMPLER, "steps"), 0, "0 is out of range; write a value of at least 1"),
        (
            (*SAMPLER, "ensemble"),
            "nvt",
            "unknown value 'nvt'; valid: nve, nvt_langevin, nvt_bussi, npt_berendsen, npt_mtk",
        ),
        ((*SAMPLER, "type"), "warp_drive", "unknown value 'warp_drive'; valid: biased_dynamics, "),
        ((*SAMPLER, "fix_atoms"), "0-5", "expected a list, got '0-5'; write `[a, b, ...]`"),
        (SAMPLER, "nvt", "expected keys and values, got 'nvt'; write `key: value` lines below it"),
        (SAMPLER, None, "expected keys and values, got nothing; write a value or remove the key"),
        (("trajectories",), [], "[] has 0 items; write at least 1"),
        (
            ("trajectories",),
            {"name": "a"},
            "expected a list, got {'name': 'a'}; write `[a, b, ...]` or lines that start",
        ),
        (("trajectories", 0, "name"), "a b", "'a b' is not accepted; meaning: Name; letters, digits"),
        (("trajectories", 0, "name"), 5, "expected text, got 5; put it into quotes"),
        (("trajectories", 0, "repeat"), 2, "expected a list, got 2"),
        (("trajectories", 0, "repeat"), [1, 1], "item 2 is missing; meaning: Repeat the structure this many times"),
        (("trajectories", 0, "repeat"), [1, 1, 1, 1], "[1, 1, 1, 1] has 4 items; write at most 3"),
        (("trajectories", 0, "structure"), 5, "expected a path, got 5"),
        (("labelling",), None, "expected keys and values, got nothing"),
        (
            ("labelling", "code"),
            {"type": "ase", "calculator": "EMT"},
            "calculator: 'EMT' is not accepted; meaning: Import",
        ),
        (("labelling", "code", "setups"), ["Li"], "expected keys and values, got ['Li']"),
        (("dataset", "validation_fraction"), 1, "1 is out of range; write a value below 1"),
        (
            ("training", "pretrain", "learning_rate"),
            "high",
            "expected a number, got 'high'; meaning: Peak learning rate",
        ),
        (("engine", "mode"), "parallel", "unknown value 'parallel'; valid: serial, "),
        (("uncertainty", "soap", "taper"), "perhaps", "expected true or false, got 'perhaps'; write true or false"),
        (("uncertainty", "threshold", "type"), "calibrate", "unknown value 'calibrate'; valid: calibrated, quantile"),
        (("uncertainty", "threshold", "force_error"), 0, "0.0 is out of range; write a value above 0"),
        (("uncertainty", "threshold", "confidence"), 1, "1 is out of range; write a value below 1"),
        (("selection", "audit"), 1, "1 is out of range; write a value below 1"),
        (("seed",), -1, "-1 is out of range; write a value of at least 0"),
        (("title",), None, "expected text, got nothing; write a value or remove the key"),
    ],
)
def test_wrong_types_and_values(folder: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    text = mistake(folder, path, value)
    key = ".".join(map(str, path))
    assert text.startswith((f"{key}: {message}", f"{key}.{message}"))


def test_long_values_are_shortened(folder: Path) -> None:
    assert len(mistake(folder, ("seed",), "x" * 500)) < 200


@pytest.mark.parametrize(
    ("path", "key"),
    [((*SAMPLER, "steps"), "steps"), (("embedding", "young_factor"), "young_factor"), (("seed",), "seed")],
)
def test_truth_values_are_no_numbers(folder: Path, path: tuple[Any, ...], key: str) -> None:
    """`steps: yes` is true in YAML, and 1 in Python."""
    assert f"the value of '{key}' is true, a truth value; write a number" in mistake(folder, path, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -5}, "temperature -5 K is negative"),
        ({"temperature": []}, "temperature: an empty schedule; write a number or at least one {time, value} point"),
        (
            {"temperature": [{"time": 5, "value": 3}, {"time": 5, "value": 4}]},
            "temperature: the times [5.0, 5.0] fs do not",
        ),
        ({"temperature": [{"time": 0, "value": "3 GPa"}]}, "temperature.0.value: '3 GPa' is not a temperature"),
        ({"temperature": [{"time": 0, "value": -3}]}, "temperature -3 K is negative"),
        (
            {"pressure": [{"time": 0, "value": 1}], "ensemble": "npt_mtk"},
            "npt_mtk cannot follow a pressure schedule; write",
        ),
        (
            {"temperature": [{"time": 0, "value": 1}], "ensemble": "npt_mtk"},
            "npt_mtk cannot follow a temperature schedule; write one number, or choose an ensemble of nvt_langevin, "
            "nvt_bussi, npt_berendsen",
        ),
        ({"temperature": [{"time": 0, "value": 1}], "ensemble": "nve"}, "nve cannot follow a temperature schedule"),
        (
            {"pressure": "1 GPa", "ensemble": "nvt_bussi"},
            "nvt_bussi keeps the volume and cannot hold pressure 0.00624151",
        ),
    ],
)
def test_schedules(folder: Path, values: dict[str, Any], message: str) -> None:
    assert mistake(folder, SAMPLER, values).startswith(f"trajectories.0.sampler: {message}")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"time": 0}], "missing key 'trajectories.0.sampler.temperature.0.value'; add it"),
        ({"time": 0, "value": 3}, "trajectories.0.sampler.temperature: expected a list, got"),
        ([300], "trajectories.0.sampler.temperature.0: expected keys and values, got 300"),
        ([{"time": "1 K", "value": 300}], "trajectories.0.sampler.temperature.0.time: '1 K' is not a time"),
    ],
)
def test_malformed_schedules(folder: Path, points: Any, message: str) -> None:
    assert mistake(folder, (*SAMPLER, "temperature"), points).startswith(message)


def test_rules_between_keys(folder: Path) -> None:
    twice = [MINIMAL["trajectories"][0]] * 2
    assert mistake(folder, ("trajectories",), twice) == (
        "trajectories: the name 'a' is used twice; give each its own `name`"
    )
    assert mistake(folder, ("dataset",), {}).startswith(
        "dataset: nothing to start from; name a file in `dataset.initial`"
    )
    assert mistake(folder, ("uncertainty",), {"metric": "full", "rank": 20}).startswith(
        "uncertainty: rank 20 has no meaning with metric: full; write metric: low_rank"
    )
    assert parse(folder, ("uncertainty",), {"metric": "low_rank", "rank": 20}).uncertainty.rank == 20
    assert "write three integers of at least 1" in mistake(folder, ("trajectories", 0, "repeat"), [1, 0, 1])
    assert mistake(folder, (*SAMPLER, "fix_atoms"), [3, -1]) == (
        "trajectories.0.sampler.fix_atoms.1: -1 is out of range; write a value of at least 0"
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("trajectories", 0, "structure"), "file"),
        (("dataset", "initial"), "file"),
        (("dataset", "held_out"), "file"),
    ],
)
def test_missing_files(folder: Path, path: tuple[Any, ...], kind: str) -> None:
    key = ".".join(map(str, path))
    message = mistake(folder, path, "gone.extxyz")
    assert message == f"{key}: no such {kind}: {folder / 'gone.extxyz'}; correct the path (relative to {folder})"


def test_missing_pseudopotential_folder(folder: Path) -> None:
    code = {"type": "espresso", "pseudo_dir": "gone", "pseudopotentials": {"Li": "li.upf"}}
    assert "labelling.code.pseudo_dir: no such folder" in mistake(folder, ("labelling", "code"), code)


def test_one_line_per_mistake(folder: Path) -> None:
    data = edited((*SAMPLER, "steps"), 0)
    data["seeed"] = 1
    data["labelling"]["workers"] = "two"
    with pytest.raises(ConfigError) as caught:
        parse_config(data, folder, "c.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("c.yaml: ") for line in lines)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; `ideal-run init STRUCTURE` writes a commented example"),
        ("# only a comment\n", "the file is empty"),
        ("- 1\n", "expected `key: value` lines at the top level, got a list"),
        ("hello\n", "expected `key: value` lines at the top level, got a single value"),
        ("a: [1, 2\n", "line 2, column 1: not valid YAML (expected ',' or ']'"),
        ("a: b: c\n", "line 1, column 5: not valid YAML (mapping values are not allowed here); check indentation"),
        (
            "a:\n\tb: 1\n",
            "line 2, column 1: not valid YAML (found character '\\t' that cannot start any token); indent",
        ),
        ("seed: 1\nseed: 2\n", "line 2, column 1: not valid YAML (the key 'seed' is written twice); remove one"),
        (
            "engine:\n  mode: serial\n  mode: concurrent\n",
            "line 3, column 3: not valid YAML (the key 'mode' is written",
        ),
        ("a: *b\n", "line 1, column 4: not valid YAML (found undefined alias 'b')"),
        ("a: !!python/object:os.system {}\n", "line 1, column 4: not valid YAML (could not determine a constructor"),
        ("\x00", "not valid YAML (unacceptable character"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; make one with `ideal-run init STRUCTURE`"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(tmp_path / "binary.yaml")


def test_merge_keys_are_still_yaml(folder: Path) -> None:
    text = yaml.safe_dump(MINIMAL) + "engine: &e {mode: serial}\n"
    (folder / "c.yaml").write_text(text + "selection:\n  max_per_frame: 3\n")
    assert load_config(folder / "c.yaml").selection.max_per_frame == 3


def test_a_section_alone() -> None:
    assert parse_section(OnlineConfig, {"epochs": 3}, "training.online", "here").epochs == 3
    with pytest.raises(
        ConfigError, match=r"^here: unknown key 'training\.online\.epoch' \(value 3\); did you mean 'epochs'\?$"
    ):
        parse_section(OnlineConfig, {"epoch": 3}, "training.online", "here")
    with pytest.raises(ConfigError, match=r"^here: missing key 'labelling\.code'; add it"):
        parse_section(LabellingConfig, {}, "labelling", "here")
    with pytest.raises(ConfigError, match=r"^here: engine: expected keys and values, got 3"):
        parse_section(EngineConfig, 3, "engine", "here")


# --- quantities and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("0.002 ps", "time", 2.0),
        ("2fs", "time", 2.0),
        ("2", "time", 2.0),
        ("0.5 nm", "length", 5.0),
        ("1 bohr", "length", 0.529177210903),
        ("40 rydberg", "energy", 544.227722),
        ("300 meV", "energy", 0.3),
        ("96.4853321233 kJ/mol", "energy", 1.0),
        ("1 hartree/bohr", "force", 51.4220675),
        ("1 GPa", "pressure", 0.006241509074),
        ("1 bar", "pressure", 6.241509074e-7),
        ("1 microbar", "pressure", 6.241509074e-13),
        ("300 K", "temperature", 300.0),
        ("5 / ps", "inverse_time", 0.005),
        ("30 min", "duration", 1800.0),
        (7, "duration", 7.0),
    ],
)
def test_units(text: Any, kind: str, expected: float) -> None:
    assert parse_quantity(text, kind) == pytest.approx(expected, rel=1e-8)


def test_conversion_leaves_no_rounding_behind() -> None:
    assert parse_quantity("0.002 ps", "time") == 2.0
    assert parse_quantity("0.35 nm", "length") == 3.5
    assert parse_quantity("0.3 ps", "time") == 300.0


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(OWN_UNITS)))
def test_numbers_stay_what_they_are(number: float, kind: str) -> None:
    assert parse_quantity(number, kind) == number


@given(st.text(max_size=12), st.sampled_from(sorted(OWN_UNITS)))
def test_any_text_is_a_finite_number_or_a_value_error(text: str, kind: str) -> None:
    try:
        value = parse_quantity(text, kind)
    except ValueError as error:
        assert OWN_UNITS[kind][0] in str(error)
    else:
        assert math.isfinite(value)


def test_did_you_mean() -> None:
    assert did_you_mean("gpwa", ["gpaw", "pyscf"]) == "did you mean 'gpaw'?"
    assert did_you_mean("zzz", ["b", "a"]) == "valid: a, b"


def test_exit_codes_differ_and_missing_packages_are_named() -> None:
    # those that a command may end with; which others are loaded depends on the tests before
    classes = [error for error in IdealError.__subclasses__() if error.__module__ == "ideal.errors"]
    assert len(classes) >= 7
    assert len({c.exit_code for c in classes}) == len(classes)
    assert 0 not in {c.exit_code for c in classes}
    assert str(MissingPackageError("gpaw", "labelling with GPAW")) == (
        "labelling with GPAW needs the package 'gpaw': pip install gpaw"
    )
    assert "CC=g++ pip install gpaw" in str(MissingPackageError("gpaw", "x", "CC=g++ pip install gpaw"))
