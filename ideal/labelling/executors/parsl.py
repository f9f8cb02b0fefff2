"""Workers in blocks of a batch system, with Parsl's HighThroughputExecutor: as many blocks as there is work for."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ideal
from ideal.config import ParslExecutorConfig
from ideal.config_executors import KubernetesProviderConfig, LocalProviderConfig, PbsProviderConfig, SlurmProviderConfig
from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.executors.relay import RelayExecutor, serve
from ideal.labelling.executors.worker_process import Limits

LABEL = "labels"
STRATEGY_SECONDS = 1.0
"""How often the number of blocks is held against the number of tasks."""
HEARTBEAT_SECONDS = 20, 100
"""How often workers' managers say that they live, and after what silence their tasks are sent again."""
LOOPBACK = "127.0.0.1"


class ParslExecutor(RelayExecutor):
    """A Parsl kernel of its own, with one HighThroughputExecutor.

    Args:
        config: blocks, workers and batch system.
        folder: where workers and Parsl keep their logs; seen by all nodes.
        limits: of each task.

    Raises:
        MissingPackageError: Parsl, or the package of the batch system, is not installed.
        LabelError: Parsl does not start as configured.

    Example:
        >>> executor = ParslExecutor(ParslExecutorConfig(max_blocks=2), Path("work"), Limits(60))   # doctest: +SKIP
        >>> executor.submit(math.sqrt, 2.0).result()                                            # doctest: +SKIP
        1.4142135623730951
    """

    def __init__(self, config: ParslExecutorConfig, folder: Path, limits: Limits) -> None:
        try:
            from parsl import Config, DataFlowKernel
            from parsl.concurrent import ParslPoolExecutor
        except ImportError:
            raise MissingPackageError("parsl", "labelling.executor", "pip install 'ideal-md[parsl]'") from None
        super().__init__(folder, limits, config.slots)
        self._htex = _high_throughput(config, folder.resolve())
        try:
            self._kernel = DataFlowKernel(
                Config(
                    executors=[self._htex],
                    run_dir=str(folder.resolve() / "parsl"),
                    strategy="htex_auto_scale",
                    strategy_period=STRATEGY_SECONDS,
                    max_idletime=config.idle,
                    retries=config.retries,
                    usage_tracking=0,
                    initialize_logging=False,
                )
            )
        except Exception as error:
            # Parsl raises whatever its sockets, files and batch system do; the run cannot go on in any case.
            if (interchange := self._htex.interchange_proc) is not None:
                interchange.kill()
            raise LabelError(
                f"Parsl does not start: {error}; see {folder / 'parsl'}, or try again when this machine is less busy"
            ) from error
        self._pool = ParslPoolExecutor(dfk=self._kernel)

    def blocks(self) -> int:
        """Blocks that wait in the batch system or run."""
        return sum(not status.terminal for status in self._htex.status_facade.values())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the queued tasks (with ``cancel_futures`` only the running ones) and give all blocks back."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and not self._kernel.cleanup_called:
            self._kernel.cleanup()

    def _send(self, task: dict[str, Any]) -> Future[dict[str, Any]]:
        sent: Future[dict[str, Any]] = self._pool.submit(serve, task)
        return sent


