"""Faults on a Gymnasium environment: they act on the observation the agent gets and on whether its action arrives."""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from worldsim.errors import ConfigError
from worldsim.faults import (
    ERRORS,
    LOST,
    Call,
    Clock,
    Fault,
    FaultRecord,
    Pipeline,
    Plan,
    Reply,
    VirtualClock,
    WallClock,
    fault_to_json,
)
from worldsim.faults.fault_log import FaultLog, SharedCallIndices
from worldsim.faults.payload_views import PayloadView, view_of
from worldsim.faults.pipeline import NO_RECORDS, ForwardContext, OuterCall
from worldsim.faults.replies import Replies
from worldsim.faults.stage import checked_seed
from worldsim.faults.trees import ABSENT, TreePath, copied, from_json, get, leaves_of, put
from worldsim.wrappers.real_time import STEP_TOLERANCE, idle_action, repeats_last, step_seconds
from worldsim.wrappers.text_observations import reply_with_text
from worldsim.wrappers.tools import SessionActions, action_tools

_NO_ERROR = Reply(None)
_ROW = np.zeros(1, np.int64)


@dataclass(frozen=True)
class FaultSnapshot:
    """An environment's state with that of the faults on it."""

    below: Any  # the snapshot of the environment inside
    faults: Any
    episode: tuple[int, ...]
    last_observation: Any
    info: dict[str, Any]
    reply: Reply
    ahead_s: float  # of the clock, by which the world has moved, with real-time control


