"""The stress test: agents × faults × severities on paired seeds, in the real environment and in the World.

`stress` fills a matrix of results, cell by cell. `StressTest.results` loads a cell that was finished before, or runs
it; `StressTest.run` runs its episodes, one after another in the real environment, in batches in the World;
`runs.run_episode` runs one episode. A cell is one agent under one fault at one severity, in the real environment or in
the World, and all cells have the same seeds.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import copy
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from pydantic import Field

from worldsim.agents import Agent, make_agent
from worldsim.devices import Device, device_of
from worldsim.envs.make import EnvConfig, env_modules, make_env
from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.evaluation.cells import (
    CLEAN,
    Cell,
    CellStore,
    Where,
    agent_digest,
    all_cells,
    code_digest,
    files_digest,
)
from worldsim.evaluation.lockstep import Advance, LockstepEnv, in_lockstep
from worldsim.evaluation.report import PAGE, REPORT, Replays, Report, assemble, is_report
from worldsim.evaluation.runs import (
    DEFAULT_MAX_STEPS,
    Episode,
    EpisodeResult,
    SuccessCriteria,
    first_observations,
    run_episode,
)
from worldsim.evaluation.summary import ResultsByCell
from worldsim.evaluation.worst import Worst, pick_worst
from worldsim.faults import Plan
from worldsim.faults.trees import leaves_of
from worldsim.files import alone_in, refuse_foreign, write_atomically
from worldsim.rollouts.progress import Bar
from worldsim.settings import LoggerConfig, Seed, Settings, StepCount
from worldsim.simulator.calibration import certificate_of
from worldsim.sources import files_named, sources
from worldsim.wrappers import InjectFaults
from worldsim.wrappers.tools import action_tools

if TYPE_CHECKING:
    from worldsim.simulator.world import World

WORLD_FILES = ("world.json", "calibration.json")
BATCH = 32  # episodes of a World that are stepped as one batch


class StressConfig(Settings):
    """The stress test: agents × faults × severities, on the same seeds."""

    env: EnvConfig = Field(description="the real environment")
    world: Path | None = Field(
        None, description="folder of the World learned from that environment; needed where `where` has world"
    )
    agents: list[str] | None = Field(
        None,
        description="the agents to test: names of the env's agents, random, sticky, pkg.module:factory, or Stable-"
        "Baselines3 files, path/to/agent.zip, with VecNormalize statistics beside them, "
        "path/to/agent_vecnormalize.pkl; null: all that the env's configuration names, and random",
    )
    faults: list[str] = Field(
        ["slow_api", "malformed_output", "missing_data"],
        description="fault plans, by name or file (plan.yaml); each is tested by itself",
    )
    severities: list[float] = Field(
        [0.5], description="severities of the faults, in [0, 1]; every agent is tested without faults, too"
    )
    episodes: int = Field(
        32, ge=1, le=100_000, description="episodes of each agent under each condition; below 20 the intervals are wide"
    )
    seed: Seed = Field(0, description="of everything: same seed and settings, same report")
    where: list[Where] = Field(
        ["real", "world"],
        min_length=1,
        description="real: the environment itself; world: the learned one",
    )
    starts: Literal["real", "recorded"] = Field(
        "real",
        description="first observations in the World. real: those of the real environment with the same seed, so that "
        "episodes are paired; recorded: those that are stored with the World",
    )
    max_steps: StepCount | None = Field(
        None,
        description="truncate episodes after so many steps, real and in the World. A step is a call of the agent, also "
        "one that a fault refuses. null: env.max_episode_steps, else the environment's own limit, else 10000",
    )
    confidence: float = Field(
        0.95, gt=0, lt=1, description="level of the intervals, without correction for multiple comparisons"
    )
    worst: int = Field(
        4, ge=0, le=100, description="number of animations in the report: the episodes in which a fault cost the most"
    )
    trace: bool = Field(False, description="true: keep every step of every episode as JSON lines in out/traces")
    fresh: bool = Field(
        False,
        description="true: run finished conditions again (they always are after changes of code, world, agents or "
        "settings)",
    )
    device: Device = Field("auto", description="where the world runs; auto: a GPU where torch sees one")
    logger: LoggerConfig = Field(LoggerConfig(), description="Weights & Biases: the results and the verdict")
    out: Path = Field(Path("runs/stress"), description="folder of the report")

    def agent_specs(self) -> list[str]:
        """`agents`, or else all that the environment's configuration names and `random` for comparison."""
        if self.agents is not None:
            return self.agents
        known = list(self.env.agents)
        return known if "random" in known else ["random", *(known or ["sticky"])]

    def seeds(self) -> list[int]:
        """Seeds of the episodes, from another stream than those of `collect`; more episodes keep the first ones."""
        return [int(s) & 0x7FFFFFFF for s in np.random.SeedSequence([self.seed, 2]).generate_state(self.episodes)]

    def plans(self) -> dict[str, Plan]:
        """The plans of `faults` by their own names. Raises ConfigError for one that does not exist or is wrong."""
        return {plan.name: plan for plan in map(Plan.load, self.faults)}

    def check(self) -> None:
        """Raises ConfigError, in one line, for values that do not fit together."""
        for key in ("agents", "faults", "severities", "where"):
            values = getattr(self, key) or []
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}={values} has one entry twice; give each once")
        if not self.agent_specs():
            raise ConfigError("agents=[] has no agent to test; name one, e.g. agents=[random]")
        if "world" in self.where and self.world is None:
            raise ConfigError(
                "world is not set; give its folder, world=runs/quickstart/world, or leave it out: where=[real]"
            )
        plans = self.plans()
        if CLEAN in plans:
            raise ConfigError(
                f"faults={self.faults} has a plan with the name '{CLEAN}', which stands for runs without faults; "
                "change its name in the file, name: ..."
            )
        if len(plans) < len(self.faults):
            raise ConfigError(f"faults={self.faults} are plans of which two have the same name; rename one")
        for plan in plans.values():
            for severity in self.severities:
                plan.at(severity)


