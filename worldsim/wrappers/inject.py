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
from worldsim.faults.log import FaultLog
from worldsim.faults.pipeline import NO_RECORDS, ForwardContext, OuterCall
from worldsim.faults.replies import Replies
from worldsim.faults.stage import checked_seed
from worldsim.faults.trees import ABSENT, TreePath, copied, from_json, get, leaves_of, put
from worldsim.faults.views import PayloadView, view_of
from worldsim.wrappers.moving import ON_TIME, idle_action, repeats_last, step_seconds
from worldsim.wrappers.texts import reply_with_text
from worldsim.wrappers.tools import SessionActions, action_tools

_CALM = Reply(None)
_ROW = np.zeros(1, np.int64)


@dataclass(frozen=True)
class FaultSnapshot:
    """An environment's state with that of the faults on it."""

    below: Any
    faults: Any
    episode: tuple[int, ...]
    seen: Any
    info: dict[str, Any]
    reply: Reply
    world_s: float


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
        clock: passes with the latencies; by default that of faults further in, else a new `VirtualClock`.
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
        self._below = nearest_faults(env)
        self._blind = blind or (self._below is not None and self._below._blind)
        fresh: Clock = WallClock() if time == "wall" else VirtualClock()
        self.clock: Clock = clock or (self._below.clock if self._below else fresh)
        self._step_s = step_seconds(env.metadata, time, step_s)
        self._rest = idle_action(hold, env.action_space) if time else None
        self._holds_last = repeats_last(hold)
        self._world_s = 0.0  # on the clock: up to when the world has moved
        self._last: Any = self._rest  # the last action that arrived
        self._tools = action_tools(env.metadata, env.action_space)
        self._made = SessionActions(self._tools)
        self._wait_s: Mapping[str, float] = env.metadata.get("wait_s", {})
        space = env.observation_space
        self._text = space if isinstance(space, spaces.Text) else None
        wide = any(getattr(fault, "out_of_space", False) for fault in built if not fault.idle)
        self._any_text: bool = wide or (self._below is not None and self._below._any_text)
        self._leaves = leaves_of(env.observation_space)
        self._scalars = [leaf for leaf in self._leaves if isinstance(leaf.space, spaces.Box) and not leaf.space.shape]
        self._forms: dict[TreePath, type] = {}  # as what the environment gives scalars that are no arrays
        self._nested = isinstance(space, spaces.Dict | spaces.Tuple)
        self._on_error: Mapping[str, Mapping[str, Any]] = env.metadata.get("on_error", {})
        plan.check(self._tools.names, None if self._text else self._leaves)
        self._pipeline = Pipeline(
            [(fault, checked_seed(seed)) for fault in built],
            None if self._text else self._leaves,
            self._tools.names,
            self.clock,
            missing=env.metadata.get("on_missing", {}),
            below=self._below._pipeline.kinds if self._below else None,
            one_request=self._tools.one_request,
            text=self._text,
            possible=self._possible if self._tools.by_name else None,
        )
        self._records: list[Sequence[FaultRecord]] = []  # what was done to each call of this episode
        self._now: Sequence[FaultRecord] = NO_RECORDS  # what was done to the present call
        self._view: PayloadView | None = None  # how the observation was opened, where it is a text with JSON
        self._asked: Any = None  # the action that was made
        self._outer: OuterCall | None = None  # of a call that comes from faults further out: which it is
        self._counts_as = ""  # the tool that counts for what is drawn
        self._joint: Mapping[Any, Any] = {}  # its numbers among the calls of several tools together
        self._keeps = self._below is not None or not self._pipeline.idle
        self._episode: tuple[int, ...] = (-1, 0)  # the seed of the last seeded reset, and resets since
        self._seen: Any = None  # the last observation that reached the agent
        self._info: dict[str, Any] = {}
        self._reply = _CALM
        self._rewards: list[Any] = []  # of this step
        self._further_in_s = 0.0  # seconds that faults further in made it take
        self._executions: list[Any] = []  # those of them that the call itself has earned
        self._terminated = self._truncated = False

    @property
    def records(self) -> list[FaultRecord]:
        """What the faults of this wrapper and of those further in did in this episode."""
        return [record for records in self._records for record in records]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = (self._episode[0], self._episode[1] + 1) if seed is None else (int(seed), 0)
        self._info, self._executions = dict(info), []
        self._reply = _CALM
        if self._keeps:
            self._seen = copied(observation)
        self._records, self._now = [], NO_RECORDS
        self._made.begin()
        shown = self._opened(observation)
        self._pipeline.start(_ROW, [self._episode], lambda: Replies.single(Reply(shown)))
        self._world_s, self._last = self.clock.now(), self._rest
        return observation, self._shown_info()

    def wait(self, seconds: float) -> None:
        """Let time pass on the clock, in seconds, 0 or more: nothing is called meanwhile."""
        if not seconds >= 0:
            raise ConfigError(f"wait({seconds!r}): the seconds to wait must be 0 or more")
        self.clock.sleep(seconds)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._rewards, self._executions, self._further_in_s = [], [], 0.0
        self._terminated = self._truncated = False
        self._below_records: list[FaultRecord] = []
        self._asked = action
        tool, arguments = self._made.call(action)
        outer, self._outer = self._outer, None
        self._counts_as = tool if outer is None else outer.tool
        if outer is None:
            if self._wait_s:
                self.clock.sleep(self._wait_s.get(tool, 0.0))
            if self._below is not None:
                self._count_further_in(tool)
        reply, own = self._pipeline.call(tool, arguments, self._carry_out, outer)
        if self._further_in_s:
            reply = reply._replace(latency_s=reply.latency_s + self._further_in_s)
        self._now = [*self._below_records, *own] if self._below_records else own
        if self._now is not NO_RECORDS:  # what was done is written down when somebody looks
            self._records.append(self._now)
        if self._step_s:
            self._move_on()
        if self._view is not None and self._text is not None:
            reply = reply_with_text(self._view, reply, self._text, self._any_text)
        self._reply = reply
        if reply.payload is LOST:
            observation = self._as_given(self._at_error(reply.error))
        else:
            observation = self._as_given(reply.payload)
            if self._keeps:
                self._seen = copied(observation)
        rewards = self._rewards
        reward = rewards[0] if len(rewards) == 1 else sum(rewards, 0.0)
        return observation, reward, self._terminated, self._truncated, self._shown_info()

    def _possible(self, row: int, call: Call) -> bool:
        """Whether there is an action that makes a call."""
        return self._made.action(call.tool, call.arguments, self._asked) in self.env.action_space

    def _count_further_in(self, tool: str) -> None:
        """Faults further in count a call that begins here whether it reaches them or not, as if all were in one row."""
        below = self._below
        while below is not None:
            below._joint = below._pipeline.count_joint(tool)
            below = below._below

    def _opened(self, observation: Any) -> Any:
        """An observation as faults see it."""
        if self._text is not None:
            self._view = view_of(observation)
            return self._view.inner
        if not self._keeps:
            return observation
        return self._with_arrays(in_order(self.env.observation_space, observation) if self._nested else observation)

    def _with_arrays(self, observation: Any) -> Any:
        """An observation whose scalars are arrays without axes, as in a batch: that is what faults on numbers know."""
        for leaf in self._scalars:
            value = get(observation, leaf.path)
            self._forms.pop(leaf.path, None)
            if isinstance(value, np.generic | float | int):
                self._forms[leaf.path] = type(value)
                array = np.asarray(value)
                array = array if isinstance(value, np.generic) else array.astype(leaf.space.dtype)
                observation = put(observation, leaf.path, array)
        return observation

    def _as_given(self, observation: Any) -> Any:
        """An observation whose scalars come as the environment gives them."""
        for path, form in self._forms.items():
            value = get(observation, path)
            if isinstance(value, np.ndarray) and not value.ndim:
                observation = put(observation, path, value[()] if issubclass(form, np.generic) else value.item())
        return observation

    def _carry_out(self, call: Call, trip: ForwardContext) -> Reply:
        """Where the last fault passes the call on: step the environment."""
        action = self._made.action(call.tool, call.arguments, self._asked)
        if self._below is not None:  # faults further in go on from here, as if all were in one row
            self._below._outer = OuterCall(self._counts_as, call.number, self._below._joint, trip.deadline_s)
        if self._step_s:
            self._move_on()
            self._last = action
        steps = len(self._rewards)
        reply = self._take(action, trip.log)
        if len(self._rewards) > steps:
            self._executions += self._rewards[steps:] if self._below is None else self._below._executions
        if not self._step_s:
            return reply
        self._world_s += self._step_s
        self.clock.sleep(max(0.0, self._world_s - self.clock.now()))
        return reply

    def _move_on(self) -> None:
        """The world goes on by itself up to the present, a whole step at a time."""
        assert self._step_s is not None, "the world stands still"
        tick_s = self._step_s * ON_TIME
        while self.clock.now() - self._world_s >= tick_s and not (self._terminated or self._truncated):
            self._take(self._last if self._holds_last else self._rest)
            self._world_s += self._step_s

    def _take(self, action: Any, log: FaultLog | None = None) -> Reply:
        """Step the environment, unless the episode has ended: a call that is carried out twice may find it so."""
        if self._terminated or self._truncated:
            return self._reply
        observation, reward, self._terminated, self._truncated, info = self.env.step(action)
        self._rewards.append(reward)
        self._info = info
        if self._below is not None:
            if log is None:
                self._below_records += self._below._now
            else:
                log.extend(0, self._below._now)
            self._further_in_s += self._below._reply.latency_s
            reply = self._below._reply._replace(latency_s=0.0)
            self._reply = reply if reply.payload is LOST else reply._replace(payload=self._opened(observation))
        else:
            self._reply = Reply(self._opened(observation))
        return self._reply

    def _at_error(self, error: str | None) -> Any:
        """What the agent sees when a call failed: what reached it last, and the error as the environment shows it."""
        observation = copied(self._seen)
        shown = self._on_error.get(error or "", self._on_error.get(ERRORS.get(error or "", ""), {}))
        for leaf in self._leaves:
            if leaf.name in shown and get(observation, leaf.path) is not ABSENT:
                observation = put(observation, leaf.path, from_json(leaf, shown[leaf.name]))
        return observation

    def _shown_info(self) -> dict[str, Any]:
        info = {**self._info, "reply": self._reply.to_json()}
        if self._blind:
            info.pop("faults", None)
            info.pop("executions", None)
        else:
            info["faults"], info["executions"] = self._now, list(self._executions)
        return info

    @property
    def snapshot(self) -> Callable[[], FaultSnapshot]:
        """`snapshot()`: the state of environment and faults, where the environment can tell its own."""
        below: Callable[[], Any] = self.env.get_wrapper_attr("snapshot")

        def take() -> FaultSnapshot:
            return FaultSnapshot(
                below(),
                (self._pipeline.snapshot(), list(self._records), list(self._now)),
                self._episode,
                copied(self._seen),
                copy.deepcopy(self._info),
                self._reply,
                self._world_s - self.clock.now(),
            )

        return take

    @property
    def restore(self) -> Callable[[FaultSnapshot], Any]:
        """`restore(snapshot)`: back to where it was taken; what comes next is the same as it was then."""
        below: Callable[[Any], Any] = self.env.get_wrapper_attr("restore")

        def go_back(snapshot: FaultSnapshot) -> Any:
            result = below(snapshot.below)
            faults, records, now = snapshot.faults
            self._pipeline.restore(faults)
            self._records, self._now = list(records), list(now)
            self._episode, self._seen = snapshot.episode, copied(snapshot.seen)
            self._info, self._reply = copy.deepcopy(snapshot.info), snapshot.reply
            self._world_s = self.clock.now() + snapshot.world_s
            return result

        return go_back


def in_order(space: gym.Space[Any], observation: Any) -> Any:
    """An observation with its keys in the order in which its space has them, as a batch has them: faults count places.

    The very same object where they are.
    """
    if isinstance(space, spaces.Dict) and isinstance(observation, dict) and observation.keys() == space.spaces.keys():
        parts = {key: in_order(inner, observation[key]) for key, inner in space.spaces.items()}
        same = list(parts) == list(observation) and all(part is observation[key] for key, part in parts.items())
        return observation if same else parts
    if isinstance(space, spaces.Tuple) and isinstance(observation, tuple) and len(observation) == len(space.spaces):
        items = tuple(map(in_order, space.spaces, observation))
        return observation if all(map(operator.is_, items, observation)) else items
    return observation


def nearest_faults(env: gym.Env[Any, Any]) -> InjectFaults | None:
    """The outermost faults already on an environment."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, InjectFaults):
            return env
        env = env.env
    return None
