"""How fast a world model is, by itself: updates, latent steps, decoded frames, steps of the environments.

python benchmarks/speed.py                       # five minutes on two cores; every family at its default size
python benchmarks/speed.py model=nine            # `ssm` with nine million parameters, as others have
python benchmarks/speed.py model=ssm model.width=384 device=cuda batches=[1,64,1024] fused=true
python benchmarks/speed.py model=nine precision=bf16-mixed

64x64x3 frames and 17 actions, fresh weights: speed does not depend on what was learned. An update is forward, backward
and AdamW of each of the family's stages, B=16, T=64; on CUDA also recorded as one graph, as training does it there.
Medians of rounds that are interleaved, after a warm-up. fused=true adds steps that `torch.compile` has fused, after a
minute or two of compiling for each batch size, precision=bf16-mixed steps with products in bf16, both together both.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import worldsim
from worldsim.models.checkpoint import FORMAT, WorldManifest
from worldsim.models.config import AnyModelConfig, DiffusionConfig, Precision, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.world_model import Batch, Losses, Stage, WorldModel
from worldsim.simulator import WorldVectorEnv
from worldsim.simulator.world import World
from worldsim.spaces import space_to_json
from worldsim.training.captured import Captured, CaptureGraph, as_cuda_graph
from worldsim.training.memory import keep_freed_memory

FRAMES = spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTIONS = spaces.Discrete(17)
B, T, ROUNDS = 16, 64, 5
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # what products are computed in


NINE = SSMConfig(local=True, patch=16, hidden=232, embed=256, variables=16, code_width=24, width=192, head_hidden=96)


def main(arguments: list[str]) -> None:
    """Prints a table for each model named in the arguments, or for all families."""
    given = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    assert isinstance(given, dict)
    device, batches = torch.device(given.pop("device", "cpu")), given.pop("batches", [1, 64, 1024])
    model, fused, precision = given.pop("model", None), given.pop("fused", False), given.pop("precision", "32-true")
    if given:
        known = "model, model.<key>, device, batches, fused, precision"
        sys.exit(f"benchmarks/speed.py has no key '{next(iter(given))}'; it takes {known}")
    keep_freed_memory()
    Console().print(f"{machine(device)}; torch {torch.__version__}, worldsim {worldsim.__version__}, seed 0")
    for config in described(model):
        report(config, device, batches, fused, precision)


def described(model: Any) -> list[Any]:
    """What to measure: all families, or the model that the arguments describe."""
    if model is None:
        return [SSMConfig(), TransformerConfig(), RSSMConfig(), DiffusionConfig()]
    if model == "nine":
        return [NINE]
    keys = {"family": model} if isinstance(model, str) else {"family": "ssm", **model}
    return [TypeAdapter(AnyModelConfig).validate_python(keys)]


def report(config: Any, device: torch.device, batches: list[int], fused: bool, precision: Precision) -> None:
    """One model's table."""
    manifest = WorldManifest(
        format=FORMAT,
        worldsim=worldsim.__version__,
        model=config,
        observation_space=space_to_json(FRAMES),
        action_space=space_to_json(ACTIONS),
        reward_range=(0.0, 1.0),
        horizon=10**6,
        metadata={},
        env={},
        data={},
        training={},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = manifest.build().to(device)
    model.termination.net[-1].bias.data.fill_(-20)  # no episode ends while its steps are counted
    parameters = sum(parameter.numel() for parameter in model.parameters())
    runs: dict[str, tuple[int, Callable[[], Any]]] = {}
    records = {"": None} | ({"recorded ": as_cuda_graph} if device.type == "cuda" else {})
    for (how, record), (name, dtype) in product(records.items(), TYPES.items()):
        for stage in model.stages:
            run = update(model, device, dtype, stage, record)
            runs[f"{how}update, stage {stage.name}, frames, {name}"] = (B * T, run)
    start = {"value": torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, device=device)}
    precisions: dict[str, Precision] = {"": "32-true"} | ({} if precision == "32-true" else {"bf16 ": precision})
    for fusing, short in product(("", "fused ") if fused else ("",), precisions):
        world, how = World(manifest, model, start, fused=bool(fusing), precision=precisions[short]), fusing + short
        for batch in batches:
            runs[f"{how}latent steps, B={batch}"] = (batch, stepping(world, batch, "latent"))
            runs[f"{how}decoded frames, B={batch}"] = (batch, stepping(world, batch, "frame"))
            runs[f"{how}environment steps, N={batch}"] = (batch, environment(world, batch))
    costs = {what: flops(run) / count for what, (count, run) in runs.items() if not what.startswith("fused")}
    rates = {name: matrix_rate(device, dtype) for name, dtype in TYPES.items()}
    table = Table(title=f"{config.family}: {parameters / 1e6:.2f} M parameters", title_justify="left")
    for heading in ("what", "per second", "ms", "MFLOP each", "of matrix rate"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what, (count, seconds) in measured(runs, device).items():
        cost = costs[what.removeprefix("fused ")]
        share = f"{cost * count / seconds / rates['bf16' if 'bf16' in what else 'fp32']:.0%}"
        table.add_row(what, f"{count / seconds:,.0f}", f"{seconds * 1e3:.2f}", f"{cost / 1e6:.1f}", share)
    Console().print(table)
    state = world.start(1).latent.values()
    Console().print(
        f"a frame is {64 * 64 * 3:,} bytes and the state of a world {sum(part.nbytes for part in state):,}; weights "
        f"{parameters * 4 / 1e6:.1f} MB in fp32; matrix rate of this machine: "
        f"{', '.join(f'{rate / 1e9:,.0f} GFLOP/s in {name}' for name, rate in rates.items())}\n"
    )


def update(
    model: WorldModel, device: torch.device, kind: torch.dtype, stage: Stage, record: CaptureGraph | None = None
) -> Callable[[], Losses]:
    """An update of the model in a stage on one batch, as the training loop does it, recorded or not."""
    rng = np.random.default_rng(0)
    frames = {"value": rng.integers(0, 256, (B, T, 64, 64, 3), np.uint8)}
    arrays = {"observation": frames, "action": {"value": rng.integers(0, 17, (B, T, 1))}}
    arrays |= {"reward": np.zeros((B, T), np.float32), "terminated": np.zeros((B, T), bool)}
    arrays["first"] = np.broadcast_to(np.arange(T) == 0, (B, T)).copy()
    batch = Batch.from_numpy(arrays).each(Tensor.pin_memory if device.type == "cuda" else Tensor.clone)
    rate, recorded = torch.full((), 1e-5, device=device), record is not None
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True, capturable=recorded)
    generator = torch.Generator(device).manual_seed(0)

    def learn(batch: Batch) -> Losses:
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            losses = model.losses(batch, generator, stage)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses.each(Tensor.detach)

    updating = learn if record is None else Captured(learn, generator, record)
    return lambda: updating(batch.each(lambda value: value.to(device, non_blocking=True)))


