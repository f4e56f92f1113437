"""A table of command lines that are wrong: one line that names what was typed, exit code 2, and nothing is lost.

Each entry is a line that works, and for each of its keys the values that it must not have.
"""

import copy
import functools
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from hydra.types import RunMode

from worldsim import explained, grammar
from worldsim.cli import VERBS, _schema, exit_code_of, main, run_verb
from worldsim.loader import Loader
from worldsim.overrides import parse

ANYTHING = "true nan inf -1 1.5 '' [] {} [3] {a:1} abc 99999999999999999999999"  # that is no positive whole number
NO_COUNT = "true -1 1e30"
NO_SEED = "true 4294967296"
NO_NUMBER = "true nan inf"
NO_PATH = "'' null 3"
NO_NAME = "null {} 3 nothing"
NO_FOLDER = f"{NO_PATH} notes.txt notes.txt/below"
NO_FILE = f"{NO_PATH} . folder data notes.txt/below"
NO_WORLD = f"{NO_PATH} missing notes.txt data"
NO_DATA = "'' 3 missing folder notes.txt world [] [data,missing] [[data]]"
NO_DEVICE = "null tpu 0"

COLLECT = "collect env=CartPole-v1 steps=8 out=new"
TRAIN = (
    "train env=CartPole-v1 data=data out=new trainer=quick trainer.steps=1 trainer.codec_steps=1 trainer.holdout=0.5 "
    "trainer.length=8 model.width=16 model.embed=8 model.hidden=8 model.head_hidden=8 model.ensemble=2"
)
STRESS = "stress env=CartPole-v1 where=[real] agents=[random] faults=[slow_api] episodes=1 max_steps=2 worst=0 out=new"

