"""The configuration: every key, its default and its help line.

A run is described by one YAML file. `load_config` reads it strictly: an unknown key, a value of the wrong type, a wrong
unit or a missing file ends in one `ConfigError` that names the key, the value and the remedy. The reference page of the
documentation and the JSON schema for editors are generated from the models below.

Importing this module imports neither torch nor matgl nor ASE, so that ``ideal-run check`` and ``--help`` answer at
once.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ideal.config_biased import BiasConfig as BiasConfig
from ideal.config_biased import BiasedDynamicsConfig as BiasedDynamicsConfig
from ideal.config_codes import CODES as CODES
from ideal.config_codes import AbinitConfig as AbinitConfig
from ideal.config_codes import AimsConfig as AimsConfig
from ideal.config_codes import AseConfig as AseConfig
from ideal.config_codes import CodeConfig as CodeConfig
from ideal.config_codes import CodeSection as CodeSection
from ideal.config_codes import Cp2kConfig as Cp2kConfig
from ideal.config_codes import DftbConfig as DftbConfig
from ideal.config_codes import DispersionConfig as DispersionConfig
from ideal.config_codes import EspressoConfig as EspressoConfig
from ideal.config_codes import GpawConfig as GpawConfig
from ideal.config_codes import KPointsMixin as KPointsMixin
from ideal.config_codes import LammpsConfig as LammpsConfig
from ideal.config_codes import OrcaConfig as OrcaConfig
from ideal.config_codes import PyscfConfig as PyscfConfig
from ideal.config_codes import TbliteConfig as TbliteConfig
from ideal.config_codes import TeacherConfig as TeacherConfig
from ideal.config_codes import VaspConfig as VaspConfig
from ideal.config_dynamics import DynamicsSection as DynamicsSection
from ideal.config_dynamics import MolecularDynamicsConfig as MolecularDynamicsConfig
from ideal.config_engine import EngineConfig as EngineConfig
from ideal.config_engine import StopConfig as StopConfig
from ideal.config_enhanced import PlumedConfig as PlumedConfig
from ideal.config_enhanced import ReplicaExchangeConfig as ReplicaExchangeConfig
from ideal.config_executors import ExecutorConfig as ExecutorConfig
from ideal.config_executors import LocalExecutorConfig as LocalExecutorConfig
from ideal.config_executors import MpiExecutorConfig as MpiExecutorConfig
from ideal.config_executors import ParslExecutorConfig as ParslExecutorConfig
from ideal.config_generated import GeneratedConfig as GeneratedConfig
from ideal.config_labelling import CodeRule as CodeRule
from ideal.config_labelling import LabelGateConfig as LabelGateConfig
from ideal.config_labelling import LabellingConfig as LabellingConfig
from ideal.config_lammps_sampler import LammpsSamplerConfig as LammpsSamplerConfig
from ideal.config_learning import DatasetConfig as DatasetConfig
from ideal.config_learning import FinalConfig as FinalConfig
from ideal.config_learning import LossConfig as LossConfig
from ideal.config_learning import ModelConfig as ModelConfig
from ideal.config_learning import OnlineConfig as OnlineConfig
from ideal.config_learning import PretrainConfig as PretrainConfig
from ideal.config_learning import RattleConfig as RattleConfig
from ideal.config_learning import TrainingConfig as TrainingConfig
from ideal.config_messages import explain, explain_yaml
from ideal.config_monte_carlo import MonteCarloConfig as MonteCarloConfig
from ideal.config_paths import resolve_paths
from ideal.config_sampler import PressureOrSchedule as PressureOrSchedule
from ideal.config_sampler import SamplerSection as SamplerSection
from ideal.config_sampler import SchedulePoint as SchedulePoint
from ideal.config_sampler import TemperatureOrSchedule as TemperatureOrSchedule
from ideal.config_search import DimerConfig as DimerConfig
from ideal.config_search import ElasticBandConfig as ElasticBandConfig
from ideal.config_search import RelaxationConfig as RelaxationConfig
from ideal.config_search import SearchSection as SearchSection
from ideal.config_section import Section as Section
from ideal.config_serve import ServeConfig as ServeConfig
from ideal.config_trajectory import SamplerConfig as SamplerConfig
from ideal.config_trajectory import TrajectoryConfig as TrajectoryConfig
from ideal.errors import ConfigError, did_you_mean
from ideal.quantities import (
    Duration,
    Force,
    Length,
)

# --- uncertainty ------------------------------------------------------------------------------------------------------


class SoapConfig(Section):
    """SOAP power spectrum (Bartók 2013) as in DScribe."""

    r_cut: Length = Field(5.0, gt=1, description="Radial cutoff in Å (must exceed 1).")
    n_max: int = Field(6, ge=1, le=16, description="Number of radial functions.")
    l_max: int = Field(4, ge=0, le=12, description="Largest angular momentum.")
    sigma: Length = Field(0.5, gt=0, description="Width of the Gaussian on each neighbor in Å.")
    taper: bool = Field(
        True, description="Let neighbors fade smoothly at the edge; false reproduces DScribe's hard cut."
    )
    radial_basis: Literal["gto", "polynomial"] = Field(
        "gto", description="Radial functions: Gaussian-type orbitals, or polynomials that vanish at r_cut."
    )
    compression: Literal["off", "mu2", "mu1nu1", "crossover"] = Field(
        "off",
        description="Fewer features for many elements (Darby 2022). off: every pair of elements; mu1nu1: each element "
        "with the sum over all; crossover: each element with itself; mu2: the sum with itself.",
    )
    outer_support: bool = Field(
        True,
        description="Atoms beyond r_cut count for what their Gaussians reach inside it; false: support ends at r_cut "
        "(2.6 times fewer neighbors at 5 Å).",
    )
    species_weights: dict[str, float] | None = Field(
        None, description="Factor on each element's density, for every element of the run; null: 1."
    )


class ThresholdConfig(Section):
    """When an atom counts as uncertain."""

    type: Literal["calibrated", "quantile", "moving_average", "fixed"] = Field(
        "calibrated",
        description="calibrated: u at which the bound on the force error reaches `force_error`, once enough labels "
        "have been compared (before that: quantile, falling as it is taken anew), but at least the quantile without "
        "`factor`; quantile: a held-out quantile of u times `factor`; "
        "moving_average: mean of the largest u of the last `window` checks, times 1 + `margin`; fixed: `value`.",
    )
    force_error: Force = Field(
        0.15, gt=0, description="Force error (eV/Å) that an atom of a trajectory may have (calibrated)."
    )
    confidence: float = Field(
        0.9, gt=0, lt=1, description="Share of environments whose force error stays below its bound (calibrated)."
    )
    value: float = Field(2.0, gt=0, description="u above which an atom is uncertain (fixed).")
    quantile: float = Field(0.99, gt=0, lt=1, description="Quantile of u over held-out training environments.")
    factor: float = Field(
        1.5,
        gt=0,
        description="Multiplies the quantile. The product is also what the filler of an embedded cell is held against.",
    )
    folds: int = Field(5, ge=2, description="Folds of the training set for the held-out u.")
    window: int = Field(400, ge=1, description="Checks that the moving average looks back on (moving_average).")
    margin: float = Field(
        0.0, gt=-1, description="c_x: the threshold lies this fraction above the moving average (moving_average)."
    )
    freeze_after: int | None = Field(
        None, ge=1, description="The moving average stays as it is after this many checks; null: never."
    )


class UncertaintyConfig(Section):
    """SOAP-Mahalanobis uncertainty of every atom."""

    soap: SoapConfig = Field(default_factory=SoapConfig, description="Descriptor.")
    ridge: float = Field(1e-8, gt=0, lt=1, description="Ridge of the covariance, as a fraction of its trace.")
    metric: Literal["auto", "full", "low_rank"] = Field(
        "auto",
        description="full: exact; low_rank: leading directions and one residual, within 10 % for any environment and "
        "0.1 % as a rule; auto: low_rank above 500 features where that is cheaper.",
    )
    rank: int | None = Field(
        None, ge=1, description="Directions that low_rank keeps; null: as many as its error bound takes."
    )
    threshold: ThresholdConfig = Field(default_factory=ThresholdConfig, description="When an atom counts as uncertain.")
    threads: int = Field(1, ge=1, description="Threads of the C++ core.")

    @model_validator(mode="after")
    def _check_rank(self) -> UncertaintyConfig:
        if self.rank is not None and self.metric == "full":
            raise ValueError(
                f"rank {self.rank} has no meaning with metric: full; write metric: low_rank, or leave the rank out"
            )
        return self


class SelectionConfig(Section):
    """Which uncertain atoms of a frame earn a label."""

    max_per_frame: int = Field(2, ge=1, description="At most this many labels per frame.")
    strategy: Literal["variance", "uncertainty", "farthest", "random"] = Field(
        "variance",
        description="Which uncertain atom comes next: the most uncertain after a copy of the distribution has learned "
        "those chosen before (variance), the most uncertain, the farthest from those chosen, or a random one.",
    )
    min_distance: Length = Field(
        6.0,
        ge=0,
        description="Two selected atoms are at least this far apart (Å); nearer ones share an environment.",
    )
    merge: Length = Field(
        0.0,
        ge=0,
        description="Uncertain atoms that all lie within this distance (Å) of their middle share one cell, cut around "
        "it; 0: a cell is cut around one atom.",
    )
    fill: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Once a frame asks, its next most uncertain atoms above this fraction of the threshold are "
        "labelled too, up to max_per_frame; below 1 it keeps workers busy that would wait.",
    )
    audit: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the labels that goes to environments drawn at random from those held for certain; "
        "unbiased error estimates come from them. 0: none.",
    )
    min_steps_between: int = Field(
        10, ge=0, description="After learning, a trajectory moves at least this many steps before it asks again."
    )
    max_refused_checks: int = Field(
        20,
        ge=1,
        description="A trajectory stops after this many checks in a row at which no uncertain atom could be embedded.",
    )


class EmbeddingConfig(Section):
    """In-distribution substructure embedding (Kong et al. 2023)."""

    r_core: Length = Field(4.0, gt=0, description="Atoms within this distance of the center keep their positions (Å).")
    margin: Length = Field(2.5, ge=0, description="Largest filler margin beyond the core on each face (Å).")
    n_crops: int = Field(20, ge=1, description="Crops drawn per attempt; the best three are optimized.")
    max_evaluations: int = Field(150, ge=1, description="Largest number of objective evaluations per optimized crop.")
    growth_attempts: int = Field(1, ge=0, description="How often margin and core grow when the small cell is refused.")
    max_atoms: int = Field(
        200, ge=1, description="Largest cell that may be labelled; a frame this small is labelled whole."
    )
    optimize_cell: bool = Field(True, description="Allow diagonal strain where a fixed cell fails.")
    young_factor: float = Field(
        1.5,
        ge=1,
        description="The filler may reach this times the threshold while the distribution is young.",
    )
    young_environments: int = Field(2000, ge=0, description="A distribution with fewer environments counts as young.")
    formula: str | None = Field(
        None, description="Formula unit that every cell is made of ('Al2O3'); null: the frame's own, where it has one."
    )
    charges: dict[str, float] = Field(
        default={},
        description="Formal charge by element where a frame has no formula (vacancies, interfaces): "
        "cells stay neutral.",
    )
    guess_charges: bool = Field(
        True, description="Guess formal charges from common oxidation states where they make the frame neutral."
    )
    workers: int = Field(
        1,
        ge=0,
        description="Processes that make cells beside dynamics and labelling; 0: the run makes them itself, in turn. "
        "The cells are the same.",
    )
    timeout: Duration = Field(
        600.0, gt=0, description="Longest time that such a process may take for one cell (s); then the cell is refused."
    )
    output: Literal["cell", "cluster"] = Field(
        "cell",
        description="'cluster': no periodicity, molecules whole, cut bonds capped by hydrogen, for molecular codes.",
    )


# --- the whole --------------------------------------------------------------------------------------------------------


class Config(Section):
    """A run of ``ideal-run``."""

    title: str = Field("", description="Shown in the report.")
    seed: int = Field(0, ge=0, description="Seed of every random number of the run.")
    output: Path | None = Field(None, description="Run directory; null: runs/<name of the YAML file>.")
    trajectories: list[TrajectoryConfig] = Field(min_length=1, description="The trajectories that the run moves.")
    uncertainty: UncertaintyConfig = Field(default_factory=UncertaintyConfig, description="Uncertainty of every atom.")
    selection: SelectionConfig = Field(default_factory=SelectionConfig, description="Which atoms earn a label.")
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig, description="Substructure embedding.")
    labelling: LabellingConfig = Field(description="Reference calculations.")
    dataset: DatasetConfig = Field(default_factory=DatasetConfig, description="Labels known before the run.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The potential.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="How the model learns.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="How the loop is run.")
    stop: StopConfig = Field(default_factory=StopConfig, description="When the dynamics ends.")
    serve: ServeConfig | None = Field(
        None,
        description="LAMMPS moves the atoms and asks this run (`ideal-run serve` fills it in); null: the run does.",
    )

    @field_validator("trajectories")
    @classmethod
    def _expand(cls, trajectories: list[TrajectoryConfig]) -> list[TrajectoryConfig]:
        return [one for trajectory in trajectories for one in trajectory.each()]

    @model_validator(mode="after")
    def _check(self) -> Config:
        names = [trajectory.name for trajectory in self.trajectories]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"trajectories: the name {twice[0]!r} is used twice; give each its own `name`")
        for number, trajectory in enumerate(self.trajectories):
            if trajectory.code is not None and trajectory.code not in self.labelling.codes:
                valid = did_you_mean(trajectory.code, self.labelling.codes)
                raise ValueError(f"trajectories.{number}.code: no code {trajectory.code!r} in labelling.codes; {valid}")
        if self.model.dispersion is not None and any(
            code.dispersion is not None for code in (self.labelling.code, *self.labelling.codes.values())
        ):
            raise ValueError(
                "model.dispersion: the labels hold dispersion already (dispersion of a labelling code); leave one out"
            )
        if self.model.path is not None and self.training.final.start == "scratch":
            raise ValueError(
                "training.final.start: scratch makes a model of the sizes in section model, unlike the one that "
                "model.path names; write `continue`, or leave model.path out"
            )
        if self.stop.force_mae is not None and self.dataset.validation_fraction == 0:
            raise ValueError(
                "stop.force_mae: dataset.validation_fraction 0 keeps no validation labels to judge by; raise it, or "
                "leave the rule out"
            )
        made = self.dataset.rattled.count + self.dataset.generated.count
        if self.dataset.initial is None and made == 0:
            raise ValueError(
                "dataset: nothing to start from; name a file in `dataset.initial` or let the run make structures "
                "with `dataset.rattled.count` (10 is a good start) or `dataset.generated.count`"
            )
        return self


# --- reading ----------------------------------------------------------------------------------------------------------


def load_config(path: str | Path) -> Config:
    """Read and validate a YAML file; relative paths in it are resolved against its folder.

    Args:
        path: the YAML file.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value or unit is wrong, a file it names is
            missing.

    Example:
        >>> load_config("examples/lithium/config.yaml").seed
        0
    """
    path = Path(path)
    return parse_config(read_yaml(path), folder=path.parent, source=str(path))


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error, not a silent choice of the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is written twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The plain content of a YAML file.

    Raises:
        ConfigError: the file is missing, cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; make one with `ideal-run init STRUCTURE`") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; name a YAML file") from None
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {explain_yaml(error)}") from None


def parse_config(data: Any, folder: Path, source: str = "configuration") -> Config:
    """Validate a configuration given as nested dictionaries (see `load_config`).

    Raises:
        ConfigError: as `load_config`.
    """
    if data is None:
        raise ConfigError(f"{source}: the file is empty; `ideal-run init STRUCTURE` writes a commented example")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        raise ConfigError(
            f"{source}: expected `key: value` lines at the top level, got {kind}; `ideal-run init STRUCTURE` writes "
            "an example"
        )
    data = _with_site(data, folder, source)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in explain(error, Config))) from None
    return resolve_paths(config, folder.resolve(), source)


def _with_site(data: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
    """The content of the site file in the place of its name, when ``labelling.executor`` is one."""
    labelling = data.get("labelling")
    name = labelling.get("executor") if isinstance(labelling, dict) else None
    if not isinstance(name, str):
        return data
    file = Path(name).expanduser()
    file = file if file.is_absolute() else folder / file
    if not file.is_file():
        raise ConfigError(
            f"{source}: labelling.executor: no such file: {file.resolve()}; name a site file (relative to {folder}) or "
            "write `type: local`, mpi or parsl below the key"
        )
    return {**data, "labelling": {**labelling, "executor": read_yaml(file)}}  # type: ignore[dict-item]


SectionType = TypeVar("SectionType", bound=Section)


def parse_section(section: type[SectionType], data: Any, name: str, source: str) -> SectionType:
    """Validate one part of a configuration alone, as `ideal-run label` and `ideal-run train` need it.

    Args:
        section: its model.
        data: nested dictionaries.
        name: its key in a full configuration, such as ``"labelling"``; errors name keys below it.
        source: where the data come from, for errors.

    Raises:
        ConfigError: as `parse_config`.

    Example:
        >>> parse_section(OnlineConfig, {"epochs": 3}, "training.online", "example").epochs
        3
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in explain(error, section, name))) from None


def dump_config(config: Config) -> str:
    """The fully expanded configuration as YAML; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON schema of the YAML file, for editors."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "IDEAL run"
    return schema
