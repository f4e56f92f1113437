"""Faults on a vector of Gymnasium environments, all broken in one go and each by its own seed."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults import Call, Fault, FaultRecord, Pipeline, Plan
from worldsim.faults.arrays import Mask
from worldsim.faults.batch_rows import merge_infos, where_rows, with_rows
from worldsim.faults.call_batch import CallBatch
from worldsim.faults.fault_log import FaultLog
from worldsim.faults.replies import Replies
from worldsim.faults.stage import checked_seed
from worldsim.faults.trees import leaves_of
from worldsim.wrappers.inject import nearest_faults
from worldsim.wrappers.last_observations import LastObservations
from worldsim.wrappers.real_time import RealTimeWorlds, repeats_last, step_seconds
from worldsim.wrappers.stepping import stepper_for
from worldsim.wrappers.text_observations import TextObservations
from worldsim.wrappers.tools import NamedActions, SessionActions, UnnamedActions, action_tools


class VectorFaultSnapshot(NamedTuple):
    """The state of N environments with that of the faults on them."""

    below: Any  # the snapshot of the environment inside
    faults: Any
    episodes: list[tuple[int, int]]
    ended: Mask
    last_observations: LastObservations
    infos: dict[str, Any]
    worlds: Any  # how far each has moved on, with real-time control


@dataclass
class _StepProgress:
    """The results of one step of all environments so far: a fault may have a call executed more than once in it."""

    resetting: Mask  # whose step is a reset
    rewards: NDArray[Any]
    terminated: Mask
    truncated: Mask
    infos: dict[str, Any]
    observations: Any = None  # the last ones of the environments; None: none was stepped
    reset_observations: Any = None  # of the environments that were reset within this step (AutoresetMode.SAME_STEP)
    actions: list[Any] = field(default_factory=list)  # the actions, one by one, where they name tools and arguments
    calls_by_name: list[tuple[str, Mapping[str, Any]]] | None = None  # the tool and arguments of each
    executions: list[list[float]] | None = None  # the rewards of each call; None: none was executed
    has_stepped: bool = field(default=False)

    @property
    def done(self) -> Mask:
        return self.terminated | self.truncated

    def record_execution(self, mask: Mask, rewards: NDArray[Any]) -> None:
        """Note that calls were executed where mask is true, except in steps that are resets."""
        executed = mask & ~self.resetting if self.resetting.any() else mask
        if self.executions is None:
            self.executions = [[reward] for reward in rewards.tolist()]
            for row in np.flatnonzero(~executed).tolist():
                self.executions[row] = []
            return
        for row in np.flatnonzero(executed).tolist():
            self.executions[row].append(float(rewards[row]))


class VectorInjectFaults(VectorWrapper[Any, Any, Any, Any, Any]):
    """Lets faults act between agents and a vector of environments.

    Environment i meets what it would meet alone in an `InjectFaults` with the same `seed`, after `reset` with the seed
    that `reset` here gives it: `reset(seed=s)` seeds the environments s, s + 1, ...; see there for what a step means.
    Without any seed the environments differ, too. An episode's faults begin with it, in every `AutoresetMode`: what
    begins anew is never faulty, and under SAME_STEP `final_obs` and `final_info` are what the faults left of the end.

    Schedules, probabilities, whether a fault triggers and what it does then are worked out for all environments with
    arrays; texts are written and pixels moved one reply at a time, for those that change. Only faults of your own that
    are generators go through them one environment at a time.

    A call that is lost must not move its environment, and one that is carried out again moves it alone. A vector
    environment that has `step_some` (`WorldVectorEnv`) does that, and so does a `SyncVectorEnv`. Others move all their
    environments together: for lost calls `hold` is carried out instead, whose reward and end of episode count, and
    faults that carry a call out again are refused.

    Real-time control is as for `InjectFaults`, each world by its own clock, for vector environments that can move some
    alone. "wall": a step waits for the last of its replies, and the worlds of the others move on meanwhile.

    `info["reply"]` has an array (N,) for each of ok, error (None where there is none), retry_after_s (NaN where nothing
    is said), latency_s and, where there is one, raw; `info["faults"]` for each environment what reads like a list of
    records. Of a call that is lost all else in `info` is what its environment gave last.

    With a fault that has `out_of_space=True` values arrive as they really would. Leaves are batched as ever as long as
    all their values fit into one array, NaN and numbers out of range too. A leaf of which some values do not (another
    type or shape, null) arrives as `worldsim.wrappers.Ragged`, a tuple of N values, one for each environment; so does a
    whole Dict or Tuple where some environments have other parts than the space says. What cannot be read is a lost
    reply, as ever. `observation_space` stays what it is.

    Around another VectorInjectFaults the two are one plan, this one's faults outermost.

    Attributes: `records`, of each environment's episode so far, and `seconds`, (N,) on each one's clock.
    Methods `snapshot()` and `restore(snapshot)` exist where the environment has them.

    Args:
        env: any vector environment.
        faults: a plan, the name of a ready one or the path of its file; or faults, outermost first, or mappings that
            describe them.
        seed: of the faults, 0 or more, where the plan has none of its own.
        blind: leave `info["faults"]` and `info["executions"]` out.
        time, step_s: as for `InjectFaults`, of each environment.
        hold: with `time`, as for `InjectFaults`. Without, an action of one environment, carried out where a call is
            lost and its environment cannot stand still.

    Raises ConfigError for a bad seed, fault, time or hold, for a target that matches no leaf of the observation, and
    for what the environment cannot carry out.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        faults: Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]],
        seed: int = 0,
        *,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
    ) -> None:
        super().__init__(env)
        checked_seed(seed)
        plan = Plan.of(faults)
        self._plan = [(fault, seed if plan.seed is None else plan.seed) for fault in plan.faults]
        self._blind, self._hold, self._inner_envs = blind, hold, env
        self._time, self._step_s = time, step_seconds(env.metadata, time, step_s)
        if isinstance(env, VectorInjectFaults):
            self._plan, self._inner_envs = self._plan + env._plan, env._inner_envs
            self._blind, self._hold = blind or env._blind, env._hold if hold is None else hold
            if time is None:
                self._time, self._step_s = env._time, env._step_s
        elif _has_faults(env):
            raise ConfigError("there are faults in an inner wrapper or on each environment: put all in one place")
        active = [fault for fault, _ in self._plan if not fault.idle]
        in_space = not any(getattr(fault, "out_of_space", False) for fault in active)
        self._space = env.single_observation_space
        self._leaves = leaves_of(self._space)
        on_error: Mapping[str, Mapping[str, Any]] = env.metadata.get("on_error", {})
        self._tools = action_tools(env.metadata, env.single_action_space)
        self._session_actions = [SessionActions(self._tools) for _ in range(env.num_envs)]
        self._wait_s: Mapping[str, float] = env.metadata.get("wait_s", {})
        text = self._space if isinstance(self._space, spaces.Text) else None
        self._text_observations = None if text is None else TextObservations(env.num_envs, text, not in_space)
        plan.check(self._tools.names, None if self._text_observations else self._leaves)
        self._pipeline = Pipeline(
            self._plan,
            None if self._text_observations else self._leaves,
            self._tools.names,
            count=env.num_envs,
            action_space=env.single_action_space,
            missing=env.metadata.get("on_missing", {}),
            one_request=self._tools.one_request,
            text=text,
            is_representable=self._is_representable if self._tools.by_name else None,
        )
        self._stepper = stepper_for(self._inner_envs, self._pipeline, self._hold, moving=bool(self._step_s))
        self._worlds = self._real_time_worlds() if self._step_s else None
        self._autoreset = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        count = env.num_envs
        self._episodes = [(-1 - row, 0) for row in range(count)]  # seed, which may be beyond 64 bits, and resets since
        self._ended = np.zeros(count, np.bool_)  # whose next step is a reset
        self._last_observations = LastObservations(
            count, self._space, self._leaves, on_error, in_space, not self._pipeline.idle
        )
        self._infos: dict[str, Any] = {}

    @property
    def records(self) -> list[list[FaultRecord]]:
        """What was done to each environment in its episode."""
        return self._pipeline.records

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How late it is on each environment's clock, (N,)."""
        return self._pipeline.sessions.clock_s.copy()

    def _real_time_worlds(self) -> RealTimeWorlds:
        """Worlds that move on while their agents wait."""
        space, hold = self.single_action_space, self._hold
        if hold is not None and not repeats_last(hold) and hold not in space:
            raise ConfigError(f"hold must be an action of {space} or 'last', got {hold!r}")
        assert self._step_s is not None, "the worlds stand still"
        return RealTimeWorlds(self._pipeline.sessions.clock_s, self._step_s, self._time == "wall", hold, space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        count = self.num_envs
        mask = np.array((options or {}).get("reset_mask", np.ones(count, np.bool_)))
        observations, infos = self._inner_envs.reset(seed=seed, options=options)
        seeds = [None] * count if seed is None else seed
        seeds = [int(seeds) + row for row in range(count)] if isinstance(seeds, int | np.integer) else seeds
        if not mask.all():
            infos = merge_infos(mask, infos, {})
            observations = where_rows(self._space, mask, observations, self._last_observations.batch)
        self._infos = infos if mask.all() else merge_infos(mask, infos, self._infos)
        self._last_observations.begin(mask, observations)
        self._ended = self._ended & ~mask
        visible = self._last_observations.visible(observations)
        self._begin(np.flatnonzero(mask), seeds, visible)
        return visible.stacked(), {**infos, **self._info(Replies(count), FaultLog(count), None, mask)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        count, none = self.num_envs, np.zeros(self.num_envs, np.bool_)
        actions = np.asarray(actions) if isinstance(self.action_space, _ARRAYS) else actions
        resetting = self._ended if self._autoreset is AutoresetMode.NEXT_STEP else none
        self._progress = progress = _StepProgress(resetting, np.zeros(count), none, none, self._infos)
        if self._worlds:
            self._worlds.sync_to_wall_clock()
        tools, calling = self._tools_called(progress, actions), np.flatnonzero(~resetting)
        if self._wait_s:
            self._wait_for_tools(tools, calling)
        replies, log = self._pipeline.batch_call(calling, tools, actions, self._execute, progress.calls_by_name)
        if self._worlds:
            self._worlds.wait()
            self._advance_worlds(self._worlds, ~resetting)
        if self._text_observations:
            replies = self._text_observations.serialize(replies, self._inner_replies(progress), calling)
        visible = self._last_observations.take(replies)
        self._infos = {
            key: value for key, value in progress.infos.items() if not key.removeprefix("_").startswith("final_")
        }
        infos = {**progress.infos, **self._info(replies, log, progress.executions, np.ones(count, np.bool_))}
        if progress.reset_observations is not None:
            visible = self._reset_in_same_step(progress, replies, log, visible, infos)
        self._ended = progress.done if self._autoreset is AutoresetMode.NEXT_STEP else none
        begun = resetting if progress.reset_observations is None else progress.done
        if begun.any():
            self._begin(np.flatnonzero(begun), [None] * count, visible)
        del self._progress
        return visible.stacked(), progress.rewards, progress.terminated, progress.truncated, infos

    def _tools_called(self, progress: _StepProgress, actions: Any) -> NDArray[np.int64]:
        """Which tool each environment's action calls, (N,) positions in the names that the faults know."""
        if isinstance(self._tools, NamedActions):
            return np.asarray(actions - self._tools.first)
        if isinstance(self._tools, UnnamedActions):
            return np.zeros(self.num_envs, np.int64)
        progress.actions = list(iterate(self.action_space, actions))
        progress.calls_by_name = [
            session.call(action) for session, action in zip(self._session_actions, progress.actions, strict=True)
        ]
        return self._pipeline.positions([tool for tool, _ in progress.calls_by_name])

    def wait(self, seconds: float) -> None:
        """Let time pass on every environment's clock, in seconds, 0 or more: nothing is called meanwhile."""
        if not seconds >= 0:
            raise ConfigError(f"wait({seconds!r}): the seconds to wait must be 0 or more")
        self._pipeline.sessions.clock_s += seconds

    def _wait_for_tools(self, tools: NDArray[np.int64], calling: NDArray[np.int64]) -> None:
        """Let time pass where a tool of the environment is one that waits (`metadata["wait_s"]`)."""
        names = self._pipeline.sessions.names
        seconds = np.array([self._wait_s.get(name, 0.0) for name in names])
        self._pipeline.sessions.clock_s[calling] += seconds[tools[calling]]

    def _begin(self, rows: NDArray[np.int64], seeds: Sequence[int | None], visible: Replies) -> None:
        """Episodes begin in some environments."""
        for row in rows.tolist():
            given, (first, resets) = seeds[row], self._episodes[row]
            self._episodes[row] = (first, resets + 1) if given is None else (int(given), 0)
            self._session_actions[row].begin()
        first = self._text_observations.parse(visible, rows) if self._text_observations else visible
        self._pipeline.start(rows, [self._episodes[row] for row in rows.tolist()], lambda: first)
        if self._worlds:
            self._worlds.begin(rows)

    def _execute(self, calls: CallBatch) -> Replies:
        """Execute the calls that the last fault forwards: step their environments, unless the episode has ended."""
        progress, worlds = self._progress, self._worlds
        called = np.zeros(self.num_envs, np.bool_)
        called[calls.rows] = True
        if worlds:
            self._advance_worlds(worlds, called)
        going = called & ~progress.done
        if not progress.has_stepped:
            going |= progress.resetting
        if going.any() or not self._stepper.can_step_some:
            moved = going if self._stepper.can_step_some else np.ones_like(going)
            stepped = self._stepper.step(self._actions_batch(calls), going, progress.resetting)
            if not self._blind:
                progress.record_execution(going, stepped[1])
            self._merge_step(progress, moved, *stepped)
        progress.has_stepped = True
        if worlds:
            worlds.executed(called, self._actions_batch(calls))
        visible = self._inner_replies(progress)
        return self._text_observations.parse(visible, calls.rows) if self._text_observations else visible

    def _inner_replies(self, progress: _StepProgress) -> Replies:
        """The last observations of the environments, before faults."""
        visible = self._last_observations.batch if progress.observations is None else progress.observations
        return Replies(self.num_envs, self._space, visible, self._last_observations.in_space)

    def _actions_batch(self, calls: CallBatch) -> Any:
        """The actions to execute, as a batch."""
        if not self._tools.by_name:
            return calls.payloads.stacked()["arguments"]["action"]
        each = list(self._progress.actions)
        for row in calls.rows.tolist():
            call = calls.call(row)
            each[row] = self._session_actions[row].action(call.tool, call.arguments, each[row])
        space = self.single_action_space
        empty: Any = create_empty_array(space, n=len(each), fn=np.zeros)
        return concatenate(space, each, empty)

    def _is_representable(self, row: int, call: Call) -> bool:
        """Whether an action of the space makes this call: a fault may only forward calls for which there is one."""
        original = self._progress.actions[row]
        return self._session_actions[row].action(call.tool, call.arguments, original) in self.single_action_space

    def _advance_worlds(self, worlds: RealTimeWorlds, mask: Mask) -> None:
        """Step the worlds where mask is true up to the present, under their hold actions, a whole step at a time."""
        progress, none = self._progress, np.zeros(self.num_envs, np.bool_)
        while (late := mask & worlds.behind & ~progress.done).any():
            self._merge_step(progress, late, *self._stepper.step(worlds.hold_actions, late, none))
            worlds.stepped(late)

    def _merge_step(
        self,
        progress: _StepProgress,
        moved: Mask,
        observations: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        infos: Any,
    ) -> None:
        """Add the results of the environments that moved to those of this step."""
        ended = (terminated | truncated) & moved
        if self._autoreset is AutoresetMode.SAME_STEP and ended.any():
            finals = {row: infos["final_obs"][row] for row in np.flatnonzero(ended).tolist()}
            known = observations if progress.reset_observations is None else progress.reset_observations
            progress.reset_observations = where_rows(self._space, ended, observations, known)
            observations = with_rows(self._space, observations, finals)
        # The first result of all environments is taken as it is; later ones are merged where environments moved:
        # rewards are summed, ends are kept, observations and infos are the last.
        if moved.all() and progress.observations is None and not progress.has_stepped:
            progress.rewards, progress.observations, progress.infos = rewards, observations, infos
            progress.terminated, progress.truncated = terminated, truncated
            return
        progress.rewards = np.where(moved, progress.rewards + rewards, progress.rewards)
        progress.terminated = progress.terminated | terminated & moved
        progress.truncated = progress.truncated | truncated & moved
        progress.infos = merge_infos(moved, infos, progress.infos)
        if progress.observations is not None:
            observations = where_rows(self._space, moved, observations, progress.observations)
        progress.observations = observations

    def _reset_in_same_step(
        self, progress: _StepProgress, replies: Replies, log: FaultLog, visible: Replies, infos: dict[str, Any]
    ) -> Replies:
        """Episodes that ended have begun anew in this very step: what the faults left of them goes to `final_obs`."""
        done, count = progress.done, self.num_envs
        finals = infos["final_obs"].copy()
        for row in np.flatnonzero(done).tolist():
            finals[row] = visible.payload(row)
        ended = self._info(replies, log, progress.executions, done)
        no_faults = self._info(Replies(count), FaultLog(count), None, done)
        infos.update(final_obs=finals, final_info={**infos.get("final_info", {}), **ended})
        infos.update(merge_infos(done, no_faults, {key: infos[key] for key in no_faults}))
        self._last_observations.begin(done, progress.reset_observations)
        visible.merge()
        visible.batch = where_rows(self._space, done, progress.reset_observations, visible.batch)
        visible.overrides = {row: payload for row, payload in visible.overrides.items() if not done[row]}
        return visible

    def _info(
        self, replies: Replies, log: FaultLog, executions: list[list[float]] | None, mask: Mask
    ) -> dict[str, Any]:
        """The infos `reply`, `faults` and `executions`, in Gymnasium's vector format, where mask is true."""
        reply: dict[str, Any] = {
            "ok": replies.ok.copy(),
            "error": replies.error.copy(),
            "retry_after_s": replies.retry_after_s.copy(),
            "latency_s": replies.latency_s.copy(),
        }
        known = {f"_{key}": mask.copy() for key in reply}
        texts = {row: raw for row, raw in replies.raws.items() if mask[row]}
        if texts:
            reply["raw"] = raw = np.full(len(mask), None, object)
            raw[list(texts)] = list(texts.values())
            known["_raw"] = np.isin(np.arange(len(mask)), list(texts))
        infos: dict[str, Any] = {"reply": {**reply, **known}, "_reply": mask.copy()}
        if not self._blind:
            infos["faults"], infos["_faults"] = np.fromiter(log.by_row(), object, len(mask)), mask.copy()
            each = executions or [list[float]() for _ in mask]
            infos["executions"], infos["_executions"] = np.fromiter(each, object, len(mask)), mask.copy()
        return infos

    @property
    def snapshot(self) -> Callable[[], VectorFaultSnapshot]:
        """`snapshot()`: the state of environments and faults; no such attribute where the environment has none.

        A property, as `InjectFaults.snapshot` is.
        """
        snapshot_envs: Callable[[], Any] = self._inner_envs.snapshot  # type: ignore[attr-defined]

        def take() -> VectorFaultSnapshot:
            faults_state = (
                self._pipeline.snapshot(),
                self._episodes.copy(),
                self._ended.copy(),
                self._last_observations.copy(),
            )
            worlds = self._worlds.snapshot() if self._worlds else None
            return VectorFaultSnapshot(snapshot_envs(), *faults_state, copy.deepcopy(self._infos), worlds)

        return take

    @property
    def restore(self) -> Callable[[VectorFaultSnapshot], Any]:
        """`restore(snapshot)`: back to where it was taken; what comes next is the same as it was then.

        A property for the reason that `snapshot` is one. Returns what the environment's own `restore` returns.
        """
        restore_envs: Callable[[Any], Any] = self._inner_envs.restore  # type: ignore[attr-defined]

        def restore_all(snapshot: VectorFaultSnapshot) -> Any:
            result = restore_envs(snapshot.below)
            self._pipeline.restore(snapshot.faults)
            self._episodes, self._ended = snapshot.episodes.copy(), snapshot.ended.copy()
            self._last_observations, self._infos = snapshot.last_observations.copy(), copy.deepcopy(snapshot.infos)
            if self._worlds:
                self._worlds.restore(snapshot.worlds)
            return result

        return restore_all


_ARRAYS = spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary


def _has_faults(env: Any) -> bool:
    """Whether an inner wrapper, or a single environment, has faults already."""
    while isinstance(env, VectorWrapper):
        env = env.env
        if isinstance(env, VectorInjectFaults):
            return True
    return isinstance(env, SyncVectorEnv) and any(nearest_faults(each) is not None for each in env.envs)
