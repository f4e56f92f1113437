"""The processes that train one world together: one a device, on one machine or several.

Those of this machine are started here, each by `python -m worldsim.training.worker`, unless torchrun, SLURM or MPI has
started them all. On several machines the same command is typed on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK
set.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.parallel import ParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from worldsim.errors import ConfigError
from worldsim.models.world_model import Losses, WorldModel
from worldsim.rollouts.sampling import RankShard
from worldsim.training.config import TrainConfig, TrainerConfig

TIMEOUT = timedelta(minutes=10)  # of collective operations
EXIT_WAIT_S = 10  # seconds that a process has to exit after training
READY = "WORLDSIM_READY"  # descriptor of a pipe to which a worker writes when it is about to join the process group
ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


class Objective(nn.Module):
    """A model's losses as a forward pass, because DDP and FSDP register their hooks there.

    It takes a function and not the batch, because Fabric would round the batch's rewards to bf16.
    """

    def __init__(self, model: WorldModel):
        super().__init__()
        self.model = model
        for parameter in _empty(model):  # else DDP would wait for their gradients
            parameter.requires_grad_(False)

    def forward(self, losses: Callable[[WorldModel], Losses]) -> Losses:
        return losses(self.model)


@contextmanager
def launch(config: TrainConfig, staged: bool = True) -> Iterator[Fabric]:
    """A Fabric, launched: the same code runs in all of its processes.

    staged: whether there are updates that train only a part of the model.
    Raises ConfigError where the devices asked for do not exist, or a worker of this machine was killed or failed.
    """
    trainer = config.trainer
    if trainer.devices * trainer.num_nodes == 1:
        yield make_fabric(trainer, staged)
        return
    kept, threads = {name: os.environ.get(name) for name in ADDRESS}, torch.get_num_threads()
    workers = [] if _started(make_fabric(trainer, staged)) else _start(config)
    try:
        fabric = make_fabric(trainer, staged)
        if fabric.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, threads // trainer.devices))
        _report_ready()
        _wait_until_ready(workers)
        fabric.launch()
        yield fabric
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):  # `_stop` kills one that does not exit by itself
                worker.process.wait(EXIT_WAIT_S)
    except RuntimeError as error:  # gloo and NCCL only report that a connection was lost
        if killed := _killed(workers):
            raise killed from error
        raise
    finally:
        _stop(workers)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def is_first() -> bool:
    """Whether this is the only process or rank 0, by the environment variables of launchers."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def rank_shard(fabric: Fabric) -> RankShard:
    """This process's part of a batch."""
    return RankShard(fabric.global_rank, fabric.world_size)


def whole_batch(fabric: Fabric, rows: Tensor) -> Tensor:
    """All-gather: values of each process's rows (B / ranks,), in the order of the whole batch (B,)."""
    if fabric.world_size == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(fabric.world_size)]
    distributed.all_gather(parts, rows)
    whole = torch.cat(parts)
    for rank, part in enumerate(parts):
        whole[torch.from_numpy(RankShard(rank, fabric.world_size).of(len(whole))).to(whole.device)] = part
    return whole


def mean_of(fabric: Fabric, value: Tensor) -> Tensor:
    """All-reduce: the mean over the processes."""
    if fabric.world_size == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / fabric.world_size


def unsharded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, sharded ones gathered into whole ones; all processes must call this together."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}


def placed_like(own: Tensor, whole: Tensor) -> Tensor:
    """`whole` on the device of `own`, and sharded as `own` is."""
    there = whole.to(own.device)
    return distribute_tensor(there, own.device_mesh, own.placements) if isinstance(own, DTensor) else there


def make_fabric(trainer: TrainerConfig, staged: bool = True) -> Fabric:
    """A Fabric for this configuration, not launched yet. Raises ConfigError where there is no such accelerator."""
    try:
        return Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=_strategy(trainer, staged),
            precision="32-true" if trainer.precision == "auto" else trainer.precision,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        asked = f"trainer.accelerator={trainer.accelerator} trainer.devices={trainer.devices}"
        raise ConfigError(f"{asked}: {reason}") from error


