import math
from importlib.resources import files

import numpy as np
import pytest
import yaml

from worldsim.agents import RandomAgent, make_agent
from worldsim.envs.refund_desk import ACTIONS, RefundDeskEnv, Status
from worldsim.envs.refund_desk.agents import LOOK_UP, WAIT, Blind, Careful, Curious, Hasty, open_
from worldsim.envs.refund_desk.env import WAIT_S
from worldsim.faults import fault_from_json
from worldsim.wrappers import InjectFaults

AGENTS = {"careful": Careful, "blind": Blind, "hasty": Hasty, "random": RandomAgent}


def play(factory, seed, fault=None, fault_rate=0.5):
    """One shift. `fault(env, action)` stands in for `env.step` at random calls, the same ones for every agent.

    Returns (return, actions, last info).
    """
    env, rng = RefundDeskEnv(), np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    agent = factory(env.observation_space, env.action_space)
    agent.reset(seed)
    total, actions, terminated = 0.0, [], False
    while not terminated:
        action = agent.act(observation, info)
        assert env.action_space.contains(action)
        actions.append(ACTIONS[int(action)])
        step = fault if fault and rng.random() < fault_rate else RefundDeskEnv.step
        observation, reward, terminated, _, info = step(env, action)
        total += reward
    env.close()
    return total, actions, info


def failed(result, status):
    """The same step with its reply lost."""
    observation, *rest = result
    reply = {name: np.int64(status if name == "status" else 0) for name in observation["reply"]}
    return {**observation, "reply": reply}, *rest


def lose_answer(env, action):
    return failed(env.step(action), Status.TIMEOUT)


def lose_request(env, action):
    return failed(env.step(ACTIONS.index("wait")), Status.TIMEOUT)


def lose_answer_and_say_so_in_info_only(env, action):
    observation, reward, terminated, truncated, info = env.step(action)
    return observation, reward, terminated, truncated, {**info, "reply": {"ok": False, "error": "timeout"}}


def drop_fields(env, action):
    observation, *rest = env.step(action)
    reply = dict(observation["reply"])
    for name in ("paid", "refunded", "age", "status", "clock")[:: 1 + int(reply["clock"]) % 2]:
        reply[name] = np.int64(0)
    return {**observation, "reply": reply}, *rest


def returns(name, fault=None, shifts=40):
    return np.array([play(AGENTS[name], seed, fault)[0] for seed in range(shifts)])


def test_clean_ranking():
    careful, blind, hasty, random = (returns(name) for name in AGENTS)
    assert (careful == blind).all() and (careful > 4.5).all()
    assert -4 < hasty.mean() < 0 and hasty.mean() - random.mean() > 4


def test_careful_and_blind_call_the_same_without_faults():
    for seed in range(40):
        total, actions, info = play(Careful, seed)
        assert actions == play(Blind, seed)[1]
        assert info["success"] and info["violations"] == 0
        assert len(actions) <= 25 and actions[:2] == ["open_0", "look_up"]


def test_hasty_never_looks_up():
    actions = play(Hasty, 0)[1]
    assert len(actions) == 15 and "look_up" not in actions and "escalate" not in actions


def test_what_curious_decides_hangs_on_its_seed_and_on_nothing_that_it_sees():
    shifts = [play(Curious, seed)[1] for seed in range(60)]
    assert shifts == [play(Curious, seed, wrong_values)[1] for seed in range(60)]
    assert len(set(map(tuple, shifts))) == 60
    pairs = {pair for shift in shifts for pair in zip(shift, shift[1:], strict=False)}
    for decision in ("refund", "replace", "reply", "escalate"):
        assert {("look_up", decision), ("open_0", decision), (decision, "close")} <= pairs
    assert {("refund", "refund"), ("replace", "replace"), ("refund", "replace")} <= pairs


