"""Plausible lies, of a World with fresh weights and of one that has learned a desk, against measures from outside."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import batch_space
from scipy.stats import binomtest, ks_2samp

from tests.simulator.conftest import one_thread, world_folder  # noqa: F401  (fixtures)
from tests.simulator.stub_world import IMAGE_SPACE
from tests.test_docs_faults import generate
from tests.wrappers.test_vector import play_both
from worldsim import faults
from worldsim.envs.make import make_env
from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.faults.conformance import CallOutcome, MockService, check_fault
from worldsim.faults.keys import CallRandom, fold_in, new_key
from worldsim.faults.kinds.lies import random_actions
from worldsim.faults.trees import copied
from worldsim.simulator.world import load
from worldsim.spaces import flatten, unflatten_batch
from worldsim.wrappers import InjectFaults, VectorInjectFaults


def lies(folder: Any, severity: float, calls: int = 5, **settings: Any) -> dict[int, CallOutcome]:
    """Those of so many calls that are lied to, by their places: a share of them as great as the severity."""
    fault = faults.PlausibleLie(severity=severity, world=folder, rate=1.0, **settings)
    return {each.at: each for each in MockService(IMAGE_SPACE).run([fault], calls) if each.records}


def distances(folder: Path, outcomes: Sequence[CallOutcome]) -> list[float]:
    """Latent distances between what was shown and what was there, by the model itself."""
    world = load(folder)
    shown, true = ([flatten(IMAGE_SPACE, payload) for payload in payloads] for payloads in _pairs(outcomes))
    codes = [world.codes({name: np.stack([row[name] for row in rows]) for name in rows[0]}) for rows in (shown, true)]
    return np.sqrt(np.square(codes[0].astype(float) - codes[1]).mean(1)).tolist()


def _pairs(outcomes: Sequence[CallOutcome]) -> tuple[list[Any], list[Any]]:
    return [each.reply.payload for each in outcomes], [each.answers[0].payload for each in outcomes]


def test_it_keeps_what_every_fault_keeps(world_folder: Path) -> None:  # noqa: F811
    build = partial(faults.PlausibleLie, world=str(world_folder), rate=1.0, dreams=3, ticks=2)
    check_fault(build, IMAGE_SPACE, calls=12, statistic=lambda outcomes: sum(map(distance_shown, outcomes)))


def distance_shown(each: CallOutcome) -> float:
    return sum(record.details["distance"] for record in each.records)


def test_a_lie_is_valid_in_every_leaf_and_never_the_truth(world_folder: Path) -> None:  # noqa: F811
    for severity, calls in ((0.02, 150), (0.5, 10), (1.0, 5)):
        found = lies(str(world_folder), severity, calls)
        assert len(found) == pytest.approx(severity * calls, abs=3)
        for each in found.values():
            assert each.reply.payload in IMAGE_SPACE
            assert not np.array_equal(each.reply.payload["screen"], each.answers[0].payload["screen"])


def test_severity_is_distance_in_latent_space(world_folder: Path) -> None:  # noqa: F811
    found = [lies(str(world_folder), severity, 50) for severity in (0.1, 0.4, 0.7, 1.0)]
    first = found[0].keys()  # who is lied to mildly is lied to gravely, too
    assert len(first) > 2 and all(first <= each.keys() for each in found)
    far = []
    for each in found:
        outcomes = [each[at] for at in first]
        far.append(distances(world_folder, outcomes))
        assert far[-1] == pytest.approx([distance_shown(outcome) for outcome in outcomes], rel=1e-4)
    table = np.array(far)
    assert (np.diff(table, axis=0) >= -1e-6).all() and (table[-1] > table[0]).all()


def test_codes_are_a_function_of_the_observation_alone(world_folder: Path) -> None:  # noqa: F811
    world = load(world_folder)
    rows = [flatten(IMAGE_SPACE, IMAGE_SPACE.sample()) for _ in range(3)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    together = world.codes(batch)
    alone = np.concatenate([world.codes({name: value[i : i + 1] for name, value in batch.items()}) for i in range(3)])
    assert together.shape[0] == 3 and np.allclose(together, alone, atol=1e-5)
    assert np.array_equal(together, world.codes(batch))


def test_only_targets_lie(world_folder: Path) -> None:  # noqa: F811
    for each in lies(load(world_folder), 1.0, targets=["screen"]).values():
        assert each.reply.payload["mode"] == each.answers[0].payload["mode"]
        assert not np.array_equal(each.reply.payload["screen"], each.answers[0].payload["screen"])


def test_without_a_world_or_with_another_ones_observations_it_says_so(world_folder: Path) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match="plausible_lie: world must be the folder of a trained world"):
        MockService(IMAGE_SPACE).run([faults.PlausibleLie()], 1)
    with pytest.raises(SpaceMismatchError, match="give the world that was learned from this environment"):
        MockService(spaces.Dict(total=spaces.Discrete(3))).run([faults.PlausibleLie(world=str(world_folder))], 1)
    idle = faults.PlausibleLie(world=str(world_folder)).idle_reason(None, None)
    assert idle == "there are no observations of a world"


def test_a_mistake_about_its_world_names_its_line_of_the_plan(world_folder: Path) -> None:  # noqa: F811
    def plan(world: str) -> faults.Plan:
        return faults.Plan.from_yaml(f"faults:\n  - kind: plausible_lie\n    severity: 0.4\n{world}")

    for world, says in {
        "": r"plan.yaml:2: plausible_lie: world must be the folder of a trained world, got nothing",
        "    world: nowhere\n": r"plan.yaml:4: nowhere holds no world .*; train one with: worldsim train out=nowhere",
        "    world: 3\n": r"plan.yaml:4: plausible_lie: world must be the folder of a trained world, got 3",
        f"    world: {world_folder}\n": r"plan.yaml:4: plausible_lie: another world's .*; lamps is nothing here",
    }.items():
        with pytest.raises(ConfigError, match=f"^{says}") as caught:
            InjectFaults(gym.make("worldsim/RefundDesk-v0"), plan(world))
        assert "\n" not in str(caught.value)
    InjectFaults(gym.make("worldsim/RefundDesk-v0"), plan("").at(0))


# --- of a World that has learned ---

SEVERITIES = (0.1, 0.4, 0.7, 1.0)


@pytest.fixture(scope="module")
def desk_world(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(generate.small_world(tmp_path_factory.mktemp("desk")))


def desk() -> gym.Env[Any, Any]:
    return make_env(generate.SMALL_DESK)


Pair = tuple[Any, Any]  # what is there, and what is shown


@pytest.fixture(scope="module")
def shown_by(desk_world: str) -> dict[float, dict[tuple[int, int], Pair]]:
    """By severity the lies at calls of careful shifts, by shift and call."""
    found: dict[float, dict[tuple[int, int], Pair]] = {severity: {} for severity in SEVERITIES}
    actions = [np.int64(generate.ACTIONS.index(name)) for name in generate.SHIFT[:20]]
    for severity in SEVERITIES:
        bare, env = desk(), InjectFaults(desk(), [faults.PlausibleLie(world=desk_world, severity=severity, rate=1.0)])
        for shift in range(4):
            bare.reset(seed=shift), env.reset(seed=shift)
            for call, action in enumerate(actions):
                true, (shown, _, _, _, info) = copied(bare.step(action)[0]), env.step(action)
                if info["faults"]:
                    found[severity][shift, call] = true, copied(shown)
    return found


def everywhere(shown_by: Any) -> dict[float, list[Pair]]:
    """The lies at those calls that are lied to at every severity."""
    first = shown_by[SEVERITIES[0]].keys()
    return {severity: [pairs[at] for at in first] for severity, pairs in shown_by.items()}


def wrong_fields(true: Any, shown: Any) -> int:
    return sum(true["reply"][name] != shown["reply"][name] for name in true["reply"])


def test_lies_about_a_desk_are_valid_in_every_field_and_never_the_truth(shown_by: Any) -> None:
    space = desk().observation_space
    for pairs in shown_by.values():
        for true, shown in pairs.values():
            assert shown in space and set(shown["reply"]) == set(true["reply"])
            assert wrong_fields(true, shown) or not np.array_equal(true["screen"], shown["screen"])


def test_graver_lies_about_a_desk_are_further_from_the_truth(shown_by: Any, desk_world: str) -> None:
    """In latent space call by call, and in what was never asked for: fields and grey levels that are wrong."""
    world, space = load(Path(desk_world)), desk().observation_space

    def codes(payloads: list[Any]) -> Any:
        rows = [flatten(space, payload) for payload in payloads]
        return world.codes({name: np.stack([row[name] for row in rows]) for name in rows[0]})

    lies_by = everywhere(shown_by)
    assert len(lies_by[1.0]) > 5
    far = [codes([shown for _, shown in pairs]) - codes([true for true, _ in pairs]) for pairs in lies_by.values()]
    latent = np.sqrt(np.square(far).mean(2))  # (severity, call)
    assert (np.diff(latent, axis=0) >= -1e-6).all() and (latent[-1] > 1.2 * latent[0]).all()
    fields = [np.mean([wrong_fields(*pair) for pair in pairs]) for pairs in lies_by.values()]
    grey = [
        np.mean([np.abs(true["screen"].astype(float) - shown["screen"]) for true, shown in pairs])
        for pairs in lies_by.values()
    ]
    assert fields[0] < 0.7 * fields[-1] and grey[0] < grey[-1]


def test_lies_about_a_desk_look_right(shown_by: Any) -> None:
    """Everything about an order is known or nothing is. The desk keeps to that always, a world that has learned for a
    few seconds mostly, fields drawn each for itself seldom.
    """

    def coherent(reply: Any) -> bool:
        about = {bool(reply[name]) for name in ("paid", "amount", "age", "shipping", "refunded")}
        return len(about) == 1

    assert all(coherent(true["reply"]) for pairs in shown_by.values() for true, _ in pairs.values())
    replies = [shown["reply"] for pairs in shown_by.values() for _, shown in pairs.values()]
    rng = np.random.default_rng(0)
    mixed = [{name: replies[rng.integers(len(replies))][name] for name in replies[0]} for _ in range(400)]
    right = sum(coherent(reply) for reply in replies)
    chance = float(np.mean([coherent(reply) for reply in mixed]))
    assert binomtest(right, len(replies), chance, "greater").pvalue < 1e-6, (right, len(replies), chance)


def test_lies_on_vectors_are_those_on_each_environment(desk_world: str) -> None:
    plan = [faults.PlausibleLie(world=desk_world, severity=0.6, rate=0.5, dreams=3, ticks=2)]
    ours = VectorInjectFaults(SyncVectorEnv([desk] * 3), plan, seed=5)
    theirs = SyncVectorEnv([lambda: InjectFaults(desk(), plan, seed=5)] * 3)
    records = play_both(ours, theirs, 8)
    assert len(records) > 5 and {record.kind for record in records} == {"plausible_lie"}


def test_lies_are_the_same_however_many_are_made_at_once(desk_world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [faults.PlausibleLie(world=desk_world, severity=0.6, rate=0.8, dreams=3, ticks=2)]
    ours, theirs = (VectorInjectFaults(SyncVectorEnv([desk] * 6), plan, seed=5) for _ in range(2))
    seen: list[Any] = [ours.reset(seed=1), theirs.reset(seed=1)]
    for action in range(6):
        monkeypatch.setattr("worldsim.faults.kinds.lies._AT_ONCE", 2048)
        together = ours.step(np.full(6, action))
        monkeypatch.setattr("worldsim.faults.kinds.lies._AT_ONCE", 18)  # two replies
        by_twos = theirs.step(np.full(6, action))
        assert data_equivalence(together[0], by_twos[0], exact=True)
        seen += [list(each) for each in together[-1]["faults"]]
        for mine, yours in zip(together[-1]["faults"], by_twos[-1]["faults"], strict=True):
            assert [record.details["distance"] for record in mine] == pytest.approx(
                [record.details["distance"] for record in yours], rel=1e-5
            )


BOUNDS = np.array([[-1, 1], [0, np.inf], [-np.inf, 3], [-np.inf, np.inf]])
ACTIONS = spaces.Dict(
    {
        "move": spaces.Discrete(4, start=2),
        "keys": spaces.MultiBinary(3),
        "choices": spaces.MultiDiscrete([2, 5], start=[1, 0]),
        "word": spaces.Text(3, min_length=0),
        "push": spaces.Box(BOUNDS[:, 0].astype(np.float32), BOUNDS[:, 1].astype(np.float32)),
        "level": spaces.Box(-3, 4, (2,), np.int8),
        "look": spaces.Box(0, 255, (9, 8, 3), np.uint8),
    }
)


def test_actions_of_dreams_are_drawn_as_the_space_draws_them() -> None:
    random = CallRandom(fold_in(np.array([new_key(3)], np.uint64), np.arange(300)))
    batch = unflatten_batch(ACTIONS, random_actions(ACTIONS, random, 10))
    assert batch in batch_space(ACTIONS, 3000)
    ACTIONS.seed(0)
    drawn = [ACTIONS.sample() for _ in range(3000)]
    for index in range(4):
        theirs = [each["push"][index] for each in drawn]
        assert ks_2samp(batch["push"][:, index], theirs).pvalue > 0.001
    for name, size in {"move": 4, "keys": 2, "choices": 5, "level": 8}.items():
        values = np.asarray(batch[name]).reshape(3000, -1)[:, -1]
        assert len(set(values.tolist())) == size
        assert values.mean() == pytest.approx(np.mean([np.ravel(each[name])[-1] for each in drawn]), abs=0.3)
    alone = random_actions(ACTIONS, random[[7]], 10)
    together = random_actions(ACTIONS, random, 10)
    assert all(np.array_equal(rows, together[name][70:80]) for name, rows in alone.items())


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
def test_lies_pass_gymnasiums_checks_and_come_with_specs(desk_world: str) -> None:
    plan = [{"kind": "plausible_lie", "world": desk_world, "rate": 1.0, "dreams": 2, "ticks": 1}]
    env = InjectFaults(desk(), plan)
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(twin, InjectFaults) and twin.observation_space == env.observation_space
