"""Collect rollouts from any Gymnasium environment. The same settings give the same data, however it is run.

Episode k is reset with a seed made of (seed, k) and so is its policy: what is recorded depends neither on the number of
environments or processes nor on interruptions. Kept are the first episodes that hold the requested steps together.
"""

import errno
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from worldsim.agents import make_policy, modules_of
from worldsim.envs.make import EnvConfig, env_modules, make_env, make_vec
from worldsim.errors import ConfigError, DatasetError, MissingExtraError, UnknownEnvError
from worldsim.files import alone_in, hashes_of
from worldsim.rollouts import provenance
from worldsim.rollouts.conventions import ArrayKeys
from worldsim.rollouts.dataset import MINARI, PROVENANCE, Rollouts
from worldsim.rollouts.import_arrays import ArrayImport, sizes_of
from worldsim.rollouts.progress import Bar, say
from worldsim.rollouts.recorder import Recorder
from worldsim.rollouts.recording import EpisodeFiles
from worldsim.rollouts.writing import write_data_set
from worldsim.settings import MOST_ENVS, Envs, Policy, Seed, Settings, StepCount
from worldsim.sources import own_code

SETTINGS = "collecting.json"  # settings of an unfinished collection
PARTS = "parts"
CODE = "code"  # key of the hashes from `_own_code`
SOURCE = "source"  # key of the files from `sizes_of`
WORKER_TRACEBACKS = (
    r"(?s).*ERROR: (Received the following error|Traceback.*worldsim\.errors|Raising the last exception)"
)
MOST_PROCESSES = 128
NOT_IN_THE_DATA = {"requires", "agents", "policy", "epsilon", "success_return", "violation_reward"}  # keys of EnvConfig


class CollectConfig(Settings):
    """What to collect, and where to. `num_envs` and `workers` change only the speed, never the data."""

    env: EnvConfig = Field(description="the environment to record")
    arrays: Path | None = Field(
        None,
        description="import plain arrays instead of recording: a .npz, .npy or HDF5 file, or a folder of them, with "
        "observations, actions, rewards and ends of episodes as in D4RL, DreamerV3, robomimic and replay buffers; "
        "steps, policy and seed are then ignored",
    )
    spaces: Literal["arrays", "env"] = Field(
        "arrays",
        description="of imported arrays. arrays: inferred; env: those of env=, which they must fit, as stress needs",
    )
    keys: ArrayKeys = Field(ArrayKeys(), description="names of imported arrays that are not recognised")
    steps: StepCount = Field(20_000, description="environment steps to record, at least; the last episode is completed")
    policy: Policy | None = Field(
        None,
        description="the acting agent: its name (one of the env's agents, random, sticky, sticky:0.9, biased:1=0.3), "
        "pkg.module:factory, the path of a Stable-Baselines3 .zip, or several with weights, drawn anew for each "
        "episode: {random:0.3,careful:0.7}; null: the mixture that the env's configuration recommends, else random",
    )
    epsilon: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability that a step takes a uniform action instead; null: the env's recommendation, else 0",
    )
    num_envs: Envs = Field(4, description="environments stepped in parallel; changes only the speed, not the data")
    workers: int = Field(
        0,
        ge=0,
        le=MOST_ENVS,
        description="0 or 1: all environments in this process, which is fastest for cheap ones; more: each in its own "
        "process",
    )
    seed: Seed = Field(0, description="same seed and settings, same data")
    out: Path = Field(Path("runs/rollouts"), description="folder of the data set")

    @model_validator(mode="after")
    def _keys_of_arrays(self) -> Self:
        if self.arrays is None and (named := self.keys.model_dump(exclude_none=True)):
            raise ValueError(f"keys.{next(iter(named))} names one of arrays=..., and there are none; give arrays= too")
        return self

    def settings(self) -> dict[str, Any]:
        """Everything that the data depends on, with the defaults of the environment's configuration filled in."""
        if self.arrays is not None:
            env = self.env.model_dump(mode="json", exclude=NOT_IN_THE_DATA) if self.spaces == "env" else {}
            return {"arrays": str(self.arrays), "keys": self.keys.model_dump(exclude_none=True), "env": env}
        policy = self.policy or self.env.policy or "random"
        specs = [policy] if isinstance(policy, str) else list(policy)
        return {
            "env": self.env.model_dump(mode="json", exclude=NOT_IN_THE_DATA),
            "agents": {spec: self.env.agents[spec] for spec in specs if spec in self.env.agents},
            "steps": self.steps,
            "policy": policy,
            "epsilon": self.env.epsilon if self.epsilon is None else self.epsilon,
            "seed": self.seed,
        }


