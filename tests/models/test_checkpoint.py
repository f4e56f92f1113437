"""A world's directory: what is written is read, and what is damaged is told in one line."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gymnasium import spaces

from tests.models.conftest import ACTIONS, FAMILIES, NESTED, random_batch
from worldsim.errors import CheckpointError
from worldsim.files import SEAL, is_broken
from worldsim.models.checkpoint import FORMAT, WorldManifest, is_whole, open_world, save_world
from worldsim.models.config import ModelConfig
from worldsim.spaces import space_to_json


def manifest(config: ModelConfig, observed: spaces.Space = NESTED) -> WorldManifest:
    described = {"observation_space": space_to_json(observed), "action_space": space_to_json(ACTIONS)}
    about = {"horizon": 9, "metadata": {}, "env": {}, "data": {}, "training": {}, "reward_range": (-1.0, 1.0)}
    return WorldManifest(format=FORMAT, worldsim="test", model=config, **described, **about)


def saved(out: Path, family: str = "rssm") -> WorldManifest:
    described = manifest(FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        starts = {name: value[:, 0] for name, value in random_batch(4, 1).observation.items()}
        save_world(out, described, described.build(), starts)
    return described


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read(tmp_path: Path, family: str) -> None:
    described = saved(tmp_path, family)
    before = torch.get_rng_state()
    opened = open_world(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert opened.manifest.model_copy(update={"files": {}}) == described and is_whole(tmp_path, described)
    starts = random_batch(4, 1).observation
    assert all(torch.equal(opened.starts[name], starts[name][:, 0]) for name in starts)
    again = tmp_path / "again"
    save_world(again, described, opened.model, opened.starts)
    for name in ("weights.safetensors", "starts.safetensors", "world.json"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def cut(name: str) -> Callable[[Path], None]:
    def damage(world: Path) -> None:
        data = (world / name).read_bytes()
        (world / name).write_bytes(data[: len(data) // 2])

    return damage


def changed(**keys: object) -> Callable[[Path], None]:
    """As an older worldsim may have written it, which did not seal."""

    def damage(world: Path) -> None:
        data = json.loads((world / "world.json").read_text())
        del data[SEAL]
        (world / "world.json").write_text(json.dumps({**data, **keys}))

    return damage


def another_model(world: Path) -> None:
    data = json.loads((world / "world.json").read_text())
    changed(model={**data["model"], "width": 48})(world)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut("weights.safetensors"), "weights.safetensors is cut short or changed"),
        (cut("starts.safetensors"), "starts.safetensors is cut short or changed"),
        (cut("world.json"), "world.json cannot be read"),
        (lambda world: (world / "world.json").unlink(), "holds no world .*train one with"),
        (lambda world: (world / "weights.safetensors").unlink(), "weights.safetensors is cut short"),
        (lambda world: (world / "world.json").write_text("[]"), "has format None"),
        (changed(format=FORMAT + 1), f"has format {FORMAT + 1}, this worldsim reads {FORMAT}"),
        (changed(horizon="long"), "world.json: horizon: .*train the world again"),
        (changed(colour="red"), "world.json: colour: .*train the world again"),
        (changed(model={"family": "rssm", "layers": 2}), "world.json: model.rssm.layers: "),
        (another_model, "the weights do not fit the model"),
    ],
)
def test_damage_is_an_error_of_one_line(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words) as error:
        open_world(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not is_whole(tmp_path, manifest(FAMILIES["rssm"]))


def test_a_new_world_forgets_what_was_found_about_the_old(tmp_path: Path) -> None:
    for name in ("calibration.json", "fidelity.json"):
        (tmp_path / name).write_text("{}")
    saved(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"world.json", "weights.safetensors", "starts.safetensors"}


def _leaves(data: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all values of a JSON, containers and what is in them."""
    yield at
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _leaves(value, (*at, key))


def test_every_value_of_the_manifest_is_looked_at(tmp_path: Path) -> None:
    """Sealed or, as an older worldsim wrote it, not: an error in a line or, without a seal, a world that opens."""
    saved(tmp_path)
    file = tmp_path / "world.json"
    whole = json.loads(file.read_text())
    assert not is_broken(whole)
    opened = {True: 0, False: 0}
    for place in list(_leaves(whole))[1:]:
        for value in (None, "x", -1, 1e9, [], {"a": 1}):
            for seal in (True, False):
                data = copy.deepcopy(whole)
                inner = data
                for key in place[:-1]:
                    inner = inner[key]
                if inner[place[-1]] == value:
                    continue
                inner[place[-1]] = value
                if not seal:
                    data.pop(SEAL, None)
                file.write_text(json.dumps(data))
                try:
                    open_world(tmp_path)
                    opened[seal] += 1
                except CheckpointError as error:
                    assert "\n" not in str(error) and str(file.parent) in str(error)
    assert opened[True] == 0 < opened[False]