def stress(config: StressConfig, progress: bool = True) -> Report:
    """Runs the stress test, writes report.json and report.html to `config.out`, and returns the report.

    Cells that an interrupted run of the same configuration has finished are not run again. Equal configurations give
    equal reports, byte for byte.

    Raises a WorldsimError for an unknown fault, agent or environment, a world with other spaces, and files in
    `config.out` that worldsim did not write.
    """
    test = StressTest(config)
    test.preflight()
    with alone_in(config.out, "cells", "traces"):
        if not test.store.has_any() and not is_report(config.out / REPORT):
            refuse_foreign((config.out / name for name in (REPORT, PAGE)), "stress")
        return _run_all(test, progress)


def _run_all(test: "StressTest", progress: bool) -> Report:
    """Runs all cells, and the worst episodes again with frames; writes and returns the report."""
    outcomes: dict[Cell, list[EpisodeResult]] = {}
    total, done = len(test.cells) * len(test.seeds), count(1)
    with one_thread(), Bar("stress", total, progress) as bar:

        def advance(cell: Cell) -> None:
            bar.at(next(done), str(cell))

        bar.at(0)
        for cell in test.cells:
            outcomes[cell] = test.results(cell, partial(advance, cell))
        bar.at(total, "filming the worst episodes")
        worst = pick_worst(outcomes, test.config.worst)
        replays = {(cell, each.seed): test.replay(cell, each.seed) for each in worst for cell in each.cells}
    report = _report(test, outcomes, worst, replays)
    report.write(test.config.out)
    return report