def collect(config: CollectConfig, progress: bool = True) -> Rollouts:
    """Collect a data set, resume an unfinished one in `config.out`, or return the complete one there.

    With `config.arrays`, import those instead of recording. progress: show a bar with ETA on a terminal.

    Raises DatasetError where `out` holds a data set of other settings or something else, or where the disk is full;
    what was recorded is kept.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file, not a folder; choose another out=")
    if not (out / SETTINGS).exists() and (found := _finished(config, progress)):
        return found  # without a lock, which a read-only folder would not allow
    with alone_in(out):
        return _finished(config, progress) or (_record_all if config.arrays is None else _import)(config, progress)


def _finished(config: CollectConfig, progress: bool) -> Rollouts | None:
    """The complete data set in `out`; None where there is none yet, or a damaged one."""
    out = config.out
    if not (out / PROVENANCE).is_file() or not _is_intact(config):
        return None
    rollouts = Rollouts(out)
    if (out / SETTINGS).exists():  # killed just before it was done
        _remove_working_files(out)
    say(f"{out} is complete: {rollouts.steps} steps in {rollouts.episodes} episodes; nothing to do", progress)
    return rollouts


def _is_intact(config: CollectConfig) -> bool:
    """Whether the data set in `out` is undamaged. Raises DatasetError where it is of other settings or code."""
    out = config.out
    try:
        found = provenance.read_json(out / PROVENANCE)
    except DatasetError:
        if provenance.FORMAT.encode() not in (out / PROVENANCE).read_bytes():
            raise  # it may not be a file of worldsim
        return False
    _check_same_settings(out, found.get("collect", {}), config.settings())
    if config.arrays is not None:
        _check_same_source(config, found.get(SOURCE, {}))
    else:
        with suppress(UnknownEnvError, MissingExtraError):  # the environment need not be installed here
            _check_same_code(config, found.get(CODE))
    files = found.get("files")  # an older worldsim kept no hashes
    return files is None or files == hashes_of([out / MINARI], out)


def _import(config: CollectConfig, progress: bool) -> Rollouts:
    """Imports plain arrays as a data set. An import that was killed starts over."""
    out, settings, place = config.out, config.settings(), config.arrays
    assert place is not None
    if not (out / SETTINGS).is_file() and not (out / PROVENANCE).is_file():
        _refuse_others(out)
    env = make_env(config.env) if config.spaces == "env" else None
    try:
        source = sizes_of(place)
        found = ArrayImport.of(place, config.keys, env, config.env.id, progress)
        for note in found.notes:
            say(f"{place}: {note}", progress, anywhere=True)
        (out / PROVENANCE).unlink(missing_ok=True)  # of a damaged one
        provenance.write_json(out / SETTINGS, settings)
        known = {
            "env": {} if env is None else config.env.model_dump(mode="json"),
            "metadata": {} if env is None else provenance.plain(env.metadata),
            "collect": settings,
            SOURCE: source,
            "notes": found.notes,
        }
        with _disk_full_in_one_line(out), Bar("write", len(found.lengths), progress) as bar:
            spaces = found.observation_space, found.action_space
            spec = None if env is None else env.spec
            write_data_set(out, bar.each(found.episodes()), found.lengths, *spaces, spec, f"arrays={place}", known)
    except DatasetError:  # some value cannot be used: no partial data set is left
        shutil.rmtree(out / MINARI, ignore_errors=True)
        raise
    finally:
        if env is not None:
            env.close()
        if not (out / MINARI).exists() or (out / PROVENANCE).exists():
            _remove_working_files(out)
    return Rollouts(out)


def _check_same_source(config: CollectConfig, begun: Mapping[str, Any]) -> None:
    """Raises DatasetError where a file of the imported arrays has changed."""
    assert config.arrays is not None
    if not config.arrays.exists():  # once imported they are not needed
        return
    now = sizes_of(config.arrays)
    if changed := sorted(name for name in now.keys() | begun.keys() if now.get(name) != begun.get(name)):
        raise DatasetError(
            f"{config.out} was imported from {changed[0]}, which has changed; choose another out=, or delete it"
        )


def _record_all(config: CollectConfig, progress: bool) -> Rollouts:
    out, settings = config.out, config.settings()
    if (out / PROVENANCE).is_file():
        say(f"the data set in {out} is damaged: it is recorded again", progress)
        provenance.write_json(out / SETTINGS, settings)
        (out / PROVENANCE).unlink()
    with _disk_full_in_one_line(out):
        parts = _begin(config)
    try:
        with _disk_full_in_one_line(out, parts):
            count = parts.count_holding(config.steps) or _record(config, settings, parts, progress)
            with Bar("write", count, progress) as bar:
                _finish(config, parts, count, bar)
    except KeyboardInterrupt:
        say(f"stopped; {_kept(parts)} in {out}, and the same command continues from there", progress)
        raise
    return Rollouts(out)


def _begin(config: CollectConfig) -> EpisodeFiles:
    out, begun = config.out, config.out / SETTINGS
    if begun.is_file() and any((out / PARTS).glob("*.npz")):
        settings = provenance.read_json(begun)
        code = settings.pop(CODE, None)
        _check_same_settings(out, settings, config.settings())
        _check_same_code(config, code)
        return EpisodeFiles(out / PARTS)
    if not begun.is_file():
        _refuse_others(out)
    return EpisodeFiles(out / PARTS)


def _refuse_others(out: Path) -> None:
    """Raises DatasetError where `out` holds files that worldsim did not write."""
    if out.exists() and any(not re.match(r"\..*|.*\.log$", path.name) for path in out.iterdir()):
        raise DatasetError(f"{out} is not empty and holds no rollouts; choose another out=")


def _own_code(config: CollectConfig) -> list[str]:
    """Hashes of the user's own code of environment and policies, which the data depends on and which has no version."""
    policy = config.settings()["policy"]
    specs = [policy] if isinstance(policy, str) else list(policy)
    return own_code([*env_modules(config.env), *modules_of(specs, config.env.agents)])