WRONG: dict[str, dict[str, str]] = {
    COLLECT: {
        "steps": f"{ANYTHING} 0 1e10",
        "num_envs": f"{NO_COUNT} 0 100000",
        "workers": f"{NO_COUNT} 100000",
        "seed": NO_SEED,
        "epsilon": f"false -inf 1e309 '' [] {{}} abc {{a:1}} {NO_NUMBER} -0.1 1.1",
        "policy": "'' [] {} nan true 3 nobody [random] {random:0} {random:-1} {random:nan} {random:inf} {random:true} "
        "{random:often} {nobody:1} sticky:1 sticky:nan sticky:x biased: biased:0=nan biased:0=2 biased:9=1 "
        "biased:0.5=1 biased:0=0.1,0=0.1 biased:x=1 os:nothing os:sep os:getcwd no_such_module:x missing.zip",
        "out": f"{{}} nan true {NO_FOLDER} folder",
        "env": "'' null [] {} 3 true nan [a,b] CartPol-v1 CartPole-v99 refund_dsk no_such_module:X-v0 os:CartPol-v1",
        "env.resize": "true nan 0 7 1.5 abc {a:1} [] [8] [8,8,8] [0,0] [64,true] 100000000",
        "env.max_episode_steps": f"{NO_COUNT} 0",
        "env.requires": "'' 3 nothing []",
        "env.agents": "'' null [] 3 {a:1} {a:{}}",
        "env.kwargs": "'' null [] [1] 3 {wings:2}",
        "env.success_return": NO_NUMBER,
        "env.violation_reward": NO_NUMBER,
        "env.nothing": "1",
        "stpes": "1",
        "seed.deeper": "1",
        "config": "missing.yaml folder notes.txt",
    },
    TRAIN: {
        "data": NO_DATA,
        "weights": "'' {} nan true [] [nan] [inf] [0] [-1] [true] [1,1]",
        "out": f"{NO_FOLDER} data data/below",
        "model": f"{NO_NAME} dreamer",
        "model/size": "'' [] 3 big",
        "model.width": f"{NO_COUNT} 0 100000000",
        "model.layers": "true 0 100000000",
        "model.min_p": "true nan 1",
        "model.family": "nothing",
        "trainer": NO_NAME,
        "trainer.steps": f"{NO_COUNT} 0 nan",
        "trainer.batch": "true 0 100000000",
        "trainer.length": "true 1 100000000",
        "trainer.codec_frames": "true 0 100000000",
        "trainer.seconds": f"{NO_NUMBER} 0 1e300",
        "trainer.learning_rate": f"{NO_NUMBER} 0",
        "trainer.holdout": f"{NO_NUMBER} 1",
        "trainer.precision": "'' null 3 fp8",
        "trainer.devices": "true 0 100000000",
        "logger": NO_NAME,
    },
    "validate world=world data=data context=2 horizon=2 windows=2 out=new": {
        "world": NO_WORLD,
        "data": NO_DATA,
        "context": f"{NO_COUNT} 0 10000",
        "horizon": f"{NO_COUNT} 0 100000000",
        "windows": f"{NO_COUNT} 1 100000000",
        "tolerance_db": f"{NO_NUMBER} 0",
        "seed": NO_SEED,
        "device": NO_DEVICE,
        "out": "'' {} nan true 3 notes.txt notes.txt/below data data/below other other/below",
    },
    "look world=world data=data out=new.gif context=2 length=2 count=1": {
        "world": NO_WORLD,
        "data": NO_DATA,
        "context": f"{NO_COUNT} 0 10000",
        "length": f"{NO_COUNT} 0 100000",
        "count": f"{NO_COUNT} 0 1000 100000",
        "fps": f"{NO_COUNT} 0 51",
        "seed": NO_SEED,
        "device": NO_DEVICE,
        "out": f"{NO_FILE} film.mp4 film folder.gif",
    },
    STRESS: {
        "agents": "'' {} nan true 3 [] [nobody] [random,random] [null] [3] [missing.zip] [notes.txt]",
        "faults": "'' null {} nan true 3 [slow_api,slow_api] [missing.yaml] [notes.txt] [folder] [null] [broken.yaml]",
        "severities": "'' null {} abc nan inf true 2 -1 [nan] [true] [0.5,0.5]",
        "episodes": f"{NO_COUNT} 0 100000000",
        "where": "'' null [] {} mars [real,real] [world]",
        "starts": "'' null nothing",
        "max_steps": f"{NO_COUNT} 0",
        "confidence": f"{NO_NUMBER} 0 1",
        "worst": f"{NO_COUNT} 100000000",
        "seed": NO_SEED,
        "trace": "'' null [] abc nan 2",
        "out": f"{NO_FOLDER} data data/below",
        "env.success_return": "true nan",
    },
    "ppo env=CartPole-v1 steps=1 num_envs=1 out=new.zip": {
        "steps": f"{NO_COUNT} 0 1e10",
        "num_envs": f"{NO_COUNT} 0 100000",
        "seed": NO_SEED,
        "out": f"{NO_FILE} agent folder.zip",
    },
    "info world=world": {"world": NO_WORLD, "form": NO_NAME},
    "faults list": {"family": "'' [] {} nan true 3 slwo", "kinds": "'' null [] {} nan true 3 [zz*] [null] [[a]]"},
    "faults fit traces=traces.jsonl out=new.yaml": {
        "traces": f"{NO_PATH} missing folder notes.txt notes.txt/below data",
        "out": f"{NO_FILE} traces.jsonl",
        "fewest": f"{NO_COUNT} 1 31",
        "tolerance": f"{NO_NUMBER} 0 2",
        "lose_answer": f"{NO_NUMBER} 2",
        "seed": NO_SEED,
    },
    "faults fit traces=many out=new.yaml": {"out": "many/plan.yaml many/deeper/plan.yaml"},
    "schema faults": {"out": "'' {} nan true 3 . folder notes.txt/below"},
    "quickstart experiment=debug env=CartPole-v1 out=new": {
        "env": "CartPol-v1 null",
        "experiment": "'' [] 3 nothing",
        "collect.num_envs": "true 100000",
        "fidelity.windows": "true 1 100000000",
        "stress.confidence": "nan 2",
        "train.out": "elsewhere",
        "stress.agents": "[nobody] []",
        "stress.severities": "[2] [true]",
        "ppo.steps": "true -1 0",
        "seed": NO_SEED,
        "out": f"{NO_FOLDER} data",
    },
}
LINES = [(line, key, values) for line, keys in WRONG.items() for key, values in keys.items()]
SEVERAL = {  # what no single key says
    f"{COLLECT} num_envs=1000 steps=1000 workers=2": "num_envs=1000 with workers=2",
    f"{TRAIN} trainer.batch=100000 trainer.length=1000": "trainer.batch=100000 times trainer.length=1000",
    f"{TRAIN} model/size=null data=missing": "no data set at missing",  # null is what it has anyway
    "quickstart out=new trainer.devices=2 trainer.batch=6": "trainer.batch=6 cannot be shared by 2 processes",
    "train model=dreamer": "there is no model=dreamer. Did you mean rssm?",
    "train model=DreamerV3": "Did you mean rssm?",
    "train model=transformr": "Did you mean transformer?",
}