def _high_throughput(config: ParslExecutorConfig, folder: Path) -> Any:
    """The HighThroughputExecutor of a configuration; on one machine its sockets are bound to the loopback address."""
    from parsl.addresses import address_by_hostname, address_by_interface
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

    class Blocks(HighThroughputExecutor):
        """Never told to give no blocks back: Parsl 2026.10 then ends every block that has not started yet."""

        def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
            killed: list[str] = super().scale_in(blocks, max_idletime) if blocks > 0 else []
            return killed

    package = "parsl.executors.high_throughput"
    python = config.python or ("python3" if isinstance(config.provider, KubernetesProviderConfig) else sys.executable)
    if config.address is not None:
        address = config.address
    elif config.interface is not None:
        address = address_by_interface(config.interface)
    else:
        address = LOOPBACK if isinstance(config.provider, LocalProviderConfig) else address_by_hostname()
    return Blocks(
        label=LABEL,
        provider=make_provider(config),
        address=address,
        loopback_address=LOOPBACK,
        launch_cmd=DEFAULT_LAUNCH_CMD.replace(
            "process_worker_pool.py", f"{shlex.quote(python)} -m {package}.process_worker_pool"
        ),
        interchange_launch_cmd=[sys.executable, "-m", f"{package}.interchange"],
        max_workers_per_node=config.workers_per_node,
        cores_per_worker=1e-3,  # their number is said above, whatever the node has
        cpu_affinity="block" if config.pin else "none",
        worker_logdir_root=str(folder / "parsl"),
        heartbeat_period=HEARTBEAT_SECONDS[0],
        heartbeat_threshold=HEARTBEAT_SECONDS[1],
        encrypted=True,
    )


def make_provider(config: ParslExecutorConfig) -> Any:
    """Parsl's provider of a configuration.

    Raises:
        MissingPackageError: its package is not installed.
        LabelError: Parsl refuses it.
    """
    from parsl.errors import OptionalModuleMissing
    from parsl.launchers import MpiExecLauncher, SingleNodeLauncher, SrunLauncher
    from parsl.providers import KubernetesProvider, LocalProvider, PBSProProvider, SlurmProvider

    provider = config.provider
    common: dict[str, Any] = {
        "nodes_per_block": config.nodes_per_block,
        "init_blocks": config.min_blocks,
        "min_blocks": config.min_blocks,
        "max_blocks": config.max_blocks,
        "parallelism": 1,
        "worker_init": _worker_init(config),
    }
    launchers = {"single": SingleNodeLauncher, "srun": SrunLauncher, "mpiexec": MpiExecLauncher}
    if isinstance(provider, LocalProviderConfig):
        return LocalProvider(**common)
    if isinstance(provider, SlurmProviderConfig):
        memory = provider.memory_per_node
        return SlurmProvider(
            partition=provider.partition,
            account=provider.account,
            qos=provider.qos,
            constraint=provider.constraint,
            cores_per_node=provider.cores_per_node,
            mem_per_node=None if memory is None else max(1, int(memory)),
            exclusive=provider.exclusive,
            walltime=_clock(provider.walltime),
            scheduler_options="\n".join(provider.options),
            launcher=launchers[provider.launcher](),
            **common,
        )
    if isinstance(provider, PbsProviderConfig):
        return PBSProProvider(
            account=provider.account,
            queue=provider.queue,
            cpus_per_node=provider.cores_per_node,
            select_options=provider.select,
            walltime=_clock(provider.walltime),
            scheduler_options="\n".join(provider.options),
            launcher=launchers[provider.launcher](),
            **common,
        )
    try:
        return KubernetesProvider(
            image=provider.image,
            namespace=provider.namespace,
            init_cpu=provider.cores,
            max_cpu=provider.cores,
            init_mem=f"{provider.memory:g}G",
            max_mem=f"{provider.memory:g}G",
            persistent_volumes=list(provider.volumes.items()),
            **common,
        )
    except OptionalModuleMissing:
        raise MissingPackageError("kubernetes", "labelling.executor.provider kubernetes") from None
    except Exception as error:
        # The client raises its own errors where there is no cluster.
        raise LabelError(f"labelling.executor.provider: no Kubernetes cluster: {error}") from error


def _worker_init(config: ParslExecutorConfig) -> str:
    """The user's lines, and where this package lies when the workers run the same Python."""
    lines = [config.worker_init] if config.worker_init else []
    if config.python is None and not isinstance(config.provider, KubernetesProviderConfig):
        lines.append(f"export PYTHONPATH={shlex.quote(str(Path(ideal.__file__).parents[1]))}:$PYTHONPATH")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    """A duration as batch systems read it.

    Example:
        >>> _clock(5400)
        '01:30:00'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
