"""The learning part of the configuration: data known before the run, the model, its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ideal.config_codes import DispersionConfig
from ideal.config_generated import GeneratedConfig
from ideal.config_section import Section
from ideal.quantities import Duration, Energy, Force, Length


class RattleConfig(Section):
    """Initial structures made from the starting structures when no data set is at hand."""

    count: int = Field(0, ge=0, description="Structures to make and label before the dynamics starts; 0: none.")
    rattle: Length = Field(0.1, ge=0, description="Standard deviation of the displacements in Å.")
    strain: float = Field(0.03, ge=0, lt=0.5, description="Largest strain component.")
    max_atoms: int = Field(
        64,
        ge=1,
        description="Larger starting structures are reduced to whole repeat units; disordered ones are refused.",
    )


class DatasetConfig(Section):
    """Labelled structures known before the run."""

    initial: Path | None = Field(
        None,
        description="Structures to train on at the start (extended XYZ, ASE formats); unlabelled ones are labelled "
        "first.",
    )
    rattled: RattleConfig = Field(
        default_factory=RattleConfig, description="Initial structures made by the run itself."
    )
    generated: GeneratedConfig = Field(
        default_factory=GeneratedConfig, description="Initial structures from short molecular dynamics."
    )
    held_out: Path | None = Field(None, description="Labelled frames never trained on: parity plots before and after.")
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="Part of the labels kept for validation.")


class ModelConfig(Section):
    """The machine-learned potential."""

    type: Literal["m3gnet", "tensornet", "custom"] = Field(
        "m3gnet",
        description="m3gnet (Chen and Ong 2022) or tensornet (Simeon and De Fabritiis 2023) as implemented in matgl; "
        "custom: a class of your own.",
    )
    module: str | None = Field(
        None,
        description="Class of a custom model, package.module:Class or path/to/file.py:Class (docs/extending.md); the "
        "path counts from the configuration's folder, else from the present one.",
    )
    arguments: dict[str, Any] = Field(default={}, description="Keyword arguments of a custom model's `new`.")
    path: str | None = Field(
        None, description="Start from this model directory or matgl model name instead of random weights."
    )
    elements: list[str] | None = Field(
        None, description="Elements of a new model; null: those of the data and structures."
    )
    n_blocks: int = Field(2, ge=1, description="Message-passing blocks.")
    units: int = Field(32, ge=4, description="Width of the network.")
    max_n: int = Field(3, ge=1, description="Radial functions of M3GNet's three-body term.")
    max_l: int = Field(3, ge=1, le=4, description="Angular functions of M3GNet's three-body term.")
    n_radial: int = Field(32, ge=1, description="Radial functions of TensorNet.")
    cutoff: Length = Field(5.0, gt=0, description="Two-body cutoff in Å.")
    threebody_cutoff: Length = Field(4.0, gt=0, description="M3GNet's three-body cutoff in Å.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    threads: int = Field(1, ge=1, description="Threads of torch on the CPU.")
    precision: Literal["float32", "float64"] = Field(
        "float32",
        description="float64: dynamics and training in double precision, about four times as expensive. A model that "
        "was saved in float64 stays so.",
    )
    chunk_atoms: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Atoms evaluated at a time, layer by layer; auto: as many as suit the processor's cache. Memory "
        "grows with all atoms but little, and no result depends on it beyond rounding. M3GNet alone.",
    )
    dispersion: DispersionConfig | None = Field(
        None,
        description="Dispersion added to the model in dynamics: for labels without it. The model learns labels as they "
        "are; `functional` must be named.",
    )

    @model_validator(mode="after")
    def _check_parts(self) -> ModelConfig:
        if (self.type == "custom") != (self.module is not None):
            verb = "needs" if self.type == "custom" else "takes no"
            raise ValueError(
                f"type: {self.type} {verb} `module`; write type: custom and module: path/to/file.py:Class, or neither"
            )
        if self.dispersion is not None and self.dispersion.functional is None:
            raise ValueError("dispersion: a model has no functional of its own; write `functional`, such as pbe")
        return self


class LossConfig(Section):
    """Huber loss on energy per atom, forces and stress."""

    energy: float = Field(1.0, ge=0, description="Weight of the energy per atom (eV).")
    energy_end: float | None = Field(
        None,
        gt=0,
        description="Weight of the energy where the learning rate ends: within every training it grows from `energy` "
        "to this as the rate falls, and models are judged by this one. Some hundred times `energy` halves the error "
        "of energies for a few per cent of that of forces. null: `energy`.",
    )
    force: float = Field(1.0, ge=0, description="Weight of the forces (eV/Å).")
    stress: float = Field(0.1, ge=0, description="Weight of the stress (GPa).")
    delta: float = Field(0.1, gt=0, description="Huber delta, in the unit of each term.")
    filler: float = Field(
        1.0,
        ge=0,
        description="Weight of the forces on the filler of embedded cells, relative to their core; 0: the core alone.",
    )


class PretrainConfig(Section):
    """Training on the initial data."""

    epochs: int = Field(100, ge=0, description="Passes over the initial data; 0: none.")
    learning_rate: float = Field(
        2e-3,
        gt=0,
        description="Peak learning rate; decays to a hundredth by a cosine. Two blocks of 32 units bear 3e-3, three of "
        "64 units do not.",
    )
    batch_size: int = Field(4, ge=1, description="Structures per step.")
    rescale_layers: bool = Field(
        False,
        description="Scale the random weights of a new M3GNet layer by layer, so that each tells environments apart "
        "from the start: errors fall further with enough training; they are larger before, and beyond the data.",
    )
    max_seconds: Duration | None = Field(
        None, gt=0, description="Stop earlier after this time; makes runs depend on the clock."
    )


class OnlineConfig(Section):
    """Update of the model when new labels arrive."""

    epochs: int = Field(12, ge=1, description="Passes over the new labels per update.")
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="Peak learning rate; decays to a hundredth in every update. 1e-4 for a large model that was "
        "pretrained elsewhere.",
    )
    batch_size: int = Field(4, ge=1, description="Structures per step.")
    replay: int = Field(16, ge=0, description="Old structures drawn per pass, by importance.")
    rescore: int = Field(16, ge=0, description="Old structures whose error is evaluated anew per update.")
    fitted_energy: Energy = Field(
        0.001, ge=0, description="New labels are learned when their energy (eV/atom) is met within this and ..."
    )
    fitted_force: Force = Field(
        0.01,
        ge=0,
        description="... their forces (eV/Å, mean absolute error) within this: the update ends. An error on "
        "validation labels below both never undoes an update.",
    )
    gate: Literal["balanced", "strict"] = Field(
        "balanced",
        description="What undoes an update. Always: no smaller loss on new and validation labels together. strict: "
        "also a larger loss on the validation labels, so that a few cold crystals can forbid to learn a melt. "
        "balanced: only a larger loss on them that exceeds the one on the new labels too. Validation labels are those "
        "of the start and those that `validation_fraction` holds back.",
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Part of the run's labels that is not learned but joins the validation labels, drawn by their "
        "keys; of every update at least one label is learned. 0.1 is for runs of hundreds of labels. 0: the "
        "validation labels stay those of the start.",
    )
    retries: int = Field(
        1,
        ge=0,
        description="An update that does not help is tried so many times more, at half the rate and with the "
        "optimizer's memory cleared.",
    )
    max_seconds: Duration | None = Field(
        None, gt=0, description="Stop an update after this time; makes runs depend on the clock."
    )


class FinalConfig(Section):
    """Convergence on all labels when the run is over."""

    epochs: int = Field(100, ge=0, description="Passes over all labels at most; 0: no final training.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate; decays to a hundredth by a cosine.")
    batch_size: int = Field(4, ge=1, description="Structures per step.")
    patience: int = Field(50, ge=1, description="Stop after so many passes without a better model.")
    max_seconds: Duration | None = Field(
        900.0, gt=0, description="Time budget (15 min); the rate decays within it. null: none."
    )
    start: Literal["continue", "scratch"] = Field(
        "continue",
        description="continue: from the weights of the run; scratch: from new random ones, "
        "which replace the run's (kept as model_run) when they err less on validation labels; where learned labels "
        "judge, too, they may err somewhat more on those.",
    )


class TrainingConfig(Section):
    """How the model learns."""

    loss: LossConfig = Field(default_factory=LossConfig, description="Loss.")
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig, description="Training on the initial data.")
    online: OnlineConfig = Field(default_factory=OnlineConfig, description="Update when new labels arrive.")
    final: FinalConfig = Field(default_factory=FinalConfig, description="Convergence when the run is over.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    average: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the running average of the weights, per step; the averaged weights are judged, used and "
        "saved. 0: none.",
    )
    validation_sample: int = Field(
        32, ge=1, description="Validation labels looked at, a fixed random sample when there are more."
    )
    max_atoms: int = Field(
        256,
        ge=1,
        description="Atoms evaluated at once; a larger batch is taken in parts, with the same result. Lower it when "
        "memory runs out.",
    )
    isolated_atoms: dict[str, Energy] | None = Field(
        None,
        description="Energies of isolated atoms (eV) by element; they say how elements differ where the labels do not.",
    )
