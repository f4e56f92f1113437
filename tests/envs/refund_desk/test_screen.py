"""Everything that is needed to decide can be read off the pixels, by a reader that shares no code with the drawing."""

import numpy as np
import pytest

from worldsim.envs.refund_desk import RefundDeskEnv

GREEN, RED, GREY = (0, 200, 0), (230, 0, 0), (120, 120, 120)
GOOD_LAMP = {GREY: 0, RED: 1, GREEN: 2}
BAD_LAMP = {GREY: 0, GREEN: 1, RED: 2}
SHIPPING_LAMP = {GREY: 0, RED: 1, GREEN: 2, (0, 160, 255): 3}


def colour(pixels, x, y):
    return tuple(int(v) for v in pixels[y, x])


def lit(pixels, y, x0, x1, ground=(0, 0, 0)):
    """Length of a bar that begins at x0."""
    return sum(colour(pixels, x, y) != ground for x in range(x0, x1))


def read_row(pixels, ticket):
    top = 8 * ticket
    ground = colour(pixels, 24, top)
    request = colour(pixels, 9, top + 1)
    bars = colour(pixels, 40, top + 3) == (0, 0, 0) and ground != (0, 0, 0) or colour(pixels, 40, top) in (GREEN, RED)
    return {
        "open": ground == (255, 255, 255),
        "closed": ground == (0, 0, 0),
        "request": {(255, 190, 0): 1, (0, 120, 255): 2}.get(request, 0),
        "paid": GOOD_LAMP[colour(pixels, 20, top + 4)],
        "shipping": SHIPPING_LAMP[colour(pixels, 28, top + 4)],
        "refunded": BAD_LAMP[colour(pixels, 36, top + 4)],
        "age": lit(pixels, top + 1, 40, 64) // 2 if bars else 0,
        "amount": lit(pixels, top + 5, 40, 64) // 4 if bars else 0,
        "approved": colour(pixels, 1, top + 1) == (170, 0, 255),
    }


@pytest.mark.parametrize("seed", range(12))
def test_rows_can_be_read(seed):
    env, rng = RefundDeskEnv(), np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(47):
        observation, _, terminated, _, info = env.step(rng.choice(12, p=[0.2, *[0.05] * 6, *[0.1] * 5]))
        pixels = observation["screen"]
        rows = env.database.query(
            """SELECT id, request, opened_at IS NOT NULL, looked_up_at IS NOT NULL, closed_at IS NOT NULL, paid,
               shipping, age_days, amount, refunds, refunded_before, replacements, approvals FROM desk"""
        )
        for ticket, request, opened, known, closed, paid, ship, days, amount, paid_out, before, sent, approvals in rows:
            shipping = ("unknown", "in_transit", "delivered", "lost").index(ship)
            assert read_row(pixels, ticket) == {
                "open": env._open == ticket,
                "closed": bool(closed),
                "request": opened and 1 + (request == "replacement"),
                "paid": known and 1 + paid,
                "shipping": 1 if sent else known and shipping,
                "refunded": 2 if paid_out or (known and before) else known,
                "age": known and -(-days // 5),
                "amount": known and (50, 100, 150, 250, 400).index(amount) + 1,
                "approved": approvals > 0,
            }
        clock = int(observation["reply"]["clock"])
        assert lit(pixels, 2, 0, 64, (40, 40, 48)) == round(64 * clock / 48)
        assert lit(pixels, 6, 0, 64, (40, 40, 48)) == round(64 * min(info["refunded_eur"] / 1200, 1))
        if terminated:
            break


def test_every_call_moves_the_clock_bar():
    env = RefundDeskEnv()
    last = env.reset(seed=0)[0]["screen"]
    for _ in range(48):
        screen = env.step(6)[0]["screen"]
        assert (screen[:4] != last[:4]).any()
        last = screen


def test_chips_tell_the_stages_apart():
    env = RefundDeskEnv()
    env.reset(seed=0)
    chips = [colour(env._observation()["screen"], 7, 15)]
    for actions in ([7], [0], [4], [3], [2], [2]):  # open, look up, escalate, reply, replace, replace again
        for action in actions:
            screen = env.step(action)[0]["screen"]
        chips.append(colour(screen, 7, 15))
    assert len(set(chips)) == len(chips)


def test_tools_and_statuses_have_colours_of_their_own():
    env = RefundDeskEnv()
    env.reset(seed=0)
    tools, statuses = {}, {}
    for action in (0, 7, 0, 1, 2, 3, 4, 5, 6, 7):
        observation = env.step(action)[0]
        tool, status = (int(observation["reply"][name]) for name in ("tool", "status"))
        tools.setdefault(tool, set()).add(colour(observation["screen"], 12, 56))
        statuses.setdefault(status, set()).add(colour(observation["screen"], 36, 56))
    assert all(len(places) == 1 for places in (*tools.values(), *statuses.values()))
    assert len(set.union(*tools.values())) == 8 and len(set.union(*statuses.values())) == 2
