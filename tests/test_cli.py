"""The command line: what can be typed, what is printed when it is wrong, and what is stored."""

import errno
import json
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import worldsim
from worldsim import grammar
from worldsim.cli import INTERRUPTED, VERBS, _schema, _with_keys, main
from worldsim.errors import ConfigError
from worldsim.faults import FAMILIES, ready_plans
from worldsim.rollouts.collect import CollectConfig
from worldsim.schemas import models_in

TINY = ["collect", "env=CartPole-v1", "steps=20", "num_envs=1"]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def collecting(*overrides: str) -> CollectConfig:
    return grammar.compose("collect", CollectConfig, overrides).config


MISTAKES = {
    "trian": "no verb 'trian'. Did you mean 'train'?",
    "frobnicate": "Verbs are quickstart, collect",
    "train trainer.stpes=3": "no key 'trainer.stpes'. Did you mean trainer.steps?",
    "train steps=3": "no key 'steps'. Did you mean trainer.steps?",
    "train modle=ssm": "no key 'modle'. Did you mean model?",
    "train +colour=red": "no key 'colour'",
    "train model=rssm +model.classes=3": "no key 'model.classes'",
    "train model=rsm": "no model=rsm. Did you mean rssm?",
    "train logger=wandb": "it is one of disabled, offline, online",
    "train trainer.steps=-4": "trainer.steps=-4: must be greater than or equal to 1",
    "train seed=abc": "seed=abc: must be a valid integer",
    "collect policy={careful:often}": "policy.careful=often: must be a valid number",
    "train trainer.precision=fp8": "trainer.precision=fp8: must be '32-true', 'bf16-mixed' or 'auto'",
    "train model=rssm model.width=100 model.blocks=7": "width 100 is not a multiple of blocks 7",
    "train data=nowhere": "no data set at nowhere",
    "train oops": "'oops' is not key=value",
    "train --steps=4": "'--steps=4' is not a flag; write steps=...",
    "collect policy=[": "policy=[: the value cannot be read",
    "collect seed=1,2": "seed has several values; add --multirun",
    "collect env=gymnasium": "env.id is not set",
    "collect env=CartPol-v1": "Did you mean 'CartPole-v1'",
    "collect env=refund_dsk": "Did you mean 'refund_desk'",
    "collect env=CartPole-v1 env.kwargs.wings=2": "env.kwargs={'wings': 2}",
    "collect policy=nobody env=CartPole-v1": "no agent 'nobody'",
    "collect --multirun env=refund_desk,CartPole-v1": "write env=gymnasium env.id=",
    "stress where=[real] severities=[-1]": "severity must be between 0 and 1, got -1",
    "stress": "world is not set",
    "look world=nix": "nix holds no world",
    "look out=film.mp4": "out=film.mp4 must end in .gif",
    "faults slow=1": "Verbs are faults list, faults fit",
    "fault list": "no verb 'fault list'. Did you mean 'faults list'?",
    "fualts": "Verbs are faults list, faults fit",
    "faults fti": "no verb 'faults fti'. Did you mean 'faults fit'?",
    "faults list slwo": "no faults are of this family. Did you mean 'slow'?",
    "faults list kinds=[zz*]": "match no faults",
    "faults fit": "traces is not set",
    "faults fit nowhere.jsonl": "traces=nowhere.jsonl cannot be read (No such file or directory)",
    "faults fit t.jsonl extra": "'extra' is not key=value",
    "faults fit t.jsonl tolerance=2": "tolerance=2: must be less than or equal to 1",
    "schema fautls": "Did you mean 'schema faults'?",
    "schema faults out=.": "out=. is a folder, and a file is needed; give another file or folder",
    "stress where=[real] faults=[nowhere.yaml]": "the plan nowhere.yaml cannot be read",
    "stress where=[real] faults=[slow_apo]": "Did you mean 'slow_api'?",
    "stress where=[real] severities=often": "worldsim: severities=often: must be a valid number",
    "stress where=[real] severities=[0.5,often]": "worldsim: severities=often: must be a valid number",
    "stress where=mars": "worldsim: where=mars: must be 'real' or 'world'",
    "train trainer.devices=2 trainer.batch=6": "worldsim: trainer.batch=6 cannot be shared by 2 processes",
    "train experiment=debug": "worldsim train has no key 'experiment'; worldsim quickstart has",
    "info world=nix": "nix holds no world",
    "validate device=tpu": "worldsim: device=tpu: must be 'auto', 'cpu' or 'cuda'",
    "look device=gpu": "worldsim: device=gpu: must be 'auto', 'cpu' or 'cuda'",
    "stress device=tpu": "worldsim: device=tpu: must be 'auto', 'cpu' or 'cuda'",
    "quickstart device=tpu": "worldsim: device=tpu: must be 'auto', 'cpu' or 'cuda'",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_by_one_line_and_exit_code_2(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 2
    message = capsys.readouterr()
    assert MISTAKES[typed] in message.err
    assert message.err.startswith("worldsim: ") and message.err.count("\n") == 1


@pytest.mark.parametrize("reason", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O: os error 28")])
def test_a_full_disk_is_a_line(reason: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fill(_: object) -> None:
        raise RuntimeError("could not write") from reason

    monkeypatch.setitem(VERBS, "info", replace(VERBS["info"], run=fill))
    assert main(["info"]) == 2
    assert "disk is full" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "train", replace(VERBS["train"], run=interrupt))
    assert main(["train", "out=a b"]) == INTERRUPTED
    assert "run the same command to resume: worldsim train 'out=a b'" in capsys.readouterr().err


def test_errors_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(_: object) -> None:
        raise KeyError("a slip of the author")

    monkeypatch.setitem(VERBS, "info", replace(VERBS["info"], run=break_down))
    with pytest.raises(KeyError, match="slip"):
        main(["info"])


def test_help_names_every_verb_and_is_quick() -> None:
    code = "import sys; from worldsim.cli import main; main(['--help']); sys.exit(int('torch' in sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown and verb.summary in shown for name, verb in VERBS.items())


@pytest.mark.parametrize("module", ["worldsim", "worldsim.cli"])
def test_the_command_line_runs_as_a_module(module: str) -> None:
    ran = subprocess.run([sys.executable, "-m", module, "quikstart"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.strip().endswith("Did you mean 'quickstart'?")


@pytest.mark.parametrize("typed", ["faults", "faults --help", "faults -h"])
def test_the_first_of_two_words_lists_the_second_ones(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 0
    shown = capsys.readouterr().out
    assert all((verb.summary in shown) == (name.split()[0] == "faults") for name, verb in VERBS.items())


@pytest.mark.parametrize(
    "typed",
    [
        "ppo env=CartPole-v1 steps=1 out={}/a.zip",
        "collect env=CartPole-v1 steps=1 out={}/a",
        "schema faults out={}/a.json",
    ],
)
def test_a_place_that_cannot_be_written_is_a_line(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")  # whoever runs the tests may write everywhere; below a file nobody can
    assert main(typed.format("file/below").split()) == 2
    message = capsys.readouterr().err
    assert "file" in message and "give another file or folder" in message and message.count("\n") == 1


@pytest.mark.parametrize("typed", ["env=CartPol-v1", "stress.agents=[random,carefull]", "stress.faults=[slow_apo]"])
def test_a_wrong_name_is_reported_before_the_whole_job_begins(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", typed]) == 2
    message = capsys.readouterr()
    assert "Did you mean" in message.err and not message.out
    assert not Path("runs").exists()


def test_the_schema_is_printed_or_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "faults"]) == 0
    assert main(["schema", "faults", "out=s/plan.json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[: shown.rindex("}") + 1]) == json.loads(Path("s/plan.json").read_text())


def test_the_list_shows_every_fault_and_every_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["faults", "list"]) == 0
    shown = capsys.readouterr().out
    kinds = [kind.kind for family in FAMILIES.values() for kind in family]
    assert all(f"│ {name} " in shown for name in (*kinds, *ready_plans()))
    assert main(["faults", "list", "slow"]) == 0
    shown = capsys.readouterr().out
    assert "pareto_latency" in shown and "minimum_s=0.5, shape=1.5" in shown and "blur" not in shown


def test_the_list_has_every_name_whole_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["faults", "list"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    kinds = [kind.kind for family in FAMILIES.values() for kind in family]
    assert [name for name in (*kinds, *ready_plans()) if f"│ {name} " not in shown] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldsim {worldsim.__version__}\n"


def leaves_of(model: type[BaseModel], above: str = "") -> dict[str, FieldInfo]:
    """The fields of a model by their keys, those of its parts with dots; all kinds of a part that has several."""
    found = {}
    for name, field in model.model_fields.items():
        parts = models_in(field.annotation)
        for part in parts:
            found |= leaves_of(part, f"{above}{name}.")
        if not parts:
            found[f"{above}{name}"] = field
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_every_key_with_what_its_model_says(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"\n  worldsim {verb}") == 3
    lines, schema = shown.splitlines(), _schema(verb)
    assert [line for line in lines if len(line) > 80 and not re.match(r"  (\S+=|worldsim )", line)] == []  # to be typed
    shared = [name for name in schema.model_fields if f"=${{{name}}}" in shown]
    for key, field in leaves_of(schema).items():
        if key.startswith("env.") and "\n  env=null\n" in shown:
            continue  # nothing is chosen there
        if key.startswith("model.") or any(f".{name}." in key for name in shared):
            continue  # of the families one is shown; of what a whole job's parts share only where it comes from
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"  {key}=")]
        message = " ".join(line.strip() for line in lines[at + 1 : at + 12])
        assert field.description and message.startswith(field.description), key


def test_help_shows_what_a_value_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "windows=64 windows of held-out episodes" in shown and "calibrate; 2 to 10000" in shown
    assert "auto, cpu or cuda" in shown and "above 0, at most 1000" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_a_verb_are_right(verb: str) -> None:
    for example in VERBS[verb].examples:
        words = [word for word in shlex.split(example) if word != "--multirun"]
        if "--multirun" in example:
            words = [word.partition(",")[0] for word in words]
        grammar.compose(verb, _schema(verb), _with_keys(VERBS[verb], words))


def test_help_shows_the_chosen_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=rssm", "--help"]) == 0
    assert "latent_classes" in capsys.readouterr().out


def test_any_gymnasium_id_is_an_env() -> None:
    for name in ("CartPole-v1", "ALE/Pong-v5", "my_module:Thing-v0"):
        assert collecting(f"env={name}").env.id == name
    assert collecting("env=atari/breakout").env.id == "ALE/Breakout-v5"


@pytest.mark.parametrize("value", ["a=b", "x (1)", "it's", "back\\slash", "ü/é", "50%", "runs/v1.0"])
def test_any_text_is_a_value(value: str) -> None:
    assert collecting(f"out={value}").out == Path(value)


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert collecting("out=~/rollouts").out == Path("/home/somebody/rollouts")


def test_agents_with_arguments_and_mixtures_can_be_typed() -> None:
    assert collecting("policy=biased:1=0.3").policy == "biased:1=0.3"
    assert collecting("policy={careful:0.5,random:0.5}").policy == {"careful": 0.5, "random": 0.5}


def test_arguments_of_the_environment_need_no_plus() -> None:
    assert collecting("env=CarRacing-v3", "env.kwargs.continuous=false").env.kwargs == {"continuous": False}


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "env=atari/breakout steps=7 'out=a b'",
        "env=CartPole-v1 env.kwargs.sutton_barto_reward=true policy=null",
        "policy={careful:0.5,random:0.5} env.success_return=null",
        r"'policy={careful:0.5,worldsim.envs.refund_desk.agents\:Curious:0.5}'",
        r"'env.policy={sticky\:0.9:0.5}' 'env.kwargs={a\:b:{c.d:3}}' env.policy.careful=0.1",
        "env.agents.ppo=runs/ppo.zip policy='biased:1=0.3' epsilon=0.25",
        "out='quote\"d' policy=\"it's\"",
    ],
)
def test_a_printed_command_gives_the_same_configuration(typed: str) -> None:
    composed = grammar.compose("collect", CollectConfig, shlex.split(typed))
    printed = shlex.split(grammar.command("collect", composed.config, composed.choices))
    assert printed[:2] == ["worldsim", "collect"]
    assert collecting(*printed[2:]) == composed.config


def test_the_resolved_configuration_is_kept_beside_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "seed=5", "out=data"]) == 0
    kept = CollectConfig(**yaml.safe_load(Path("data/config-collect.yaml").read_text()))
    assert kept == collecting("env=CartPole-v1", "steps=20", "num_envs=1", "seed=5", "out=data")
    assert "in data" in capsys.readouterr().out


def test_multirun_gives_each_run_its_folder_and_outlives_one_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["collect", "--multirun", "env=CartPole-v1", "steps=20", "policy=random,nobody"]
    assert main([*typed, "out=m", "seed=3,4"]) == 2
    assert sorted(p.parent.name for p in Path("m").glob("*/provenance.json")) == [
        "policy=random,seed=3",
        "policy=random,seed=4",
    ]
    message = capsys.readouterr()
    assert "2 of the runs failed" in message.err and "no agent 'nobody'" in message.err
    assert "Traceback" not in message.err


def test_folders_of_a_multirun_open_again_by_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"tests.envs.others:WorldsimTest{name}-v0" for name in ("Walk", "Infos")]
    typed = ["collect", "--multirun", "env=gymnasium", f"env.id={ids[0]},'{ids[1]}'", "steps=20", "out=m"]
    assert main([*typed, "seed=3", "policy={random:1},sticky:0.5"]) == 0
    made = sorted(p.parent.name for p in Path("m").glob("*/provenance.json"))
    assert made == sorted(f"env.id={each},policy={policy}" for each in ids for policy in ("sticky:0.5", "{random:1}"))
    capsys.readouterr()
    for folder in made:
        assert main(["collect", f"config=m/{folder}/config-collect.yaml"]) == 0
        assert f" in m/{folder}\n" in capsys.readouterr().out
        assert main(["validate", f"data=m/{folder}", f"world=m/{folder}"]) == 2
        assert f"m/{folder} holds no world" in capsys.readouterr().err


