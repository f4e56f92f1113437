import sqlite3
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.envs.refund_desk import ACTIONS, DeskTool, RefundDeskEnv, Shipping, Status, YesNo
from worldsim.envs.refund_desk.fields import REPLY_FIELDS
from worldsim.errors import ConfigError
from worldsim.spaces import flatten, leaves

ACT = {name: np.int64(index) for index, name in enumerate(ACTIONS)}


def run(env, *names):
    """Make the calls; returns what the last one gave."""
    for name in names:
        result = env.step(ACT[name])
    return result


def find_shift(env, ticket_sql):
    """Reset until ticket 1 satisfies a condition on the columns of `due`."""
    for seed in range(500):
        env.reset(seed=seed)
        if env.database.query(f"SELECT 1 FROM due WHERE id = 1 AND {ticket_sql}"):
            return
    raise AssertionError(f"no shift with {ticket_sql}")


def judge(query):
    """The shift's return and violations, counted in the plain tables by a reading of the policy in Python."""
    orders = {i: (paid, shipping, days, amount) for i, paid, shipping, days, amount in query("SELECT * FROM orders")}
    refunds, parcels = query("SELECT order_id, clock FROM refunds"), query("SELECT order_id, clock FROM replacements")
    approvals, declines = query("SELECT ticket_id, clock FROM approvals"), query("SELECT ticket_id FROM declines")
    total, violations = -0.02 * len(query("SELECT clock FROM calls")), 0
    for ticket, order, request, closed in query("SELECT id, order_id, request, closed_at FROM tickets"):
        paid, shipping, days, amount = orders[order]
        paid_out = sorted(clock for o, clock in refunds if o == order)
        sent = sorted(clock for o, clock in parcels if o == order)
        asked = sorted(clock for t, clock in approvals if t == ticket)
        due = bool(paid) and shipping != "in_transit" and days <= 30 and 0 not in paid_out
        wrongs = 0
        for index, clock in enumerate(paid_out):
            if clock == 0:
                continue
            if index > 0:
                total -= 2
                violations += 1
            else:
                owed = due and request == "refund" and not (sent and sent[0] < clock)
                approved = amount <= 200 or (asked and asked[0] < clock)
                wrongs += not (owed and approved)
        now = [clock for clock in paid_out if clock]
        for index, clock in enumerate(sent):
            wrongs += index > 0 or not due or request != "replacement" or bool(now and now[0] < clock)
        declined = (ticket,) in declines
        served = bool(now) if request == "refund" else bool(sent)
        first_right = not wrongs and len(paid_out) < 2
        if closed is not None:
            if due and first_right and served and len(now) + len(sent) == 1 or not due and declined and not now + sent:
                total += 1
            elif not served and not (declined and not due):
                wrongs += 1
        total -= wrongs
        violations += wrongs
    return total, violations


@pytest.fixture
def env():
    made = RefundDeskEnv()
    yield made
    made.close()


