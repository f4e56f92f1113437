"""worldsim <verb> key=value ...: the command line. A user's mistake is reported in one line, with exit code 2."""

import difflib
import errno
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worldsim
from worldsim.errors import ConfigError, WorldsimError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from worldsim.grammar import Composed

DATA_SET_FILES = (
    "provenance.json",
    "main_data.hdf5",
    "data/main_data.hdf5",
)  # files that a data set has, ours or Minari's own
INTERRUPTED = 130  # exit code after Ctrl-C, as in shells
PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@dataclass(frozen=True)
class Verb:
    """A subcommand of worldsim."""

    summary: str
    schema: str  # "module:Class" of its configuration, imported lazily
    run: "Callable[[Composed[Any]], None]"
    examples: tuple[str, str, str]
    keeps: bool = True  # writes its configuration into its output folder; False: its output is one file, or none
    first: str = ""  # the key for a first argument without "="
    rest: str = ""  # the key for a command after "--"


def _quickstart(composed: "Composed[Any]") -> None:
    from worldsim.quickstart import quickstart

    def run(verb: str, config: "BaseModel") -> None:
        run_verb(verb, type(composed)(config, composed.choices))

    quickstart(composed.config, composed.choices, run)


def _collect(composed: "Composed[Any]") -> None:
    from worldsim.rollouts.collect import collect

    rollouts = collect(composed.config)
    print(f"{rollouts.steps} steps in {rollouts.episodes} episodes in {composed.config.out}")


def _train(composed: "Composed[Any]") -> None:
    from worldsim.training.loop import train
    from worldsim.training.processes import is_first

    config = composed.config
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if config.logger.mode == "disabled" or not is_first():
        manifest = train(config)
    else:
        from worldsim.tracking import watching

        with watching(config) as callback:
            manifest = train(config, callback)
    if is_first():
        print(f"world, trained for {manifest.training['steps']} updates, in {config.out}")


def _validate(composed: "Composed[Any]") -> None:
    from worldsim.fidelity.table import certificate_table
    from worldsim.fidelity.validate import validate
    from worldsim.printing import Terminal

    config = composed.config
    folder = config.out or config.world
    if config.logger.mode == "disabled":
        certificate = validate(config)
    else:
        from worldsim.tracking import log_certificate, tracked

        with tracked("validate", config, config.logger, folder, config.world) as run:
            certificate = validate(config)
            log_certificate(run, certificate)
    Terminal().print(certificate_table(certificate))
    asked, most = certificate["horizon"], certificate["horizons"][-1]
    if most < asked:
        print(f"note: no episode has horizon={asked} steps after its context; {most} are reported")
    if certificate["windows"] < config.windows:
        have = certificate["windows"]
        asked = config.windows
        print(f"note: the reported episodes have only {have} different windows, not windows={asked}; all were imagined")
    print(f"certificate: {folder / 'fidelity.html'}, with fidelity.json, .png, .gif and calibration.json beside it")


def _look(composed: "Composed[Any]") -> None:
    from worldsim.play.look import show

    print(f"film, real above and learned below: {show(composed.config)}")


def _stress(composed: "Composed[Any]") -> None:
    from worldsim.evaluation.stress import stress
    from worldsim.printing import Terminal

    config = composed.config
    if config.logger.mode == "disabled":
        report = stress(config)
    else:
        from worldsim.tracking import log_report, tracked

        with tracked("stress", config, config.logger, config.out, config.world) as run:
            report = stress(config)
            log_report(run, report.data)
    Terminal().print(report.table())
    print(f"report: {config.out / 'report.html'}")


def _ppo(composed: "Composed[Any]") -> None:
    from worldsim.evaluation.ppo import train_ppo

    print(f"agent, trained for {composed.config.steps} steps: {train_ppo(composed.config)}")


def _info(composed: "Composed[Any]") -> None:
    from worldsim.fidelity.info import info
    from worldsim.printing import Terminal

    found = info(composed.config)
    print(found) if isinstance(found, str) else Terminal().print(found)


def _faults_list(composed: "Composed[Any]") -> None:
    from worldsim.faults.plans.listing import table
    from worldsim.printing import Terminal

    Terminal().print(table(composed.config))


def _faults_fit(composed: "Composed[Any]") -> None:
    from worldsim.faults.learned.fit import fit
    from worldsim.printing import Terminal, printable

    fitted = fit(composed.config)
    Terminal().print(fitted.latency_table(), fitted.failure_table())
    if fitted.left_out:
        print(f"left out, fewer than {composed.config.fewest} calls: {printable(', '.join(fitted.left_out))}")
    for note in fitted.notes:
        print(printable(note))
    print(f"a plan of {len(fitted.plan.faults)} faults in {composed.config.out}")


def _schema_faults(composed: "Composed[Any]") -> None:
    import json

    from worldsim.faults.plans.schema import is_schema, plan_schema
    from worldsim.files import alone_at, refuse_foreign, write_atomically

    text, out = json.dumps(plan_schema(), indent=2), composed.config.out
    if out is None:
        print(text)
        return
    with alone_at(out):
        if not is_schema(out):
            refuse_foreign([out], "schema faults")
        write_atomically(out, text + "\n")
    print(f"the schema of plans in {out}")


