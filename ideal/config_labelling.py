"""The labelling part of the configuration: codes, which of them labels what, workers, gate and store."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from ideal.config_codes import CodeConfig
from ideal.config_executors import ExecutorConfig, LocalExecutorConfig
from ideal.config_section import Section
from ideal.errors import did_you_mean
from ideal.quantities import Duration, Energy, Force, Length, Memory, Pressure


class LabelGateConfig(Section):
    """What a label must satisfy to be believed."""

    max_net_force: Force = Field(0.02, gt=0, description="Largest component of the summed forces (eV/Å).")
    max_force: Force = Field(30.0, gt=0, description="Largest force on an atom (eV/Å).")
    max_learned_force: Force | None = Field(
        None,
        gt=0,
        description="Labels with a larger force on an atom (eV/Å) stay in the store but are not learned (20 for strong "
        "biases); null: all are.",
    )
    min_distance: Length = Field(
        0.5, ge=0, description="Shortest distance between two atoms that is sent to the code (Å)."
    )
    max_stress: Pressure = Field(5.0, gt=0, description="Largest stress component in eV/Å³ (text: '800 GPa').")
    max_entropy: Energy | None = Field(
        0.2, gt=0, description="Largest T S of the smeared electrons in eV per atom; null: no limit."
    )


class CodeRule(Section):
    """A kind of structure and the code that labels it; every condition that is given must hold."""

    code: str = Field(description="Name in labelling.codes.")
    periodic: bool | None = Field(
        None, description="true: structures with a periodic axis; false: molecules and clusters; null: both."
    )
    elements: list[str] | None = Field(None, description="Only structures of nothing but these elements; null: any.")
    max_atoms: int | None = Field(None, ge=1, description="Only structures of at most so many atoms; null: any.")


class LabellingConfig(Section):
    """Reference calculations."""

    code: CodeConfig = Field(description="The reference code; `type` names it.")
    codes: dict[str, CodeConfig] = Field(
        default={},
        description="Further codes by name, for trajectories (`code`) or kinds of structures (`rules`). Energies on "
        "another scale than `code`'s need `energy_offsets`.",
    )
    rules: list[CodeRule] = Field(
        default=[], description="Which of `codes` labels which structures: the first rule that fits; none: `code`."
    )
    store: Path | None = Field(
        None,
        description="Label store shared with other runs: what one has finished none calculates again. null: the run's "
        "own alone.",
    )
    workers: int = Field(2, ge=1, description="Calculations that run at once on this machine (executor: local).")
    timeout: Duration = Field(3600.0, gt=0, description="Time limit of one calculation in s (text: '30 min').")
    memory: Memory | None = Field(
        None,
        gt=0,
        description="Memory limit of one calculation in GB (text: '4 GB'), its programs together; null: none.",
    )
    threads: int = Field(1, ge=1, description="Threads of one calculation (OMP_NUM_THREADS and its kin).")
    executor: ExecutorConfig = Field(
        default_factory=LocalExecutorConfig, description="Where calculations run; a path names a site file."
    )
    gate: LabelGateConfig = Field(default_factory=LabelGateConfig, description="What a label must satisfy.")

    @model_validator(mode="after")
    def _check_codes(self) -> LabellingConfig:
        if "default" in self.codes:
            raise ValueError("codes: the name 'default' stands for labelling.code; choose another")
        for number, rule in enumerate(self.rules):
            if rule.code not in self.codes:
                raise ValueError(f"rules.{number}.code: no code {rule.code!r}; {did_you_mean(rule.code, self.codes)}")
        for name, code in self.codes.items():
            one, other = self.code.energy_scale(), code.energy_scale()
            if one != other and not code.energy_offsets:
                differing = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
                raise ValueError(
                    f"codes.{name}: its energies are on another scale than those of labelling.code (they differ in "
                    f"{', '.join(differing[:4])}{' ...' if len(differing) > 4 else ''}), and a model that learns both "
                    f"takes the difference for structure; give codes.{name}.energy_offsets for every element "
                    "(docs/labelling.md), or use one code"
                )
        return self
