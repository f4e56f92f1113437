"""config=<file>: what a run has written down can be typed back."""

import shlex
from pathlib import Path

import pytest
import yaml

from worldsim import grammar
from worldsim.cli import _schema, main
from worldsim.errors import ConfigError
from worldsim.grammar import Composed

TYPED = {
    "collect": "env=CartPole-v1 policy={random:0.5,sticky:0.5} 'out=a b' env.kwargs.sutton_barto_reward=true",
    "train": "model=rssm trainer=quick data=[a,b/c] weights=[1,3] env=atari/breakout model.width=64 logger=offline",
    "quickstart": "experiment=debug env=vizdoom/defend_center stress.agents=[random] env.success_return=null",
    "stress": "where=[real] severities=[0.25,1.0] agents=[careful,x.y:z] env.violation_reward=null",
    "validate": "world=somewhere windows=5 data=[a,b/c]",
}


def kept(verb: str, overrides: list[str], path: Path) -> Composed:
    composed = grammar.compose(verb, _schema(verb), overrides)
    path.write_text(f"# a comment\n{yaml.safe_dump(composed.config.model_dump(mode='json'))}")
    return composed


@pytest.mark.parametrize("verb", TYPED)
def test_a_file_gives_the_configuration_that_it_holds(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "it's a file.yaml"
    before = kept(verb, shlex.split(TYPED[verb]), file)
    after = grammar.compose(verb, _schema(verb), [f"config={file}"])
    assert after.config == before.config
    assert {g: o for g, o in before.choices.items() if g in ("env", "model", "logger")}.items() <= after.choices.items()


def test_what_is_typed_besides_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    before = kept("train", ["model=rssm", "model.width=64", "seed=3", "trainer.steps=7"], file).config
    schema = _schema("train")
    assert grammar.compose("train", schema, ["seed=4", f"config={file}"]).config == before.model_copy(
        update={"seed": 4}
    )
    other = grammar.compose("train", schema, [f"config={file}", "model=ssm", "model.width=32"]).config
    assert other.model.family == "ssm" and other.model.width == 32 and other.trainer == before.trainer


def test_a_run_is_typed_back_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "env=CartPole-v1", "steps=20", "num_envs=1", "seed=5", "out=data"]) == 0
    first = Path("data/provenance.json").read_text()
    assert main(["collect", "config=data/config-collect.yaml"]) == 0  # it is complete: the same settings
    assert Path("data/provenance.json").read_text() == first
    assert main(["collect", "--multirun", "config=data/config-collect.yaml", "seed=5,6", "out=m"]) == 0
    assert sorted(path.name for path in Path("m").iterdir() if path.is_dir()) == ["seed=5", "seed=6"]


def test_a_file_that_is_none_is_a_line(tmp_path: Path) -> None:
    schema, file = _schema("collect"), tmp_path / "c.yaml"
    for content, message in (
        (None, "cannot be read; give the config-<verb>.yaml"),
        ("a: [", "is not YAML"),
        ("", "holds no keys"),
        ("trainer: {}\nenv: {id: CartPole-v1}\nout: x", "there is no key 'trainer'"),
    ):
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=message) as error:
            grammar.compose("collect", schema, [f"config={file}"])
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="give one file"):
        grammar.compose("collect", schema, [f"config={file}", f"config={file}"])