def test_multirun_names_an_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "-m", "stepps=1,2"]) == 2
    assert "Did you mean steps?" in capsys.readouterr().err


def test_train_py_is_the_same_app(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(worldsim.__file__).parent.parent / "train.py"
    monkeypatch.setattr(sys, "argv", ["train.py", "env=CartPole-v1", "data=nowhere"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 2
    assert "no data set at nowhere" in capsys.readouterr().err


def test_composing_inside_a_hydra_job_leaves_it_alone() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(grammar.CONFIGS), version_base="1.3"):
        assert collecting("seed=3", "env=atari/breakout").seed == 3
        assert compose("collect").env.id == "worldsim/RefundDesk-v0"


def test_what_is_checked_later_is_checked_the_same_way() -> None:
    with pytest.raises(ConfigError, match=r"env.epsilon=2: must be less than or equal to 1"):
        grammar.check(CollectConfig, {"env": {"id": "CartPole-v1", "epsilon": 2}, "out": "x"})


def test_a_single_value_is_a_list_of_one() -> None:
    typed = ["where=real", "severities=0.25", "faults=slow_api", "agents=random"]
    listed = [f"{key}=[{value}]" for key, _, value in (word.partition("=") for word in typed)]
    schema = _schema("stress")
    assert grammar.compose("stress", schema, typed) == grammar.compose("stress", schema, listed)
    nested = ["stress.severities=1", "stress.agents=random"]
    composed = grammar.compose("quickstart", _schema("quickstart"), nested).config
    assert composed.stress.severities == [1.0] and composed.stress.agents == ["random"]
    assert grammar.compose("faults list", _schema("faults list"), ["kinds=slow_*"]).config.kinds == ["slow_*"]
    with pytest.raises(ConfigError, match="^severities=often: must be a valid number"):
        grammar.compose("stress", schema, ["severities=often"])