class InjectFaults(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets faults act between an agent and an environment.

    One `step` is one call. A call that a fault loses is not carried out: the environment is not stepped and the reward
    is 0; nor does a time limit on it count that call, so a loop of your own needs one around the faults
    (`gymnasium.wrappers.TimeLimit`), or may run for ever. A reply that a fault loses leaves its effect, reward and end
    of episode standing, but not its observation: the agent sees the last one that reached it, with
    `env.metadata["on_error"][error]` (leaf name -> zero-based class or value) put in where the environment declares it,
    or else that of the basic error which it looks like (`worldsim.faults.ERRORS`). `reset` is never faulty.

    `info["reply"]` (ok, error, retry_after_s, latency_s, and raw, the text of a reply that could not be read, where
    there is one) is what an agent may know of the call. `info["faults"]`, the
    records of this step, and all else in `info` is ground truth, as the environment last gave it.

    The name of a call, which a fault's `tools` pick, is that of its action where the environment has
    `metadata["action_names"]` and a Discrete action space; that of the tool where an action is a Dict with a tool and
    arguments, or a Text with JSON that has them (`worldsim.wrappers.tools`); else "step". Where observations are a Text
    with JSON, faults change its fields; a text that its space does not hold any more is refused as malformed.

    Real-time control: by default the world stands still while the agent waits. With `time` it moves on, by a step for
    every `step_s` on the clock, under the action `hold`; rewards and the end of the episode count as ever, and the
    observation is the one that was sent. "virtual": only latencies take time, and each step takes `step_s` of it.
    "wall": real time counts, the agent's own thinking too, and a step that is early waits for its tick.

    What happens to call k of a tool in an episode depends on the seeds, the tool and k alone: `seed`, and the seed
    given to the last `reset` that had one, with the number of resets since. `A(B(env))` means the same as
    `InjectFaults(env, [a, b])` with equal seeds. An observation space may hold anything; parts that no wrong value is
    known for are left alone.

    `wait(seconds)` lets time pass on the clock, as does a call of a tool in `env.metadata["wait_s"]` (tool -> seconds):
    an agent that heeds a Retry-After is served.

    `info["executions"]` has the reward of each time that the call was carried out: none where it was lost on the way,
    two where it was carried out twice. What a world earns by itself while its agent waits is not among them.

    Attributes: `records`, of the episode so far, and `clock`. Methods `snapshot()` and `restore(snapshot)` exist where
    the environment has them.

    Args:
        env: any environment.
        faults: a plan, the name of a ready one or the path of its file; or faults, outermost first, or mappings that
            describe them.
        seed: of the faults, 0 or more, where the plan has none of its own.
        clock: passes with the latencies; by default that of inner faults, else a new `VirtualClock`.
        blind: leave `info["faults"]` and `info["executions"]` out.
        time: None, "virtual" or "wall": whether the world moves on while the agent waits, and by which time.
        step_s: seconds that one step of the world takes; by default 1 / `env.metadata["render_fps"]`.
        hold: the action under which it moves on: one of the space, "last" for the last one that arrived, or None for
            zero (of a Discrete space its first action); zero, too, before the first one has arrived.

    Raises ConfigError for a bad seed, fault or time, and for a target that matches no leaf of the observation.
    """

    _blind: bool
    _pipeline: Pipeline

    def __init__(
        self,
        env: gym.Env[Any, Any],
        faults: Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]],
        seed: int = 0,
        clock: Clock | None = None,
        *,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
    ) -> None:
        plan = Plan.of(faults)
        built, seed = plan.faults, seed if plan.seed is None else plan.seed
        given: dict[str, Any] = {} if clock is None else {"clock": clock}
        RecordConstructorArgs.__init__(
            self,
            faults=[fault_to_json(each) for each in built],
            seed=seed,
            blind=blind,
            time=time,
            step_s=step_s,
            hold=hold,
            **given,
        )
        super().__init__(env)
        self._inner_faults = nearest_faults(env)
        self._blind = blind or (self._inner_faults is not None and self._inner_faults._blind)
        fresh: Clock = WallClock() if time == "wall" else VirtualClock()
        self.clock: Clock = clock or (self._inner_faults.clock if self._inner_faults else fresh)
        self._step_s = step_seconds(env.metadata, time, step_s)
        self._idle_action = idle_action(hold, env.action_space) if time else None
        self._repeats_last = repeats_last(hold)
        self._world_time_s = 0.0  # on the clock: when the world's last step ended
        self._last_action: Any = self._idle_action  # the last that was executed
        self._tools = action_tools(env.metadata, env.action_space)
        self._session_actions = SessionActions(self._tools)
        self._wait_s: Mapping[str, float] = env.metadata.get("wait_s", {})
        space = env.observation_space
        self._text = space if isinstance(space, spaces.Text) else None
        own = any(getattr(fault, "out_of_space", False) for fault in built if not fault.idle)
        inner = self._inner_faults is not None and self._inner_faults._allow_out_of_space
        self._allow_out_of_space: bool = own or inner  # whether texts may arrive that the space does not hold
        self._leaves = leaves_of(env.observation_space)
        self._scalars = [leaf for leaf in self._leaves if isinstance(leaf.space, spaces.Box) and not leaf.space.shape]
        self._scalar_types: dict[TreePath, type] = {}  # of the scalars that the environment does not give as arrays
        self._nested = isinstance(space, spaces.Dict | spaces.Tuple)
        self._on_error: Mapping[str, Mapping[str, Any]] = env.metadata.get("on_error", {})
        plan.check(self._tools.names, None if self._text else self._leaves)
        self._pipeline = Pipeline(
            [(fault, checked_seed(seed)) for fault in built],
            None if self._text else self._leaves,
            self._tools.names,
            self.clock,
            missing=env.metadata.get("on_missing", {}),
            inner_kinds=self._inner_faults._pipeline.kinds if self._inner_faults else None,
            one_request=self._tools.one_request,
            text=self._text,
            is_representable=self._is_representable if self._tools.by_name else None,
        )
        self._records: list[Sequence[FaultRecord]] = []  # what was done to each call of this episode
        self._step_records: Sequence[FaultRecord] = NO_RECORDS  # of the present call
        self._view: PayloadView | None = None  # of the observation, where it is a text with JSON
        self._action: Any = None  # the agent's, of the present step
        self._outer_call: OuterCall | None = None  # set by an outer InjectFaults: which of its calls this is
        self._counted_tool = ""  # whose random numbers the call draws; that of the outer call, if any
        self._shared: SharedCallIndices = {}  # the call's indices in schedules that count several tools together
        self._keeps_observation = self._inner_faults is not None or not self._pipeline.idle
        self._episode: tuple[int, ...] = (-1, 0)  # the seed of the last seeded reset, and resets since
        self._last_observation: Any = None  # the last observation that reached the agent
        self._info: dict[str, Any] = {}
        self._reply = _NO_ERROR
        self._rewards: list[Any] = []  # of this step
        self._inner_latency_s = 0.0  # that inner faults have added
        self._executions: list[Any] = []  # rewards of the executions of the call itself, without steps in real time
        self._terminated = self._truncated = False

    @property
    def records(self) -> list[FaultRecord]:
        """What the faults of this wrapper and of the inner ones did in this episode."""
        return [record for records in self._records for record in records]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = (self._episode[0], self._episode[1] + 1) if seed is None else (int(seed), 0)
        self._info, self._executions = dict(info), []
        self._reply = _NO_ERROR
        if self._keeps_observation:
            self._last_observation = copied(observation)
        self._records, self._step_records = [], NO_RECORDS
        self._session_actions.begin()
        shown = self._view_for_faults(observation)
        self._pipeline.start(_ROW, [self._episode], lambda: Replies.single(Reply(shown)))
        self._world_time_s, self._last_action = self.clock.now(), self._idle_action
        return observation, self._visible_info()

    def wait(self, seconds: float) -> None:
        """Let time pass on the clock, in seconds, 0 or more: nothing is called meanwhile."""
        if not seconds >= 0:
            raise ConfigError(f"wait({seconds!r}): the seconds to wait must be 0 or more")
        self.clock.sleep(seconds)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._rewards, self._executions, self._inner_latency_s = [], [], 0.0
        self._terminated = self._truncated = False
        self._inner_records: list[FaultRecord] = []
        self._action = action
        tool, arguments = self._session_actions.call(action)
        # An outer InjectFaults has counted this call already, and has set which of its calls it is.
        outer, self._outer_call = self._outer_call, None
        self._counted_tool = tool if outer is None else outer.tool
        if outer is None:
            if self._wait_s:
                self.clock.sleep(self._wait_s.get(tool, 0.0))
            if self._inner_faults is not None:
                self._count_in_inner_faults(tool)
        reply, own_records = self._pipeline.call(tool, arguments, self._execute, outer)
        if self._inner_latency_s:
            reply = reply._replace(latency_s=reply.latency_s + self._inner_latency_s)
        self._step_records = [*self._inner_records, *own_records] if self._inner_records else own_records
        if self._step_records is not NO_RECORDS:  # records are made when somebody reads them
            self._records.append(self._step_records)
        if self._step_s:
            self._advance_world()
        if self._view is not None and self._text is not None:
            reply = reply_with_text(self._view, reply, self._text, self._allow_out_of_space)
        self._reply = reply
        if reply.payload is LOST:
            observation = self._with_original_scalars(self._observation_after_error(reply.error))
        else:
            observation = self._with_original_scalars(reply.payload)
            if self._keeps_observation:
                self._last_observation = copied(observation)
        rewards = self._rewards
        reward = rewards[0] if len(rewards) == 1 else sum(rewards, 0.0)
        return observation, reward, self._terminated, self._truncated, self._visible_info()

    def _is_representable(self, row: int, call: Call) -> bool:
        """Whether an action of the space makes this call: a fault may only forward calls for which there is one."""
        return self._session_actions.action(call.tool, call.arguments, self._action) in self.env.action_space

    def _count_in_inner_faults(self, tool: str) -> None:
        """Inner faults count a call whether or not it reaches them, as the later faults of one plan do."""
        inner = self._inner_faults
        while inner is not None:
            inner._shared = inner._pipeline.count_shared(tool)
            inner = inner._inner_faults

    def _view_for_faults(self, observation: Any) -> Any:
        """The observation that the faults get: parsed where it is a text with JSON, scalars as arrays."""
        if self._text is not None:
            self._view = view_of(observation)
            return self._view.inner
        if not self._keeps_observation:
            return observation
        return self._with_arrays(
            in_space_order(self.env.observation_space, observation) if self._nested else observation
        )

    def _with_arrays(self, observation: Any) -> Any:
        """An observation whose scalars are arrays without axes, as in a batch: that is what faults on numbers know."""
        for leaf in self._scalars:
            value = get(observation, leaf.path)
            self._scalar_types.pop(leaf.path, None)
            if isinstance(value, np.generic | float | int):
                self._scalar_types[leaf.path] = type(value)
                array = np.asarray(value)
                array = array if isinstance(value, np.generic) else array.astype(leaf.space.dtype)
                observation = put(observation, leaf.path, array)
        return observation

    def _with_original_scalars(self, observation: Any) -> Any:
        """An observation whose scalars have the types in which the environment gave them."""
        for path, form in self._scalar_types.items():
            value = get(observation, path)
            if isinstance(value, np.ndarray) and not value.ndim:
                observation = put(observation, path, value[()] if issubclass(form, np.generic) else value.item())
        return observation

    def _execute(self, call: Call, context: ForwardContext) -> Reply:
        """Execute a call that the last fault forwards: step the environment."""
        action = self._session_actions.action(call.tool, call.arguments, self._action)
        if self._inner_faults is not None:  # nested wrappers mean the same as one plan
            self._inner_faults._outer_call = OuterCall(
                self._counted_tool, call.number, self._inner_faults._shared, context.deadline_s
            )
        if self._step_s:
            self._advance_world()
            self._last_action = action
        steps = len(self._rewards)
        reply = self._step_env(action, context.log)
        if len(self._rewards) > steps:
            self._executions += self._rewards[steps:] if self._inner_faults is None else self._inner_faults._executions
        if not self._step_s:
            return reply
        self._world_time_s += self._step_s
        self.clock.sleep(max(0.0, self._world_time_s - self.clock.now()))
        return reply

    def _advance_world(self) -> None:
        """Step the world up to the present, under the hold action, a whole step at a time."""
        assert self._step_s is not None, "the world stands still"
        tick_s = self._step_s * STEP_TOLERANCE
        while self.clock.now() - self._world_time_s >= tick_s and not (self._terminated or self._truncated):
            self._step_env(self._last_action if self._repeats_last else self._idle_action)
            self._world_time_s += self._step_s

    def _step_env(self, action: Any, log: FaultLog | None = None) -> Reply:
        """Step the environment, unless the episode has ended: a call that is executed twice may find it ended."""
        if self._terminated or self._truncated:
            return self._reply
        observation, reward, self._terminated, self._truncated, info = self.env.step(action)
        self._rewards.append(reward)
        self._info = info
        if self._inner_faults is not None:
            if log is None:
                self._inner_records += self._inner_faults._step_records
            else:
                log.extend(0, self._inner_faults._step_records)
            self._inner_latency_s += self._inner_faults._reply.latency_s
            reply = self._inner_faults._reply._replace(latency_s=0.0)
            self._reply = reply if reply.payload is LOST else reply._replace(payload=self._view_for_faults(observation))
        else:
            self._reply = Reply(self._view_for_faults(observation))
        return self._reply

    def _observation_after_error(self, error: str | None) -> Any:
        """What the agent sees after an error: its last observation, with `metadata["on_error"]` put in."""
        observation = copied(self._last_observation)
        shown = self._on_error.get(error or "", self._on_error.get(ERRORS.get(error or "", ""), {}))
        for leaf in self._leaves:
            if leaf.name in shown and get(observation, leaf.path) is not ABSENT:
                observation = put(observation, leaf.path, from_json(leaf, shown[leaf.name]))
        return observation

    def _visible_info(self) -> dict[str, Any]:
        info = {**self._info, "reply": self._reply.to_json()}
        if self._blind:
            info.pop("faults", None)
            info.pop("executions", None)
        else:
            info["faults"], info["executions"] = self._step_records, list(self._executions)
        return info

    @property
    def snapshot(self) -> Callable[[], FaultSnapshot]:
        """`snapshot()`: the state of environment and faults.

        A property that returns a function, so that there is no such attribute (`hasattr`) on an environment that has
        none: a snapshot of the faults alone could not be restored.
        """
        snapshot_env: Callable[[], Any] = self.env.get_wrapper_attr("snapshot")

        def take() -> FaultSnapshot:
            return FaultSnapshot(
                snapshot_env(),
                (self._pipeline.snapshot(), list(self._records), list(self._step_records)),
                self._episode,
                copied(self._last_observation),
                copy.deepcopy(self._info),
                self._reply,
                self._world_time_s - self.clock.now(),
            )

        return take

    @property
    def restore(self) -> Callable[[FaultSnapshot], Any]:
        """`restore(snapshot)`: back to where it was taken; what comes next is the same as it was then.

        A property for the reason that `snapshot` is one. Returns what the environment's own `restore` returns.
        """
        restore_env: Callable[[Any], Any] = self.env.get_wrapper_attr("restore")

        def restore_all(snapshot: FaultSnapshot) -> Any:
            result = restore_env(snapshot.below)
            faults, records, step_records = snapshot.faults
            self._pipeline.restore(faults)
            self._records, self._step_records = list(records), list(step_records)
            self._episode, self._last_observation = snapshot.episode, copied(snapshot.last_observation)
            self._info, self._reply = copy.deepcopy(snapshot.info), snapshot.reply
            self._world_time_s = self.clock.now() + snapshot.ahead_s
            return result

        return restore_all


def in_space_order(space: gym.Space[Any], observation: Any) -> Any:
    """An observation with its keys in the order in which its space has them, as a batch has them: faults count places.

    The very same object where they are.
    """
    if isinstance(space, spaces.Dict) and isinstance(observation, dict) and observation.keys() == space.spaces.keys():
        parts = {key: in_space_order(inner, observation[key]) for key, inner in space.spaces.items()}
        same = list(parts) == list(observation) and all(part is observation[key] for key, part in parts.items())
        return observation if same else parts
    if isinstance(space, spaces.Tuple) and isinstance(observation, tuple) and len(observation) == len(space.spaces):
        items = tuple(map(in_space_order, space.spaces, observation))
        return observation if all(map(operator.is_, items, observation)) else items
    return observation


def nearest_faults(env: gym.Env[Any, Any]) -> InjectFaults | None:
    """The outermost faults already on an environment."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, InjectFaults):
            return env
        env = env.env
    return None
