"""The configuration of where calculations run: key, default and help line of every executor and batch system."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ideal.config_section import Section
from ideal.quantities import Duration, Memory


class LocalExecutorConfig(Section):
    """Worker processes on this machine; their number is ``labelling.workers``."""

    type: Literal["local"] = "local"
    cores: int | None = Field(
        None,
        ge=1,
        description="Bind each worker to this many cores of its own; null: not bound, right when several runs share a "
        "machine.",
    )


class MpiExecutorConfig(Section):
    """The ranks of one MPI launch, `mpiexec -n N ideal-run run`: the first runs the loop, each other one worker."""

    type: Literal["mpi"] = "mpi"


class LocalProviderConfig(Section):
    """Blocks are processes on this machine."""

    type: Literal["local"] = "local"


class SlurmProviderConfig(Section):
    """Blocks are Slurm jobs."""

    type: Literal["slurm"] = "slurm"
    partition: str | None = Field(None, description="Partition; null: the default one.")
    account: str | None = Field(None, description="Account that pays.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, description="Feature of the nodes.")
    cores_per_node: int | None = Field(None, ge=1, description="Cores asked for on each node; null: not said.")
    memory_per_node: Memory | None = Field(
        None, gt=0, description="Memory asked for on each node in GB; null: what the site gives."
    )
    exclusive: bool = Field(True, description="Whole nodes.")
    walltime: Duration = Field(3600.0, gt=0, description="Time limit of a block in s (text: '4 h').")
    options: list[str] = Field(
        default=[], description="More lines of the job script, such as '#SBATCH --mail-type=END'."
    )
    launcher: Literal["single", "srun"] = Field(
        "single", description="Where a block has workers: single: on its first node; srun: on every node."
    )


class PbsProviderConfig(Section):
    """Blocks are PBS Professional jobs."""

    type: Literal["pbs"] = "pbs"
    queue: str | None = Field(None, description="Queue; null: the default one.")
    account: str | None = Field(None, description="Account that pays.")
    cores_per_node: int = Field(1, ge=1, description="Cores asked for on each node.")
    select: str = Field("", description="More of the select statement, such as 'ngpus=1'.")
    walltime: Duration = Field(3600.0, gt=0, description="Time limit of a block in s (text: '4 h').")
    options: list[str] = Field(default=[], description="More lines of the job script, such as '#PBS -l place=excl'.")
    launcher: Literal["single", "mpiexec"] = Field(
        "single", description="Where a block has workers: single: on its first node; mpiexec: on every node."
    )


class KubernetesProviderConfig(Section):
    """Blocks are pods; image and volumes hold this package, the code and the run's folder at the same path."""

    type: Literal["kubernetes"] = "kubernetes"
    image: str = Field(description="Container image.")
    namespace: str = Field("default", description="Namespace of the pods.")
    cores: float = Field(1.0, gt=0, description="Cores of a pod.")
    memory: Memory = Field(4.0, gt=0, description="Memory of a pod in GB.")
    volumes: dict[str, str] = Field(default={}, description="Path inside the pod by name of the volume claim.")


ProviderConfig = Annotated[
    LocalProviderConfig | SlurmProviderConfig | PbsProviderConfig | KubernetesProviderConfig,
    Field(discriminator="type"),
]


class ParslExecutorConfig(Section):
    """Workers in blocks of a batch system, from ``min_blocks`` to ``max_blocks`` as there is work (Parsl's
    HighThroughputExecutor)."""

    type: Literal["parsl"] = "parsl"
    provider: ProviderConfig = Field(
        default_factory=LocalProviderConfig, description="Where blocks come from; `type` names it."
    )
    workers_per_node: int = Field(1, ge=1, description="Calculations that run at once on a node.")
    nodes_per_block: int = Field(1, ge=1, description="Nodes of one block.")
    min_blocks: int = Field(0, ge=0, description="Blocks kept without work.")
    max_blocks: int = Field(1, ge=1, description="Largest number of blocks at once.")
    idle: Duration = Field(120.0, gt=0, description="A block without work is given back after this time in s.")
    worker_init: str = Field("", description="Shell lines before the workers start: modules, environment.")
    python: str | None = Field(None, description="Python of the workers; null: the one that runs the loop.")
    pin: bool = Field(False, description="Bind each worker to its share of the node's cores.")
    address: str | None = Field(
        None, description="Address of this machine as the workers see it; null: found out (local: loopback only)."
    )
    interface: str | None = Field(None, description="Network interface with that address, such as ib0.")
    retries: int = Field(2, ge=0, description="How often a calculation is sent again whose block or worker was lost.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_blocks > self.max_blocks:
            raise ValueError(f"min_blocks {self.min_blocks} exceeds max_blocks {self.max_blocks}; lower it")
        if self.address is not None and self.interface is not None:
            raise ValueError("give address or interface, not both: either says where the workers find this machine")
        return self

    @property
    def slots(self) -> int:
        """Calculations that run at once when all blocks are up."""
        on_every_node = getattr(self.provider, "launcher", "single") != "single"
        return self.max_blocks * (self.nodes_per_block if on_every_node else 1) * self.workers_per_node


ExecutorConfig = Annotated[LocalExecutorConfig | MpiExecutorConfig | ParslExecutorConfig, Field(discriminator="type")]