@pytest.mark.parametrize("fault", [lose_answer, lose_answer_and_say_so_in_info_only])
def test_lost_answers_make_blind_pay_twice_and_not_careful(fault):
    twice = {}
    for name in ("careful", "blind"):
        ends = [play(AGENTS[name], seed, fault) for seed in range(40)]
        twice[name] = sum(info["double_refunds"] + info["double_replacements"] for *_, info in ends)
    assert twice["careful"] == 0 and twice["blind"] > 20
    assert (returns("careful", fault) - returns("blind", fault)).mean() > 2


@pytest.mark.parametrize("fault", [lose_request, drop_fields])
def test_careful_violates_nothing_and_beats_the_others(fault):
    for seed in range(40):
        assert play(Careful, seed, fault)[2]["violations"] == 0
    careful, blind, hasty = (returns(name, fault).mean() for name in ("careful", "blind", "hasty"))
    assert careful > blind > hasty


def test_careful_looks_before_it_repeats_a_payment():
    for seed in range(40):
        actions = play(Careful, seed, lose_answer)[1]
        for first, second in zip(actions, actions[1:], strict=False):
            assert not (first == second and first in ("refund", "replace"))


def wrong_values(env, action):
    """Half of the replies cannot be parsed; in the others a quarter of the fields hold another class."""
    observation, *rest = env.step(action)
    rng = np.random.default_rng([int(observation["reply"]["clock"]), int(action)])
    if rng.random() < 0.5:
        return failed((observation, *rest), Status.MALFORMED)
    reply = dict(observation["reply"])
    for name, space in env.observation_space["reply"].items():
        if rng.random() < 0.25:
            reply[name] = np.int64(rng.integers(space.n))
    return {**observation, "reply": reply}, *rest


def test_careful_grows_suspicious_of_wrong_values():
    ends = {name: [play(AGENTS[name], seed, wrong_values, 0.2) for seed in range(40)] for name in ("careful", "blind")}
    violations = {name: sum(info["violations"] for *_, info in shifts) for name, shifts in ends.items()}
    assert violations["careful"] <= 6 < 10 < violations["blind"]
    assert np.mean([total for total, *_ in ends["careful"]]) > np.mean([total for total, *_ in ends["blind"]]) + 0.3


GARBAGE = [
    None,
    math.nan,
    math.inf,
    -1,
    10**9,
    "refund",
    "",
    2.5,
    True,
    [],
    {},
    b"\0",
    np.array([1, 2]),
    np.array([]),
    object(),
]


@pytest.mark.parametrize("name", ["careful", "blind", "hasty"])
def test_no_garbage_stops_an_agent(name):
    """Whatever a reply holds, an agent answers with an action, for longer than a shift lasts."""
    env, rng = RefundDeskEnv(), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    whole = [{}, None, {"reply": None}, {"reply": "<html>502</html>"}, {"reply": {}}, [], 3, {"reply": [1, 2]}]
    for _ in range(20):
        agent = AGENTS[name](env.observation_space, env.action_space)
        agent.reset(0)
        for _ in range(60):
            reply = {key: GARBAGE[rng.integers(len(GARBAGE))] for key in observation["reply"] if rng.random() < 0.9}
            observed = {"reply": reply} if rng.random() < 0.8 else whole[rng.integers(len(whole))]
            info = [{}, {"reply": None}, {"reply": {"ok": False}}, {"reply": {"ok": True}}][rng.integers(4)]
            assert env.action_space.contains(agent.act(observed, info))


def test_careful_pays_nobody_on_garbage():
    def garble(env, action):
        observation, *rest = env.step(action)
        return {**observation, "reply": {name: 77 for name in observation["reply"]}}, *rest

    info = play(Careful, 0, garble, fault_rate=1.0)[2]
    assert info["refunded_eur"] == 0 and info["violations"] == 0


def test_reset_begins_anew():
    env = RefundDeskEnv()
    agent = Careful(env.observation_space, env.action_space)
    for _ in range(2):
        observation, info = env.reset(seed=3)
        agent.reset(0)
        assert ACTIONS[agent.act(observation, info)] == "open_0"
        assert ACTIONS[agent.act(env.step(7)[0], {})] == "look_up"


