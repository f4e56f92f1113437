"""Every key of every YAML is a field of its model and the other way round; each is explained; defaults agree."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Discrete
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from worldsim import grammar
from worldsim.cli import VERBS, _schema
from worldsim.envs.make import EnvConfig, make_env
from worldsim.errors import ConfigError
from worldsim.models.config import DiffusionConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.training.config import LoggerConfig, TrainerConfig

GROUPS = {"env": EnvConfig, "logger": LoggerConfig}
WHOLE = {
    "model/ssm": SSMConfig,
    "model/transformer": TransformerConfig,
    "model/rssm": RSSMConfig,
    "model/diffusion": DiffusionConfig,
    "trainer/default": TrainerConfig,
}
FILES = sorted(str(path.relative_to(grammar.CONFIGS)) for path in grammar.CONFIGS.rglob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((grammar.CONFIGS / name).read_text())
    return {key: value for key, value in values.items() if key != "defaults"}


def agree(values: dict[str, Any], model: type[BaseModel], groups: set[str] = frozenset()) -> None:
    """Keys are the model's fields; a value is the field's default where it has one."""
    assert set(values) | groups == set(model.model_fields)
    for key, value in values.items():
        field = model.model_fields[key]
        default = field.default
        if isinstance(default, BaseModel):
            agree(value, type(default))
        elif default is not PydanticUndefined and field.default_factory is None:
            default = str(default) if isinstance(default, Path) else default
            assert default == (type(default)(value) if isinstance(default, float) else value), key


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_file_has_the_keys_and_the_defaults_of_its_model(verb: str) -> None:
    groups = {group for group in grammar.groups(verb) if group != "experiment" and "/" not in group}
    agree(read(grammar.file_of(verb).name), _schema(verb), groups)


@pytest.mark.parametrize("name", WHOLE)
def test_a_groups_first_file_has_the_keys_and_the_defaults_of_its_model(name: str) -> None:
    agree(read(f"{name}.yaml"), WHOLE[name])


@pytest.mark.parametrize("name", [name for name in FILES if name.partition("/")[0] in GROUPS])
def test_files_of_a_group_have_all_keys(name: str) -> None:
    assert set(read(name)) == set(GROUPS[name.partition("/")[0]].model_fields)


def test_the_defaults_of_the_logger_are_the_disabled_one() -> None:
    assert LoggerConfig(**read("logger/disabled.yaml")) == LoggerConfig()


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_explained(name: str) -> None:
    lines = (grammar.CONFIGS / name).read_text().splitlines()
    assert lines[0].startswith("#"), "a file says first what it is for"
    unexplained = []
    for before, line in zip(lines, lines[1:], strict=False):
        bare = line.strip()
        if not bare or bare.startswith("#") or bare in ("defaults:", "- _self_", "- default"):
            continue
        if "#" not in bare and not before.strip().startswith("#"):
            unexplained.append(line)
    assert not unexplained or name in ("trainer/quick.yaml", "experiment/debug.yaml") or "budget/" in name, unexplained


@pytest.mark.parametrize("verb", VERBS)
def test_every_combination_of_options_composes(verb: str) -> None:
    schema = _schema(verb)
    for group in grammar.groups(verb):
        for option in grammar.options(group):
            extra = ["env.id=CartPole-v1"] if option == "gymnasium" else []
            assert isinstance(grammar.compose(verb, schema, [f"{group}={option}", *extra]).config, schema)


def test_sizes_are_the_size_that_they_say_and_about_the_same_in_every_family() -> None:
    """Frames of 64x64x3 and 17 actions, as the files say; counted for those that are quick to make."""
    spaces = Box(0, 255, (64, 64, 3), np.uint8), Discrete(17)
    for size in ("xs", "race", "s", "m"):
        counts = []
        for family in ("ssm", "transformer", "rssm", "diffusion"):
            config = grammar.compose("train", _schema("train"), [f"model={family}", f"model/size={size}"]).config
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Initializing zero-element tensors")
                model = config.model.build(*spaces, (0.0, 1.0))
            counts.append(sum(parameter.numel() for parameter in model.parameters()) / 1e6)
            said = (grammar.CONFIGS / f"model/sized/{family}/{size}.yaml").read_text().splitlines()[1]
            assert f": {counts[-1]:.2f} million parameters" in said
        assert max(counts) < 1.15 * min(counts)


def test_a_size_says_what_it_is_for_and_the_command_names_it() -> None:
    composed = grammar.compose("train", _schema("train"), ["model=rssm", "model/size=l", "model.units=64"])
    assert (composed.config.model.blocks, composed.config.model.units, composed.config.model.hidden) == (8, 64, 512)
    said = grammar.command("train", composed.config, composed.choices)
    assert said == "worldsim train model=rssm model/size=l model.units=64"
    with pytest.raises(ConfigError, match="there is no model/size=xxl. Did you mean xl"):
        grammar.compose("train", _schema("train"), ["model/size=xxl"])
    plain = grammar.compose("train", _schema("train"))
    assert grammar.command("train", plain.config, plain.choices) == "worldsim train"


def test_an_environments_budget_comes_with_it() -> None:
    schema = _schema("quickstart")
    breakout = grammar.compose("quickstart", schema, ["env=atari/breakout"]).config
    assert breakout.stress.agents == ["random", "sticky", "ppo"] and breakout.ppo.steps > 0
    desk = grammar.compose("quickstart", schema).config
    assert desk.stress.agents is None and desk.ppo.steps == 0
    assert grammar.compose("quickstart", schema, ["env=atari/breakout", "ppo.steps=5"]).config.ppo.steps == 5
    assert grammar.compose("quickstart", schema, ["env=CartPole-v1"]).config.ppo.steps == 0


RACES = ("breakout_race", "vizdoom_race", "car_racing_race", "refund_desk_race")


@pytest.mark.parametrize("name", [*RACES, "refund_desk"])
def test_an_experiment_fixes_what_a_table_is_made_with(name: str) -> None:
    """Whatever the environment's own budget becomes; the races, so far, are that budget, a size and a time."""
    schema = _schema("quickstart")
    composed = grammar.compose("quickstart", schema, [f"experiment={name}"])
    race = ["model/size=race", "trainer.seconds=600"] if name in RACES else []
    plain = grammar.compose("quickstart", schema, [f"env={composed.choices['env']}", *race])
    assert composed.config == plain.config
    typed = grammar.command("quickstart", composed.config, composed.choices).split()
    assert f"experiment={name}" in typed
    assert grammar.compose("quickstart", schema, typed[2:]).config == composed.config


@pytest.mark.parametrize("name", RACES)
def test_racers_have_about_as_many_parameters_and_nothing_else_is_different(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # ViZDoom writes its settings into the current folder
    schema, counts, rest = _schema("quickstart"), [], []
    for family in ("ssm", "transformer", "rssm", "diffusion"):
        config = grammar.compose("quickstart", schema, [f"experiment={name}", f"model={family}"]).config
        assert config.model.family == family
        env = make_env(config.env)
        model = config.model.build(env.observation_space, env.action_space, (0.0, 1.0))
        env.close()
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
        rest.append(config.model_dump(exclude={"model"}))
    assert max(counts) < 4e6 and max(counts) < 1.1 * min(counts)
    assert all(each == rest[0] for each in rest)