def _strategy(trainer: TrainerConfig, staged: bool) -> Strategy | str:
    ranks = trainer.devices * trainer.num_nodes
    if ranks == 1:
        return "auto"
    if trainer.strategy == "fsdp":
        return ModelParallelStrategy(_sharded, data_parallel_size=ranks, tensor_parallel_size=1, timeout=TIMEOUT)
    return DDPStrategy(find_unused_parameters=staged, timeout=TIMEOUT)


def _sharded(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Parameters, gradients and optimizer state cut into one shard a process (FSDP, arXiv:2304.11277).

    The model is one unit, because its parts are called by methods of their own and not by `forward`.
    """
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=_empty(module))
    return module


def _empty(module: nn.Module) -> set[nn.Parameter]:
    """Parameters without elements, such as those for images where an observation has none."""
    return {parameter for parameter in module.parameters() if not parameter.numel()}


def _started(fabric: Fabric) -> bool:
    """Whether a launcher such as torchrun has started all processes, this one among them."""
    strategy = fabric.strategy
    assert isinstance(strategy, ParallelStrategy) and strategy.cluster_environment is not None
    return strategy.cluster_environment.creates_processes_externally


class _Worker(NamedTuple):
    """Another process of this machine."""

    process: "subprocess.Popen[str]"
    ready: int  # reading end of a pipe to which it writes a byte when it is ready; closed when it exits


def _start(config: TrainConfig) -> list[_Worker]:
    """Starts the other processes of this machine; this one is rank 0 among them."""
    trainer = config.trainer
    if trainer.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes} needs MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment of "
            "every machine; set them, or start with torchrun"
        )
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    command = [sys.executable, "-m", "worldsim.training.worker"]
    workers = []
    for rank in range(1, trainer.devices):
        ready, into = os.pipe()
        environment = {**os.environ, "LOCAL_RANK": str(rank), READY: str(into)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True, pass_fds=[into])
        os.close(into)
        workers.append(_Worker(process, ready))
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has exited already, which `_wait_until_ready` reports
            process.stdin.write(config.model_dump_json() + "\n")
            process.stdin.flush()
    os.environ["LOCAL_RANK"] = "0"
    return workers


def _report_ready() -> None:
    """Reports to the first process of this machine, if that started this one, that this is about to join the group."""
    if into := os.environ.pop(READY, None):
        os.write(int(into), b".")
        os.close(int(into))


def _wait_until_ready(workers: list[_Worker]) -> None:
    """Waits until all workers are about to join: inside the group, nothing would show that one of them has exited.

    Raises ConfigError for one that has.
    """
    for rank, (process, ready) in enumerate(workers, 1):
        if os.read(ready, 1):
            continue
        if process.wait() < 0:
            raise _was_killed(rank, process)
        raise ConfigError(
            f"process {rank} of the run exited before training (exit code {process.returncode}); see its messages "
            "above, or give trainer.devices=1 to see what goes wrong"
        )


def _killed(workers: list[_Worker]) -> ConfigError | None:
    """The error to raise where a signal has killed one of the workers; None where none was killed."""
    for rank, (process, _) in enumerate(workers, 1):
        with suppress(subprocess.TimeoutExpired):
            if process.wait(1) < 0:
                return _was_killed(rank, process)
    return None


def _was_killed(rank: int, process: "subprocess.Popen[str]") -> ConfigError:
    return ConfigError(
        f"process {rank} of the run was killed (signal {-process.returncode}), as happens where memory runs out; the "
        "same command continues from the last saved state"
    )


def _stop(workers: list[_Worker]) -> None:
    for process, ready in workers:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it exited before it had read everything
            process.stdin.close()  # a worker exits at the end of its standard input
        try:
            process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ready)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