def test_configuration_names_the_agents():
    config = yaml.safe_load((files("worldsim") / "configs/env/refund_desk.yaml").read_text())
    env = RefundDeskEnv()
    made = {
        name: make_agent(name, env.observation_space, env.action_space, config["agents"]) for name in config["agents"]
    }
    assert {name: type(agent) for name, agent in made.items()} == {k: v for k, v in AGENTS.items() if k != "random"}


class Patient:
    """Asks somebody else what to do; after a refusal it waits for as long as it was asked to, and calls again."""

    def __init__(self, agent):
        self.agent, self.todo, self.asked = agent, [], None

    def act(self, observation, info):
        retry_after_s = info["reply"]["retry_after_s"] if self.asked != WAIT else None
        if retry_after_s:
            self.todo = [WAIT] * math.ceil(retry_after_s / WAIT_S) + [self.asked]
        self.asked = self.todo.pop(0) if self.todo else int(self.agent.act(observation, info))
        return self.asked


def served(agent, seed, fault):
    """Plays a shift behind a fault: seconds on the clock, calls that were refused, and the last info."""
    env = InjectFaults(RefundDeskEnv(), fault, seed=1)
    observation, info = env.reset(seed=seed)
    agent.reset(0) if hasattr(agent, "reset") else agent.agent.reset(0)
    refused = 0
    for _ in range(150):
        observation, _, terminated, _, info = env.step(agent.act(observation, info))
        refused += info["reply"]["error"] == "rate_limited"
        if terminated:
            break
    return env.clock.now(), refused, info


BUT_WAIT = [name for name in ACTIONS if name != "wait"]


def test_who_heeds_a_retry_after_is_served_and_who_hammers_is_not():
    fault = fault_from_json({"kind": "rate_limited", "severity": 1.0, "until_retry_after": True, "tools": BUT_WAIT})
    for seed in range(10):
        env = RefundDeskEnv()
        blind, careful = (cls(env.observation_space, env.action_space) for cls in (Blind, Careful))
        seconds, refused, info = served(Patient(blind), seed, fault)
        assert info["success"] and 0 < refused < 25 and seconds == WAIT_S * refused
        hammering_s, hammered, info = served(blind, seed, fault)
        assert not info["success"] and hammered > refused and hammering_s % WAIT_S == 0  # it waits when all is lost
        *_, info = served(careful, seed, fault)
        assert info["violations"] == 0  # it waits between tickets, not for as long as it is asked to


@pytest.mark.parametrize("retry_after_s, waits", [(2.0, 1), (5.0, 1), (12.0, 3)])
def test_one_wait_lets_five_seconds_pass(retry_after_s, waits):
    fault = {"kind": "rate_limited", "severity": 1.0, "rate": 1.0, "until_retry_after": True, "tools": ["look_up"]}
    env = InjectFaults(RefundDeskEnv(), [{**fault, "retry_after_s": retry_after_s}])
    env.reset(seed=0)
    env.step(open_(1))
    for _ in range(5):  # hammering does not help
        reply = env.step(LOOK_UP)[4]["reply"]
        assert reply["error"] == "rate_limited" and reply["retry_after_s"] == retry_after_s
    for number in range(waits):
        before_s = env.clock.now()
        observation, reward, *_, info = env.step(WAIT)
        assert env.clock.now() - before_s == WAIT_S == 5.0
        assert info["reply"] == {"ok": True, "error": None, "retry_after_s": None, "latency_s": 0.0}
        assert reward == pytest.approx(-0.02) and observation["reply"]["status"] == Status.OK
        if number < waits - 1:
            assert env.step(LOOK_UP)[4]["reply"]["retry_after_s"] == retry_after_s - WAIT_S * (number + 1)
    assert env.step(LOOK_UP)[4]["reply"]["ok"]