@pytest.fixture(scope="module")
def composed_once() -> Callable[[str], "Line"]:
    """The lines of the table, each composed once."""
    return functools.cache(lambda line: Line(shlex.split(line)))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a world, plans, traces, and things that are none of these."""
    place = tmp_path_factory.mktemp("lines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(shlex.split(COLLECT.replace("steps=8 out=new", "steps=200 out=data"))) == 0
        assert main(shlex.split(TRAIN.replace("out=new", "out=world"))) == 0
        shutil.copytree("data/minari-data", "other")  # a data set of Minari's own, which has no file of worldsim's
        for folder in ("folder", "folder.gif", "folder.zip", "many"):
            Path(folder).mkdir()
        for folder in ("folder", "."):
            (Path(folder) / "notes.txt").write_text("mine")
        Path("broken.yaml").write_text("faults: [")
        calls = "".join(f'{{"tool": "pay", "latency_s": 0.{number}}}\n' for number in range(10, 40))
        for file in ("traces.jsonl", "many/traces.jsonl"):
            Path(file).write_text(calls)
    return place


def contents(place: Path) -> dict[str, tuple[int, int]]:
    """Each file with its size and the time when it was last written, in ns."""
    files = ((path, path.stat()) for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): (found.st_size, found.st_mtime_ns) for path, found in files}


def refused(run: Callable[[], int], typed: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message about a command line, which must be one line."""
    capsys.readouterr()
    assert run() == 2, f"taken: {typed}"
    message = capsys.readouterr().err
    assert message.startswith("worldsim: ") and message.count("\n") == 1, message
    assert not any(word in message for word in ("Traceback", "<class", "Input should", "List should", "pathlib")), (
        message
    )
    return message


class Line:
    """A command line that is composed once, which takes most of its time; words are added to it one at a time."""

    def __init__(self, words: list[str]):
        self.verb = next(name for name in sorted(VERBS, key=len, reverse=True) if " ".join(words).startswith(name))
        self.schema = _schema(self.verb)
        self.loader = Loader(self.verb, self.schema, VERBS[self.verb].keeps)
        self.groups = self.loader.groups()
        self.words = words[len(self.verb.split()) :]
        hydra = Hydra(self.verb, self.loader)
        self.composed = hydra.compose_config(self.loader.config_name, self.words, RunMode.RUN)

    def recomposes(self, key: str) -> bool:
        """Whether the key decides which files a configuration is made of."""
        return key in (*self.groups, "config")

    def run(self, word: str) -> None:
        """What the command line with this word does, from there on."""
        try:
            composed = copy.deepcopy(self.composed)
            self.loader._apply_overrides_to_config([parse(each)[0] for each in self.loader.prepare([word])], composed)
        except HydraException as error:
            raise explained.composition_error(
                error, self.loader, self.loader.config_name, [*self.words, word]
            ) from error
        config = grammar.check(self.schema, grammar.plain(composed))
        run_verb(self.verb, grammar.Composed(config, grammar.chosen(composed.hydra)))


@pytest.mark.parametrize(("line", "key", "values"), LINES, ids=[f"{each[0].split(' ')[0]} {each[1]}" for each in LINES])
def test_a_wrong_value_is_a_line_and_nothing_is_lost(
    line: str,
    key: str,
    values: str,
    composed_once: Callable[[str], "Line"],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    before = contents(workplace)
    composed = composed_once(line)
    words = shlex.split(line)
    others = [word for word in words if word.partition("=")[0] != key]
    first = key == next(iter(WRONG[line]))
    for number, value in enumerate(shlex.split(values, posix=False)):
        word = f"{key}={value}"
        message = ""
        if composed.recomposes(key) or (first and number < 2):
            message = refused(lambda: main([*others, word]), f"{line} {word}", capsys)  # noqa: B023
        if not composed.recomposes(key):
            alone = refused(lambda: exit_code_of(lambda: composed.run(word), words), f"{line} {word}", capsys)  # noqa: B023
            assert alone == message or not message or others != words, "the same as of the whole line"
            message = alone
        named = {key.rpartition(".")[2], value, *re.findall(r"\w+", value)}
        assert any(name in message for name in named), f"{key}={value}: {message}"
        after = contents(workplace)
        assert before.items() <= after.items(), f"{key}={value} lost {before.keys() - after.keys()}"
        for made in {path.split("/")[0] for path in after.keys() - before.keys()}:
            assert made.startswith("new"), f"{key}={value} left {made}"
            shutil.rmtree(made) if Path(made).is_dir() else Path(made).unlink()


@pytest.mark.parametrize("typed", SEVERAL)
def test_values_that_do_not_go_together_are_a_line(
    typed: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    before = contents(workplace)
    assert SEVERAL[typed] in refused(lambda: main(shlex.split(typed)), typed, capsys)
    assert contents(workplace) == before


@pytest.mark.parametrize("line", [line for line in WRONG if not line.startswith("quickstart")])
def test_the_lines_of_the_table_are_right_without_the_wrong_value(line: str) -> None:
    verb = next(name for name in sorted(VERBS, key=len, reverse=True) if line.startswith(name))
    grammar.compose(verb, _schema(verb), shlex.split(line.removeprefix(verb)))