def _proxy(composed: "Composed[Any]") -> None:
    from worldsim.sandbox.proxying import run_proxy

    code = run_proxy(composed.config)
    if code:
        raise SystemExit(code)


VERBS = {
    "quickstart": Verb(
        "the whole job on one environment: collect, train, validate, look, stress, report",
        "worldsim.quickstart:QuickstartConfig",
        _quickstart,
        ("", "env=atari/breakout out=runs/breakout", "experiment=debug out=runs/debug"),
    ),
    "collect": Verb(
        "record rollouts from an environment",
        "worldsim.rollouts.collect:CollectConfig",
        _collect,
        ("", "env=CartPole-v1 steps=5000 out=runs/cartpole", "policy={careful:0.5,random:0.5} epsilon=0.1 seed=3"),
    ),
    "train": Verb(
        "learn a world from rollouts",
        "worldsim.training.config:TrainConfig",
        _train,
        (
            "data=runs/rollouts out=runs/world",
            "model=rssm trainer.steps=3000 trainer.precision=32-true logger=offline",
            "--multirun model=ssm,rssm seed=0,1",
        ),
    ),
    "validate": Verb(
        "measure the fidelity of a world on held-out rollouts, and calibrate it",
        "worldsim.fidelity.validate:ValidateConfig",
        _validate,
        ("", "world=runs/world data=runs/rollouts", "windows=256 horizon=50"),
    ),
    "look": Verb(
        "draw a GIF: real environment above, learned world below, same actions",
        "worldsim.play.look:LookConfig",
        _look,
        ("", "world=runs/world data=runs/rollouts out=look.gif", "context=10 length=60 count=2 seed=7"),
        keeps=False,
    ),
    "stress": Verb(
        "test agents under faults, in the real environment and in the world",
        "worldsim.evaluation.stress:StressConfig",
        _stress,
        (
            "world=runs/world out=runs/stress",
            "where=[real] agents=[careful,my_package.agents:make] severities=[0.25,0.5,1.0]",
            "env=CartPole-v1 where=[real] agents=[random,sticky] faults=[slow_api] episodes=100",
        ),
    ),
    "ppo": Verb(
        "train a small PPO agent in the real environment, to test it",
        "worldsim.evaluation.ppo:PPOConfig",
        _ppo,
        ("env=atari/breakout out=runs/ppo.zip", "env=CartPole-v1 steps=20000", "env=vizdoom/defend_center seed=1"),
        keeps=False,
    ),
    "proxy": Verb(
        "put faults between an agent and an MCP server",
        "worldsim.sandbox.proxying:ProxyConfig",
        _proxy,
        (
            "faults=slow_api -- python server.py",
            "faults=plan.yaml severity=0.5 record=calls.jsonl -- npx -y some-mcp-server",
            "faults=flaky_vendor url=http://127.0.0.1:8000/mcp port=8765",
        ),
        keeps=False,
        rest="command",
    ),
    "info": Verb(
        "show a world's parameters, costs, spaces, provenance and certificate",
        "worldsim.fidelity.info:InfoConfig",
        _info,
        ("", "world=runs/quickstart/world", "world=runs/world form=json"),
        keeps=False,
    ),
    "faults list": Verb(
        "list all kinds of faults and the ready plans",
        "worldsim.faults.plans.listing:ListConfig",
        _faults_list,
        ("", "family=slow", "kinds=[*_latency,slow_*]"),
        keeps=False,
        first="family",
    ),
    "faults fit": Verb(
        "learn a plan of faults from recorded calls: JSON lines, OpenTelemetry, Jaeger, Langfuse and others",
        "worldsim.faults.learned.fit:FitConfig",
        _faults_fit,
        (
            "traces=traces.jsonl",
            "traces=spans.json out=plans/production.yaml",
            "traces=traces.jsonl fewest=100 lose_answer=1",
        ),
        keeps=False,
        first="traces",
    ),
    "schema faults": Verb(
        "print the JSON Schema of plans, for editors",
        "worldsim.faults.plans.schema:SchemaConfig",
        _schema_faults,
        ("", "out=plan.schema.json", "out=.vscode/plan.schema.json"),
        keeps=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code. Bugs keep their traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return exit_code_of(lambda: _run(words), words)


def exit_code_of(run: Callable[[], None], words: Sequence[str]) -> int:
    """Calls `run` and returns the exit code; a user's mistake is printed in one line. words: the command."""
    try:
        with _warnings_in_a_line():
            run()
        return 0
    except WorldsimError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print(f"\nworldsim: stopped; run the same command to resume: {_typed(words)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        if _disk_is_full(error):
            return _fail("the disk is full; free some space and run the same command again, finished work is kept")
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename:
            return _fail(f"{error.filename} cannot be used ({error.strerror}); give another file or folder")
        raise


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Prints worldsim's own warnings in one line, without file and line of code."""
    import warnings

    own = str(Path(worldsim.__file__).parent)
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: Any, filename: str, *rest: Any, **others: Any) -> None:
            if filename.startswith(own) and category is UserWarning:
                _fail(str(message))
            else:
                usual(message, category, filename, *rest, **others)

        warnings.showwarning = show
        yield


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview())
        return
    if words[0] == "--version":
        print(f"worldsim {worldsim.__version__}")
        return
    if words[0] in _families() and words[1:] in ([], ["--help"], ["-h"]):
        print(_overview(words[0]))
        return
    name, rest = _verb(words)
    rest = _with_keys(VERBS[name], rest)
    if "--version" in rest:
        print(f"worldsim {worldsim.__version__}")
        return
    from worldsim.hydra_app import HydraApp

    HydraApp(name, _schema(name), VERBS[name].keeps, run_verb).run(rest, VERBS[name].summary, VERBS[name].examples)


def _with_keys(verb: Verb, words: Sequence[str]) -> list[str]:
    """The words of a verb as key=value, also a first one without a key, and a command after "--"."""
    words, command = list(words), list[str]()
    if verb.rest and "--" in words:
        from worldsim.overrides import written

        at = words.index("--")
        literal = [word.replace("${", "\\${") for word in words[at + 1 :]]  # no interpolation
        words, command = words[:at], [f"{verb.rest}={written(literal)}"]
    if verb.first and words and not re.match(r"[+~-]|[^/]*=", words[0]):
        words[0] = f"{verb.first}={words[0]}"
    return words + command


def _verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and the remaining words."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in VERBS:
            return name, list(words[count:])
    firsts = {name.split()[0] for name in VERBS}
    second = words[1] if len(words) > 1 and re.fullmatch(r"\w[^=]*", words[1]) else ""
    first = words[0] if words[0] in firsts else "".join(difflib.get_close_matches(words[0], firsts, n=1))
    meant = [name for name in VERBS if name.split()[0] == first]
    near = difflib.get_close_matches(f"{first} {second}", meant, n=1) if second and first in _families() else meant
    given = f"{words[0]} {second}".strip() if first in _families() else words[0]
    hint = f"Did you mean '{near[0]}'?" if len(near) == 1 else f"Verbs are {', '.join(meant or VERBS)}."
    raise ConfigError(f"there is no verb '{given}'. {hint}")


def _families() -> set[str]:
    """First words of the verbs that have two."""
    return {name.split()[0] for name in VERBS if " " in name}


def run_verb(name: str, composed: "Composed[Any]") -> None:
    """Runs the verb, and writes its resolved configuration as config-<verb>.yaml into its output folder."""
    import yaml

    from worldsim.files import refuse_foreign, starts_with, write_atomically

    config = composed.config
    if getattr(config, "out", None) is not None:
        _check_place(name, config.out)
    if not VERBS[name].keeps:
        VERBS[name].run(composed)
        return
    kept = Path(config.out or config.world) / f"config-{name}.yaml"
    if not starts_with(kept, "# worldsim "):
        refuse_foreign([kept], name)
    VERBS[name].run(composed)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_atomically(kept, f"# worldsim {worldsim.__version__}: worldsim {name}\n{text}")


def _check_place(name: str, out: Path) -> None:
    """Raises ConfigError, before any work, where `out` cannot be written or is inside a data set."""
    is_folder = VERBS[name].keeps
    for place in (out, *out.absolute().parents):
        if name != "collect" and any((place / file).is_file() for file in DATA_SET_FILES):
            raise ConfigError(f"out={out} lies in the data set {place}; choose another out=")
    if out.exists() and out.is_dir() != is_folder:
        problem = "is a file, and a folder is needed" if is_folder else "is a folder, and a file is needed"
        raise ConfigError(f"out={out} {problem}; give another file or folder")
    place = next(each for each in (out if is_folder else out.parent, *out.absolute().parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        problem = "may not be written" if place.is_dir() else "is a file"
        raise ConfigError(f"out={out} cannot be made, {place} {problem}; give another file or folder")


def _schema(name: str) -> "type[BaseModel]":
    module, _, attribute = VERBS[name].schema.partition(":")
    schema: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return schema


def _overview(family: str = "") -> str:
    """The text of `worldsim --help`: all verbs, or those whose first word is `family`."""
    lines = [f"worldsim {worldsim.__version__}: a wind tunnel for agents", "", "  worldsim <verb> key=value ...", ""]
    lines += [f"  {name:<14} {verb.summary}" for name, verb in VERBS.items() if family in ("", name.split()[0])]
    lines += ["", "worldsim <verb> --help shows its keys and examples."]
    lines += ["key=a,b --multirun runs once for each value."]
    return "\n".join([*lines, "config=<folder of a run>/config-<verb>.yaml repeats a run; further keys change it."])


def _fail(message: str) -> int:
    from worldsim.printing import printable

    print("worldsim: " + printable(" ".join(message.split())), file=sys.stderr)
    return 2


def _typed(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(["worldsim", *words])


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a full disk, which some libraries report only in their message."""
    full = re.compile(r"No space left|os error 28|errno = 28")
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or full.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    sys.exit(main())
