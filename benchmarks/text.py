"""Speed and memory of models with a text leaf: updates, latent steps and decoded steps.

python benchmarks/text.py                        # all families, a text of 500 characters; two minutes on two cores
python benchmarks/text.py length=60 family=rssm

An observation is a text of printable ASCII of up to `length` characters, a quarter to all of them used, beside a class
of four; the model is each family's default. An update is forward, backward and AdamW in fp32 on what the default
trainer takes at once: B=4 sequences of T=32 rows, or 64 rows for the codec alone. One thread; medians of its processor
time, which others on the machine change little, after a warm-up. Memory is the process's highest so far.
"""

import resource
import statistics
import string
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

import worldsim
from benchmarks.speed import machine
from worldsim.models.config import AnyModelConfig
from worldsim.models.world_model import Batch, Stage
from worldsim.spaces import flatten_batch

CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
B, T, ROWS = 4, 32, 64
FAMILIES = ("ssm", "transformer", "rssm")
BUDGET_S = 10.0  # for the runs of one figure, after the first


def main(arguments: list[str]) -> None:
    """Prints a table with a row for each family and measurement."""
    torch.set_num_threads(1)
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    length, families = given.pop("length", 500), given.pop("family", FAMILIES)
    if given:
        sys.exit(f"benchmarks/text.py has no key '{next(iter(given))}'; it takes length and family")
    about = f"{machine(torch.device('cpu'))}; torch {torch.__version__}, worldsim {worldsim.__version__}, seed 0"
    table = Table("family", "what", title=f"a text of {length} characters: {about}", title_justify="left")
    for heading in ("ms", "a second", "parameters", "memory, GB"):
        table.add_column(heading, justify="right")
    for family in (families,) if isinstance(families, str) else families:
        report(family, length, table)
    Console(width=120).print(table)


def report(family: str, length: int, table: Table) -> None:
    """Adds the rows of one family."""
    space = spaces.Dict(text=spaces.Text(length, charset=CHARACTERS), state=spaces.Discrete(4))
    config = TypeAdapter(AnyModelConfig).validate_python({"family": family})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = config.build(space, spaces.Discrete(4), (0.0, 1.0))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def update(batch: Batch, stage: Stage) -> Callable[[], None]:
        def run() -> None:
            model.losses(batch, generator, stage).total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    batch = rows(space, B, T, length)
    frames = rows(space, ROWS, 1, length)
    runs = {f"update of {s.name}": update(frames if s.frames else batch, s) for s in model.stages}
    with torch.no_grad():
        state = model.observe(batch.observation, batch.action, batch.first).state
    action = {"value": batch.action["value"][:, 0]}

    @torch.inference_mode()
    def step(decoded: bool) -> None:
        following, _ = model.step(state, action, torch.rand(B, model.noise_size, generator=generator))
        if decoded:
            model.decode(following)

    runs |= {f"latent step, B={B}": lambda: step(False), f"decoded step, B={B}": lambda: step(True)}
    for what, run in runs.items():
        took = seconds(run)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        table.add_row(family, what, f"{took * 1e3:.1f}", f"{1 / took:.2f}", f"{parameters / 1e6:.2f} M", f"{peak:.1f}")


def rows(space: spaces.Dict, batch: int, length: int, most: int) -> Batch:
    """Sequences of random texts."""
    rng = np.random.default_rng(0)
    counts = rng.integers(most // 4, most + 1, batch * length)
    texts = ["".join(rng.choice(list(CHARACTERS), count)) for count in counts]
    flat = flatten_batch(space, {"text": texts, "state": rng.integers(0, 4, batch * length)})
    observation = {name: value.reshape(batch, length, *value.shape[1:]) for name, value in flat.items()}
    first = np.broadcast_to(np.arange(length) == 0, (batch, length)).copy()
    arrays = {"observation": observation, "action": {"value": rng.integers(0, 4, (batch, length, 1))}, "first": first}
    reward, terminated = np.zeros((batch, length), np.float32), np.zeros((batch, length), bool)
    return Batch.from_numpy({**arrays, "reward": reward, "terminated": terminated})


def seconds(run: Callable[[], None]) -> float:
    """Median processor seconds of a run."""
    times: list[float] = []
    run()
    while len(times) < 3 or (sum(times) < BUDGET_S and len(times) < 20):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    main(sys.argv[1:])
