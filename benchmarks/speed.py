"""How fast a world model is, by itself: updates, latent steps, decoded frames, steps of the environments.

python benchmarks/speed.py                       # two minutes on two cores; every family at its default size
python benchmarks/speed.py model=ssm model.width=384 device=cuda batches=[1,64,1024]

64x64x3 frames and 17 actions, fresh weights: speed does not depend on what was learned. An update is forward, backward
and AdamW of all parts, B=16, T=64. Medians of rounds that are interleaved, after a warm-up.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import worldsim
from worldsim.models.checkpoint import FORMAT, WorldManifest
from worldsim.models.config import AnyModelConfig, RSSMConfig, SSMConfig
from worldsim.models.world_model import Batch, WorldModel
from worldsim.simulator import WorldVectorEnv
from worldsim.simulator.world import World
from worldsim.spaces import space_to_json
from worldsim.training.memory import keep_freed_memory

FRAMES = spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTIONS = spaces.Discrete(17)
B, T, ROUNDS = 16, 64, 5


def main(arguments: list[str]) -> None:
    """Prints a table for each model named in the arguments, or for all families."""
    given = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    assert isinstance(given, dict)
    device, batches = torch.device(given.pop("device", "cpu")), given.pop("batches", [1, 64, 1024])
    model: Any = given.pop("model", None)
    if given:
        sys.exit(f"benchmarks/speed.py has no key '{next(iter(given))}'; it takes model, model.<key>, device, batches")
    if model is None:
        configs: list[Any] = [SSMConfig(), RSSMConfig()]
    else:
        described = {"family": model} if isinstance(model, str) else {"family": "ssm", **model}
        configs = [TypeAdapter(AnyModelConfig).validate_python(described)]
    keep_freed_memory()
    Console().print(f"{machine(device)}; torch {torch.__version__}, worldsim {worldsim.__version__}, seed 0")
    for config in configs:
        report(config, device, batches)


def report(config: Any, device: torch.device, batches: list[int]) -> None:
    """One model's tables."""
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
    table = Table(title=f"{config.family}: {parameters / 1e6:.2f} M parameters", title_justify="left")
    for heading in ("what", "per second", "ms"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    runs: dict[str, tuple[int, Callable[[], Any]]] = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        runs[f"update, frames, {name}"] = (B * T, update(model, device, kind, "all"))
    if model.dynamics.separable:
        for part in ("codec", "rest"):
            runs[f"update of {part} alone, frames, bf16"] = (B * T, update(model, device, torch.bfloat16, part))
    start = {"value": torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, device=device)}
    world = World(manifest, model, start)
    for batch in batches:
        runs[f"latent steps, B={batch}"] = (batch, stepping(world, batch, "latent"))
        runs[f"decoded frames, B={batch}"] = (batch, stepping(world, batch, "frame"))
        runs[f"environment steps, N={batch}"] = (batch, environment(world, batch))
    for what, (count, seconds) in measured(runs, device).items():
        table.add_row(what, f"{count / seconds:,.0f}", f"{seconds * 1e3:.2f}")
    Console().print(table)
    forward = flops(stepping(world, 1, "frame"))
    matrix = matrix_rate(device)
    Console().print(
        f"a decoded step: {forward / 1e6:.1f} MFLOP; weights {parameters * 4 / 1e6:.1f} MB in fp32, read once a step; "
        f"matrix product of this machine: {matrix / 1e9:.0f} GFLOP/s in fp32\n"
    )


def update(model: WorldModel, device: torch.device, kind: torch.dtype, part: Any) -> Callable[[], None]:
    """An update of the model on one batch, as the training loop does it."""
    rng = np.random.default_rng(0)
    frames = {"value": rng.integers(0, 256, (B, T, 64, 64, 3), np.uint8)}
    arrays = {"observation": frames, "action": {"value": rng.integers(0, 17, (B, T, 1))}}
    arrays |= {"reward": np.zeros((B, T), np.float32), "terminated": np.zeros((B, T), bool)}
    arrays["first"] = np.broadcast_to(np.arange(T) == 0, (B, T)).copy()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    generator = torch.Generator(device).manual_seed(0)

    def run() -> None:
        model.train()
        batch = Batch.from_numpy(arrays, device)
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            losses = model.losses(batch, generator, part)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def stepping(world: World, batch: int, observe: Any) -> Callable[[], None]:
    """A step of `batch` worlds, each from where the last one ended."""
    state = world.start(batch, seed=0)
    actions = {"value": np.random.default_rng(0).integers(0, 17, (batch, 1))}

    def run() -> None:
        nonlocal state
        world.model.eval()
        state, _ = world.step(state, actions, observe)

    return run


def environment(world: World, count: int) -> Callable[[], None]:
    """A step of the Gymnasium vector environment."""
    env = WorldVectorEnv(world, count)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 17, count)
    return lambda: (world.model.eval(), env.step(actions), None)[-1]


def measured(runs: dict[str, tuple[int, Callable[[], Any]]], device: torch.device) -> dict[str, tuple[int, float]]:
    """Count and median seconds of each run, in interleaved rounds; short runs are repeated within a round."""
    times: dict[str, list[float]] = {what: [] for what in runs}
    repeats = {what: max(1, round(0.2 / seconds(run, 1, device))) for what, (_, run) in runs.items() if not run()}
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


def matrix_rate(device: torch.device, size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product in fp32."""
    a = torch.randn(size, size, device=device)
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