def stepping(world: World, batch: int, observe: Any) -> Callable[[], None]:
    """A step of `batch` worlds, each from where the last one ended."""
    state = world.start(batch, seed=0)
    actions = {"value": np.random.default_rng(0).integers(0, 17, (batch, 1))}

    def run() -> None:
        nonlocal state
        state, _ = world.step(state, actions, observe)

    return run


def environment(world: World, count: int) -> Callable[[], None]:
    """A step of the Gymnasium vector environment."""
    env = WorldVectorEnv(world, count)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 17, count)
    return lambda: env.step(actions)


def measured(runs: dict[str, tuple[int, Callable[[], Any]]], device: torch.device) -> dict[str, tuple[int, float]]:
    """Count and median seconds of each run, in interleaved rounds; short runs are repeated within a round."""
    times: dict[str, list[float]] = {what: [] for what in runs}
    for _, run in runs.values():
        run()
    repeats = {what: max(1, round(0.2 / seconds(run, 1, device))) for what, (_, run) in runs.items()}
    for _ in range(ROUNDS):
        for what, (_, run) in runs.items():
            times[what].append(seconds(run, repeats[what], device))
    return {what: (count, statistics.median(times[what])) for what, (count, _) in runs.items()}


def seconds(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds of one run."""
    wait(device)
    begun = time.perf_counter()
    for _ in range(repeats):
        run()
    wait(device)
    return (time.perf_counter() - begun) / repeats


def flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products of a run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(2):
        a @ a
    return 2 * size**3 / statistics.median(seconds(lambda: a @ a, 1, device) for _ in range(5))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main(sys.argv[1:])