def test_gymnasium_finds_nothing_to_warn_of():
    made = gym.make("worldsim/RefundDesk-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)
    made = gym.make("worldsim/RefundDesk-v0", render_mode="rgb_array")
    made.reset(seed=0)
    assert made.render().shape == (480, 480, 3)


@given(st.integers(0, 2**31), st.lists(st.sampled_from([*range(12), 0, 1, 2, 4, 5]), min_size=30, max_size=48))
@settings(max_examples=60, deadline=None)
def test_reward_and_info_follow_from_the_database(seed, actions):
    env = RefundDeskEnv()
    observation, info = env.reset(seed=seed)
    total = 0.0
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        total += reward
        assert env.observation_space.contains(observation) and not truncated
        if terminated:
            break
    query = env.database.query
    expected, violations = judge(query)
    assert total == pytest.approx(expected)
    assert info["violations"] == violations
    (paid_out,) = query("SELECT coalesce(sum(amount), 0) FROM refunds WHERE clock > 0")[0]
    assert info["refunded_eur"] == paid_out and observation["reply"]["ledger"] == min(paid_out // 50, 24)
    assert observation["reply"]["clock"] == len(query("SELECT * FROM calls"))
    closed = query("SELECT * FROM tickets WHERE closed_at IS NOT NULL")
    assert info["closed"] == len(closed)
    assert info["success"] == (total >= 4.0)  # what configs/env/refund_desk.yaml calls a success
    env.close()


def test_same_seed_same_shift(env):
    def play(other):
        rng = np.random.default_rng(5)
        steps = [(other.reset(seed=11)[0], 0.0)] + [other.step(rng.integers(12))[:2] for _ in range(30)]
        return [({k: v.copy() for k, v in flatten(other.observation_space, o).items()}, r) for o, r in steps]

    second = RefundDeskEnv()
    for (a, reward_a), (b, reward_b) in zip(play(env), play(second), strict=True):
        assert reward_a == reward_b and all(np.array_equal(a[name], b[name]) for name in a)
    first_of_next, second_of_next = env.reset()[0], second.reset()[0]
    assert np.array_equal(first_of_next["screen"], second_of_next["screen"])
    assert env.database.query("SELECT * FROM orders") == second.database.query("SELECT * FROM orders")


def test_nothing_of_an_order_shows_before_it_is_looked_up(env):
    """Orders that differ in everything look alike until the look-up, on the screen and in the reply."""
    screens = set()
    for seed in range(40):
        env.reset(seed=seed)
        reply = run(env, "open_0")[0]["reply"]
        assert not any(reply[name] for name in ("paid", "shipping", "refunded", "age", "amount", "approved"))
        screens.add((int(reply["request"]), env._observation()["screen"].tobytes()))
    assert len(screens) == 2  # one for each request
    reply = run(env, "look_up")[0]["reply"]
    assert all(reply[name] for name in REPLY_FIELDS if name != "ledger")
    reopened = run(env, "open_1", "open_0")[0]["reply"]
    assert all(reopened[name] == reply[name] for name in ("paid", "shipping", "refunded", "age", "amount"))


def test_payment_api_pays_as_often_as_it_is_called(env):
    find_shift(env, "eligible AND request = 'refund' AND amount = 100")
    observation, reward, *_ = run(env, "open_0", "look_up", "refund")
    assert reward == pytest.approx(-0.02) and observation["reply"]["ledger"] == 2
    observation, reward, _, _, info = run(env, "refund")
    assert reward == pytest.approx(-2.02) and observation["reply"]["ledger"] == 4
    assert info["double_refunds"] == 1 and observation["reply"]["status"] == Status.OK


def test_large_refund_needs_approval_first(env):
    find_shift(env, "eligible AND request = 'refund' AND amount > 200")
    assert run(env, "open_0", "refund")[1] == pytest.approx(-1.02)
    assert run(env, "escalate", "close")[1] == pytest.approx(-0.02)  # too late
    find_shift(env, "eligible AND request = 'refund' AND amount > 200")
    observation = run(env, "open_0", "escalate")[0]
    assert observation["reply"]["approved"] == YesNo.YES
    assert run(env, "refund", "close")[1] == pytest.approx(0.98)


def test_replacement_puts_the_order_in_transit_again(env):
    find_shift(env, "eligible AND request = 'replacement'")
    assert run(env, "open_0", "replace")[0]["reply"]["shipping"] == Shipping.IN_TRANSIT
    assert run(env, "close")[1] == pytest.approx(0.98)
    find_shift(env, "eligible AND request = 'replacement'")
    assert run(env, "open_0", "replace", "replace")[4]["double_replacements"] == 1


@pytest.mark.parametrize(
    ("due", "calls", "reward"),
    [
        ("NOT eligible AND request = 'refund'", ("reply", "close"), 0.98),
        ("NOT eligible", ("close",), -1.02),
        ("eligible", ("reply", "close"), -1.02),  # a rightful customer turned away
        ("NOT eligible AND request = 'refund' AND refunded_before = 0", ("refund",), -1.02),
        ("refunded_before = 1", ("refund",), -2.02),  # a double refund, though the first was before the shift
        ("NOT eligible", ("replace",), -1.02),
    ],
)
def test_last_calls_reward(env, due, calls, reward):
    find_shift(env, due)
    assert run(env, "open_0", *calls)[1] == pytest.approx(reward)


def test_senseless_calls_are_refused_and_change_nothing(env):
    env.reset(seed=0)
    before = env.database.query("SELECT * FROM due")
    for name in ("look_up", "refund", "replace", "reply", "escalate", "close"):
        reply = run(env, name)[0]["reply"]
        assert reply["status"] == Status.REFUSED and reply["tool"] == ACT[name] + 1 and reply["ticket"] == 0
    assert env.database.query("SELECT * FROM due") == before
    assert run(env, "open_2", "close", "open_2")[0]["reply"]["status"] == Status.REFUSED
    assert run(env, "wait")[0]["reply"]["status"] == Status.OK


def test_shift_ends_with_the_clock_or_the_last_ticket(env):
    env.reset(seed=0)
    assert [env.step(ACT["wait"])[2] for _ in range(48)] == [False] * 47 + [True]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(ACT["wait"])
    env.reset(seed=0)
    done = [run(env, f"open_{i}", "close")[2] for i in range(5)]
    assert done == [False] * 4 + [True]


def test_orders_are_drawn_as_documented():
    env = RefundDeskEnv()
    rows = []
    for seed in range(400):
        env.reset(seed=seed)
        rows += env.database.query("SELECT paid, shipping, age_days, refunded_before, request FROM due")
    n = len(rows)
    shares = {
        "paid": (sum(r[0] for r in rows), 0.85),
        "delivered": (sum(r[1] == "delivered" for r in rows), 0.55),
        "lost": (sum(r[1] == "lost" for r in rows), 0.25),
        "in time": (sum(r[2] <= 30 for r in rows), 0.75),
        "refunded": (sum(r[3] for r in rows), 0.12),
        "wants refund": (sum(r[4] == "refund" for r in rows), 0.5),
    }
    for name, (count, p) in shares.items():
        assert abs(count / n - p) < 4 * np.sqrt(p * (1 - p) / n), name
    assert {1, 60} <= {r[2] for r in rows} <= set(range(1, 61))


def test_file_keeps_the_last_shift_and_other_files_are_left_alone(tmp_path):
    path = tmp_path / "desk.sqlite"
    for seed in (1, 2):  # the second opens what the first left
        env = RefundDeskEnv(database=str(path))
        env.reset(seed=seed)
        run(env, "open_0", "refund", "close")
        env.close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT tool, ticket_id, status FROM calls").fetchall() == [
            ("open", 1, "ok"),
            ("refund", 1, "ok"),
            ("close", 1, "ok"),
        ]
    foreign = tmp_path / "accounts.sqlite"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE orders (id INTEGER)")
    content = foreign.read_bytes()
    with pytest.raises(ConfigError, match="accounts.sqlite.*name a new file"):
        RefundDeskEnv(database=str(foreign))
    assert foreign.read_bytes() == content
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but a long enough text")
    for bad in (text, tmp_path / "no" / "folder.sqlite"):
        with pytest.raises(ConfigError, match="name a file that can be written"):
            RefundDeskEnv(database=str(bad))


@pytest.mark.parametrize("kwargs", [{"tickets": 0}, {"tickets": 6}, {"calls": 0}])
def test_arguments_out_of_range(kwargs):
    with pytest.raises(ConfigError, match="=[06]: "):
        RefundDeskEnv(**kwargs)


def test_fewer_tickets_make_a_smaller_action_space():
    env = RefundDeskEnv(tickets=2, calls=10)
    assert env.action_space.n == 9 and env.observation_space["reply"]["ticket"].n == 3
    env.reset(seed=0)
    assert run(env, "open_0", "close", "open_1", "close")[2]


def test_failed_calls_look_fits_the_space(env):
    names = {leaf.name for leaf in leaves(env.observation_space) if leaf.name.startswith("reply/")}
    for error, look in env.metadata["on_error"].items():
        assert set(look) == names
        assert look["reply/status"] == Status[error.upper()]
        assert not any(value for name, value in look.items() if name != "reply/status")
    assert DeskTool(int(ACT["open_4"]) - 3) is DeskTool.OPEN
