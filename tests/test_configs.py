"""The models of the verbs say everything; files hold what differs, in keys that there are; all options compose."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Discrete
from pydantic import BaseModel

from worldsim import grammar
from worldsim.cli import VERBS, _schema
from worldsim.envs.make import EnvConfig, make_env
from worldsim.errors import ConfigError
from worldsim.loader import CONFIGS, Loader
from worldsim.models.config import DiffusionConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.quickstart import QuickstartConfig
from worldsim.schemas import dotted, filled, models_in, unknown
from worldsim.training.config import TrainerConfig, TrainLoggerConfig

FAMILIES = {"ssm": SSMConfig, "transformer": TransformerConfig, "rssm": RSSMConfig, "diffusion": DiffusionConfig}
GROUPS: dict[str, type[BaseModel]] = {"env": EnvConfig, "trainer": TrainerConfig, "logger": TrainLoggerConfig}
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
SETTINGS = [name for name in FILES if not name.startswith("fault/")]  # plans are no configurations of a verb


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text()) or {}
    return {key: value for key, value in values.items() if key != "defaults"}


def models_of(name: str) -> list[type[BaseModel]]:
    """The models whose keys a file has: one, or for the sizes of all families several."""
    first, *rest = name.removesuffix(".yaml").split("/")
    if first in GROUPS:
        return [GROUPS[first]]
    if first == "model":
        return [*FAMILIES.values()] if rest[0] == "size" else [FAMILIES[rest[1] if rest[0] == "sized" else rest[0]]]
    return [QuickstartConfig if first in ("budget", "experiment", "quickstart") else _schema(first)]


def below(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """What a file's values are laid on: the model's defaults; for the parts of a whole job, what that gives them."""
    job = name.startswith(("budget/", "experiment/"))
    return filled(model, read("quickstart.yaml") if job else {}) | ({"model": filled(SSMConfig, {})} if job else {})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_has_keys_that_there_are_and_repeats_no_default(name: str) -> None:
    for model in models_of(name):
        values = read(name)
        assert (
            list(unknown(model, {"model": {"family": "ssm"} | values["model"]} if "model" in values else values)) == []
        )
        defaults = dict(dotted(below(name, model)))
        same = [key for key, value in dotted(values) if key in defaults and defaults[key] == value and key != "family"]
        assert same == [] or name.startswith("model/size/"), "one of the families has it otherwise"
    if name.startswith("model/size/"):
        assert all(any(dict(dotted(filled(m, {})))[k] != v for m in models_of(name)) for k, v in dotted(read(name)))


def fields_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        parts = models_in(field.annotation)
        for part in parts:
            yield from fields_of(part, f"{above}{name}.")
        if not parts:
            yield f"{above}{name}", field.description


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_is_described_in_its_model(verb: str) -> None:
    assert [key for key, message in fields_of(_schema(verb)) if not message] == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_first_what_it_is_for(name: str) -> None:
    lines = [line for line in (CONFIGS / name).read_text().splitlines() if "@package" not in line]
    assert lines[0].startswith("# ") and len(lines[0]) > 30


def test_what_no_file_says_is_the_models_default() -> None:
    """The whole of a composed configuration, for a verb without a file and for one with groups."""
    assert grammar.compose("validate", _schema("validate")).config == _schema("validate")()
    train = grammar.compose("train", _schema("train")).config
    assert (train.trainer, train.logger, train.model) == (TrainerConfig(), TrainLoggerConfig(), SSMConfig())


def test_the_parts_of_a_whole_job_are_the_verbs_own_models() -> None:
    """So there is one place for each bound and each default."""
    parts = {
        "collect": "collect",
        "train": "train",
        "fidelity": "validate",
        "look": "look",
        "ppo": "ppo",
        "stress": "stress",
    }
    assert {name: QuickstartConfig.model_fields[name].annotation for name in parts} == {
        name: _schema(verb) for name, verb in parts.items()
    }
    with pytest.raises(ConfigError, match="^fidelity.windows=1: must be greater than or equal to 2"):
        grammar.compose("quickstart", QuickstartConfig, ["fidelity.windows=1"])
    config = grammar.compose("quickstart", QuickstartConfig, ["seed=7", "out=x", "stress.confidence=0.9"]).config
    assert {part.seed for part in (config.collect, config.train, config.fidelity, config.stress, config.ppo)} == {7}
    assert config.stress.confidence == 0.9 and config.fidelity.data == config.collect.out == Path("x/rollouts")


@pytest.mark.parametrize("verb", VERBS)
def test_every_combination_of_options_composes(verb: str) -> None:
    schema = _schema(verb)
    loader = Loader(verb, schema)
    for group in loader.groups():
        for option in loader.options(group):
            extra = ["env.id=CartPole-v1"] if option == "gymnasium" else []
            assert isinstance(grammar.compose(verb, schema, [f"{group}={option}", *extra]).config, schema)


def test_a_composition_leaves_nothing_behind_for_the_next() -> None:
    """Files that are shipped are read once, and composing changes what it is given."""
    schema = _schema("quickstart")
    before = grammar.compose("quickstart", schema).config
    assert grammar.compose("quickstart", schema, ["experiment=debug"]).config != before
    assert grammar.compose("quickstart", schema).config == before


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
            message = (CONFIGS / f"model/sized/{family}/{size}.yaml").read_text().splitlines()[1]
            assert f": {counts[-1]:.2f} million parameters" in message
        assert max(counts) < 1.15 * min(counts)


def test_a_size_says_what_it_is_for_and_the_command_names_it() -> None:
    composed = grammar.compose("train", _schema("train"), ["model=rssm", "model/size=l", "model.units=64"])
    assert (composed.config.model.blocks, composed.config.model.units, composed.config.model.hidden) == (8, 64, 512)
    message = grammar.command("train", composed.config, composed.choices)
    assert message == "worldsim train model=rssm model/size=l model.units=64"
    with pytest.raises(ConfigError, match="there is no model/size=xxl. Did you mean xl"):
        grammar.compose("train", _schema("train"), ["model/size=xxl"])
    plain = grammar.compose("train", _schema("train"))
    assert grammar.command("train", plain.config, plain.choices) == "worldsim train"


def test_an_environments_budget_comes_with_it() -> None:
    schema = _schema("quickstart")
    breakout = grammar.compose("quickstart", schema, ["env=atari/breakout"]).config
    assert breakout.stress.agents == ["random", "sticky", "ppo"] and breakout.trains_ppo
    desk = grammar.compose("quickstart", schema).config
    assert desk.stress.agents is None and not desk.trains_ppo
    assert grammar.compose("quickstart", schema, ["env=atari/breakout", "ppo.steps=5"]).config.ppo.steps == 5
    assert not grammar.compose("quickstart", schema, ["env=CartPole-v1"]).config.trains_ppo
    own = ["env=CartPole-v1", "env.agents={ppo:mine.zip}", "stress.agents=[ppo]"]
    assert not grammar.compose("quickstart", schema, own).config.trains_ppo, "somebody else is called so"


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
        rest.append(config.model_dump(exclude={"model": True, "train": {"model"}}))
    assert max(counts) < 4e6 and max(counts) < 1.1 * min(counts)
    assert all(each == rest[0] for each in rest)