def _check_same_code(config: CollectConfig, begun: Sequence[str] | None) -> None:
    """Raises DatasetError where the code has changed. begun: its hashes then; None: an older worldsim kept none."""
    changed = sorted(set(_own_code(config)) ^ set(begun)) if begun is not None else []
    if changed:
        name = changed[0].partition(" ")[0]
        raise DatasetError(
            f"{config.out} holds rollouts of other code: {name} of the environment or the policy has changed; "
            "choose another out=, or delete it"
        )


def _check_same_settings(out: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    old, new = _dotted(begun), _dotted(asked)
    for key in sorted(
        old.keys() | new.keys(), key=lambda key: (key != "env.id", key)
    ):  # a different env explains all other differences
        if old.get(key) != new.get(key):
            raise DatasetError(
                f"{out} holds rollouts with {key}={old.get(key)}, not {key}={new.get(key)}; "
                f"choose another out=, or delete it"
            )


def _dotted(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        return {prefix: settings}
    return {k: v for key, value in settings.items() for k, v in _dotted(value, f"{prefix}.{key}".lstrip(".")).items()}


@contextmanager
def _disk_full_in_one_line(out: Path, parts: EpisodeFiles | None = None) -> Iterator[None]:
    """A full disk, however HDF5 reports it, becomes a DatasetError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or re.search("errno = 28|No space left", str(error))
        if not full:
            raise
        kept = f"{_kept(parts)}; " if parts else ""
        raise DatasetError(
            f"the disk of {out} is full; {kept}free some space and run the same command again"
        ) from error


def _kept(parts: EpisodeFiles) -> str:
    return f"{len(parts.lengths)} episodes ({parts.steps} steps) are kept"


def _record(config: CollectConfig, settings: Mapping[str, Any], parts: EpisodeFiles, progress: bool) -> int:
    """Record with parallel environments until there are enough steps; returns the number of episodes to keep."""
    parallel = min(config.num_envs, config.steps)  # each records a step at least
    if config.workers > 1 and parallel > MOST_PROCESSES:
        raise ConfigError(
            f"num_envs={parallel} with workers={config.workers} are as many processes; "
            f"give num_envs={MOST_PROCESSES} or fewer, or workers=0"
        )
    with _interrupts_ignored():
        envs = make_vec(config.env, parallel, config.workers)
    try:
        observed, acted = envs.single_observation_space, envs.single_action_space
        if resized := envs.metadata.get("resized"):
            say(f"{config.env.id}: resized {resized} (env.resize=null leaves it as it is)", progress, anywhere=True)
        mix = (settings["policy"], observed, acted, config.env.agents, settings["epsilon"])
        policies = [make_policy(*mix) for _ in range(envs.num_envs)]
        config.out.mkdir(parents=True, exist_ok=True)  # only now: an env that does not exist leaves no folder behind
        provenance.write_json(config.out / SETTINGS, {**settings, CODE: _own_code(config)})
        with Bar("record", config.steps, progress) as bar, _worker_tracebacks_hidden():
            return Recorder(envs, policies, parts, config.seed, config.steps).run(bar.at)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # after an interrupt, Gymnasium warns of a pending step
            envs.close()


@contextmanager
def _worker_tracebacks_hidden() -> Iterator[None]:
    """Hides Gymnasium's warnings with a worker's traceback, whose error is reported in one line anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", WORKER_TRACEBACKS, UserWarning)
        yield


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C: this process handles it and stops them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _finish(config: CollectConfig, parts: EpisodeFiles, count: int, bar: Bar) -> None:
    """Make the data set of the first `count` parts."""
    settings, env_config = config.settings(), config.env
    env = make_env(env_config)
    try:
        lengths = [parts.lengths[index] for index in range(count)]
        about = f"policy={settings['policy']} epsilon={settings['epsilon']}"
        policies = [settings["policy"]] if isinstance(settings["policy"], str) else list(settings["policy"])
        known = {
            "env": env_config.model_dump(mode="json"),
            "wrappers": provenance.wrapper_stack(env),
            "metadata": provenance.plain(env.metadata),
            "collect": settings,
            CODE: _own_code(config),
            "seeding": provenance.SEEDING,
            "versions": provenance.versions(env, [*policies, *env_config.agents.values()]),
        }
        spaces = env.observation_space, env.action_space
        write_data_set(config.out, bar.each(parts.read(count)), lengths, *spaces, env.spec, about, known)
    finally:
        env.close()
    _remove_working_files(config.out)


def _remove_working_files(out: Path) -> None:
    shutil.rmtree(out / PARTS, ignore_errors=True)
    (out / SETTINGS).unlink(missing_ok=True)  # last: it marks the parts as files of worldsim