class StressTest:
    """One stress test: its cells, how they are run, and where results are stored.

    Raises ConfigError for inconsistent values.
    """

    def __init__(self, config: StressConfig) -> None:
        config.check()
        self.config = config
        self.seeds = config.seeds()
        self.criteria = SuccessCriteria(config.env.success_return, config.env.violation_reward)
        self.store = CellStore(config.out / "cells")
        self.plans = config.plans()
        self.cells = all_cells(config.agent_specs(), list(self.plans), config.severities, config.where)
        self.idle: dict[str, list[str]] = {}  # plans that can have no effect here, by name, with the reasons
        self._loaded: dict[str, Agent] = {}

    def preflight(self) -> None:
        """Makes every agent and every plan once, so that a wrong name is reported before anything runs.

        Sets `idle`. Raises a WorldsimError for an agent, a plan or an environment that does not exist or does not fit.
        """
        env = make_env(self.config.env)
        for plan in self.plans.values():
            InjectFaults(env, plan)
        self.idle = self._idle_in(env)
        for spec in self.config.agent_specs():
            self.make_agent(spec, env)
        env.close()

    def results(self, cell: Cell, on_episode: Callable[[], None]) -> list[EpisodeResult]:
        """The results of a cell: loaded if it was finished before, else run and stored."""
        path = self.store.path(cell, self.cache_key(cell))
        trace = self.config.out / "traces" / path.with_suffix(".jsonl").name
        # Without its trace a finished cell is run again where traces are asked for.
        reuse = not self.config.fresh and (trace.is_file() or not self.config.trace)
        found = self.store.load(path) if reuse else None
        if found is not None:
            for _ in found:
                on_episode()
            return found
        episodes = self.run(cell, on_episode=on_episode)
        if self.config.trace:
            write_atomically(trace, "".join(_trace_lines(episodes)))
        results = [episode.result for episode in episodes]
        self.store.save(path, cell, results)
        return results

    def replay(self, cell: Cell, seed: int) -> Episode:
        """Runs one of the cell's episodes again, with frames."""
        return next(episode for episode in self.run(cell, film=seed) if episode.result.seed == seed)

    def run(self, cell: Cell, film: int | None = None, on_episode: Callable[[], None] = lambda: None) -> list[Episode]:
        """Runs the cell's episodes, in the order of the seeds; `on_episode` is called after each.

        film: a seed whose episode keeps frames; only the batch that contains it is run.
        """
        run_episodes = partial(self._run_episodes, cell, film, on_episode)
        if cell.where == "real":
            return run_episodes(self.seeds if film is None else [film], None)
        batches = [self.seeds[begin : begin + BATCH] for begin in range(0, len(self.seeds), BATCH)]
        # The whole batch is run again, because rounding in the network may depend on the size of the batch.
        batches = [batch for batch in batches if film is None or film in batch]
        finished = [in_lockstep(self.world, [partial(run_episodes, [seed]) for seed in batch]) for batch in batches]
        return [episode for batch in finished for episodes in batch for episode in episodes]

    def _run_episodes(
        self,
        cell: Cell,
        film: int | None,
        on_episode: Callable[[], None],
        seeds: Sequence[int],
        step: Advance | None,
    ) -> list[Episode]:
        """Runs one episode for each seed, one after another, with one agent in one environment."""
        starts = self.starts if cell.where == "world" else None
        with closing(self.make_env(cell, step)) as env:
            agent, episodes = self.make_agent(cell.agent, env), list[Episode]()
            for seed in seeds:
                start = None if starts is None else starts[seed]
                limit, kept = self.max_steps or DEFAULT_MAX_STEPS, {"trace": self.config.trace, "frames": seed == film}
                episodes.append(run_episode(agent, env, seed, self.criteria, limit, start, **kept))
                on_episode()
            return episodes

    def make_env(self, cell: Cell, step: Advance | None = None) -> gym.Env[Any, Any]:
        """The cell's environment, wrapped in its faults. step: function that steps the World; None: `World.step`."""
        if cell.where == "real":
            env: gym.Env[Any, Any] = make_env(self.config.env)
        else:
            horizon = self.config.max_steps or self.config.env.max_episode_steps
            env = LockstepEnv(self.world, step or self.world.step, horizon)
        plan = Plan(faults=[]) if cell.fault == CLEAN else self.plans[cell.fault].at(cell.severity)
        return InjectFaults(
            env, plan, seed=self.config.seed
        )  # also without faults, because it gives agents `info["reply"]`

    def make_agent(self, spec: str, env: gym.Env[Any, Any]) -> Agent:
        """A new agent by its name. Raises ConfigError where there is none."""
        known = self.config.env.agents
        if not known.get(spec, spec).endswith(".zip"):
            return make_agent(spec, env.observation_space, env.action_space, known)
        if spec not in self._loaded:  # a file is read once; copies share the network and have their own generators
            self._loaded[spec] = make_agent(spec, env.observation_space, env.action_space, known)
        return copy(self._loaded[spec])

    @cached_property
    def world(self) -> "World":
        """The learned world. Raises SpaceMismatchError where its spaces are not those of the environment."""
        from worldsim.rollouts.mix import difference
        from worldsim.simulator.world import load

        assert self.config.world is not None, "checked with the configuration"
        world = load(self.config.world, self.config.device)
        env = make_env(self.config.env)
        if (world.observation_space, world.action_space) != (env.observation_space, env.action_space):
            raise SpaceMismatchError(
                f"the world in {self.config.world} was not learned from {self.config.env.id} as configured: "
                f"{difference(world, env)}; give the env that it was learned from, with its env.resize and env.kwargs"
            )
        env.close()
        return world

    @cached_property
    def starts(self) -> dict[int, Any] | None:
        """First observation in the World for each seed; None: those stored with it."""
        if self.config.starts == "recorded":
            return None
        with closing(make_env(self.config.env)) as env:
            return first_observations(env, self.seeds)

    @cached_property
    def max_steps(self) -> int | None:
        """Most steps in an episode, that is calls of the agent, executed or refused; None where no limit is set."""
        if self.config.max_steps is not None:
            return self.config.max_steps
        env = make_env(self.config.env)
        env.close()
        return None if env.spec is None else env.spec.max_episode_steps

    def definition(self) -> str:
        """Everything that the results of all cells depend on, as JSON."""
        return json.dumps([[cell, self.cache_key(cell)] for cell in self.cells], sort_keys=True)

    def cache_key(self, cell: Cell) -> dict[str, Any]:
        """Everything that a cell's results depend on: after any change, stored results are not used."""
        config = self.config
        in_world, plan = cell.where == "world", self.plans.get(cell.fault)
        return {
            "code": code_digest(),
            "env": config.env.model_dump(mode="json"),
            "env_made_of": self.env_fingerprint,
            "agent": agent_digest(cell.agent, config.env.agents),
            "faults": plan and plan.at(cell.severity).model_dump(mode="json"),
            "faults_made_of": plan and sources(type(fault).__module__ for fault in plan.faults).as_json(),
            "seeds": self.seeds,
            "fault_seed": config.seed,
            "max_calls": self.max_steps,
            "world": self.world_digest if in_world else None,
            "starts": config.starts if in_world else None,
            "device": device_of(config.device).type if in_world else None,  # because rounding differs
        }

    @cached_property
    def env_fingerprint(self) -> dict[str, Any]:
        """Hashes of the environment's code and of files that its arguments name, and versions of packages."""
        return {**sources(env_modules(self.config.env)).as_json(), "files": files_named(self.config.env.kwargs)}

    @cached_property
    def world_digest(self) -> str | None:
        """SHA-256 of the world's manifest, which holds hashes of weights and starts, and of its calibration."""
        folder = self.config.world
        if "world" not in self.config.where or folder is None:
            return None
        return files_digest([folder / name for name in WORLD_FILES if (folder / name).is_file()], folder)

    def _idle_in(self, env: gym.Env[Any, Any]) -> dict[str, list[str]]:
        """The plans none of whose faults can have an effect, at any severity above 0, with the reasons."""
        tools, leaves = action_tools(env.metadata, env.action_space).names, leaves_of(env.observation_space)
        observed = None if isinstance(env.observation_space, gym.spaces.Text) else leaves
        severities = [severity for severity in self.config.severities if severity]
        found = {}
        for name, plan in self.plans.items():
            reasons = [plan.at(severity).idle_reasons(tools, observed) for severity in severities]
            if reasons and all(len(each) == len(plan.faults) for each in reasons):
                found[name] = reasons[-1]
        return found


def _report(test: StressTest, outcomes: ResultsByCell, worst: Sequence[Worst], replays: Replays) -> Report:
    config = test.config
    # Without paths, so that the report does not depend on the folders of world and report.
    shown = config.model_dump(mode="json", exclude={"out", "world", "fresh", "trace", "device", "logger"}) | {
        "agents": config.agent_specs(),
        "faults": list(test.plans),
    }
    world = None
    if test.world_digest is not None:
        world = {"name": config.world.name if config.world else "", "sha256": test.world_digest}
        world["device"] = device_of(config.device).type
    data = assemble(outcomes, shown, test.seeds, world, worst, replays, test.idle, _endless(test, outcomes))
    certificate = certificate_of(config.world) if config.world else None
    return Report(data, replays, certificate, _action_names(config.env), test.plans)


def _endless(test: StressTest, outcomes: ResultsByCell) -> list[dict[str, Any]]:
    """The cells in which episodes were cut at DEFAULT_MAX_STEPS because no limit is set, with their number."""
    if test.max_steps is not None:
        return []
    cut = {
        cell: sum(e.truncated and e.steps >= DEFAULT_MAX_STEPS for e in episodes) for cell, episodes in outcomes.items()
    }
    return [{**cell._asdict(), "episodes": count, "calls": DEFAULT_MAX_STEPS} for cell, count in cut.items() if count]


def _action_names(config: EnvConfig) -> list[str] | None:
    """Names of the actions, from the environment's metadata or, as in Atari, `get_action_meanings`."""
    env = make_env(config)
    meanings = getattr(env.unwrapped, "get_action_meanings", list)
    names = list(env.metadata.get("action_names", ())) or list(meanings())
    env.close()
    return [str(name) for name in names] or None


def _trace_lines(episodes: Sequence[Episode]) -> Iterator[str]:
    for episode in episodes:
        for row in episode.trace:
            yield json.dumps({"seed": episode.result.seed, **row}, default=_to_plain) + "\n"


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sets torch to one thread, which is faster for small networks and always rounds alike."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
