"""A verb as a Hydra application: its command line, with Hydra's flags, single runs and sweeps."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from pydantic import BaseModel

from worldsim import explained, grammar
from worldsim.errors import ConfigError, WorldsimError
from worldsim.helping import help_text
from worldsim.loader import Loader
from worldsim.overrides import label, swept
from worldsim.printing import printable

FLAGS = "--help, --multirun, --cfg, --info, --resolve, --package, --config-dir, --config-path and --config-name"
UNUSED = ("experimental_rerun", "shell_completion")  # flags of Hydra's that mean nothing here

Do = Callable[[str, grammar.Composed[Any]], None]  # a verb with its configuration


class HydraApp:
    """A verb as a Hydra application. folder: whether its `out` is a folder. do: the function that runs it."""

    def __init__(self, verb: str, schema: type[BaseModel], folder: bool, do: Do):
        self.verb, self.schema, self.folder, self.do = verb, schema, folder, do

    def run(self, words: Sequence[str], summary: str, examples: Sequence[str]) -> None:
        """Runs a command line: --help, --cfg and so on, one run, or a sweep. Raises ConfigError for mistakes in it."""
        flags = _flags(words)
        loader = Loader(self.verb, self.schema, self.folder, flags.config_dir, flags.config_path)
        name = flags.config_name or loader.config_name
        overrides = grammar.with_file(loader, flags.overrides)
        several = swept(overrides)
        mode = RunMode.MULTIRUN if flags.multirun or several else RunMode.RUN
        with _global(Hydra(self.verb, loader)) as hydra:
            try:
                composed = hydra.compose_config(
                    name, overrides, mode, with_log_configuration=False, validate_sweep_overrides=False
                )
                if flags.help:
                    files = loader.files(overrides, name)
                    print(help_text(loader, composed, files, loader.groups(files, name), summary, examples))
                    return
                if flags.cfg or flags.info or flags.hydra_help:
                    _show(hydra, name, overrides, flags)
                    return
            except grammar.COMPOSITION_ERRORS as error:
                raise explained.composition_error(error, loader, name, overrides) from error
            if flags.multirun or composed.hydra.mode == RunMode.MULTIRUN:
                self._sweep(hydra, loader, name, overrides)
            elif several:
                raise ConfigError(
                    f"{several[0]} has several values; add --multirun to run each, or give a list: {several[0]}=[a,b]"
                )
            else:
                self._once(loader, name, composed)

    def _once(self, loader: Loader, name: str | None, composed: DictConfig) -> None:
        """As `Hydra.run`, which would print an additional line before an error."""
        callbacks = Callbacks(composed)
        composed.hydra.mode = RunMode.RUN
        callbacks.on_run_start(config=composed, config_name=name)
        done = run_job(
            self._job,
            composed,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=loader, callbacks=callbacks),
            configure_logging=composed.hydra.runtime.choices["hydra/job_logging"] != "default",
        )
        callbacks.on_run_end(config=composed, config_name=name, job_return=done)
        if done.status == JobStatus.FAILED:
            raise done._return_value

    def _job(self, values: DictConfig) -> None:
        config = grammar.check(self.schema, grammar.plain(values))
        self.do(self.verb, grammar.Composed(config, grammar.chosen(HydraConfig.get())))

    def _sweep(self, hydra: Hydra, loader: Loader, name: str | None, overrides: Sequence[str]) -> None:
        """Hydra's multirun. A job that fails by a user's mistake does not stop the others.

        Jobs may run in other processes (hydra/launcher=joblib or submitit), so failures are reported through files in a
        temporary folder of this sweep.
        """
        shared = loader.prepare(overrides, name)

        def job(values: DictConfig) -> None:
            settings = HydraConfig.get()
            apart = label(settings.overrides.task, shared)
            print(f"[{settings.job.num + 1}] {apart.replace(',', ' ')}", flush=True)
            try:
                self._job(values)
            except WorldsimError as error:
                (Path(failures) / str(settings.job.num)).write_text(f"{apart} ({error})")
                print(f"worldsim: {printable(f'{apart}: {error}')}", file=sys.stderr)

        with tempfile.TemporaryDirectory(prefix=".worldsim-sweep-", dir=Path.cwd()) as failures:
            try:
                hydra.multirun(name, job, [*overrides, "hydra.mode=MULTIRUN"], with_log_configuration=False)
            except grammar.COMPOSITION_ERRORS as error:
                raise explained.composition_error(error, loader, name, overrides) from error
            failed = [path.read_text() for path in sorted(Path(failures).iterdir(), key=lambda path: int(path.name))]
        if failed:
            raise ConfigError(f"{len(failed)} of the runs failed: {'; '.join(failed)}")


def _flags(words: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags, anywhere among the overrides."""
    parser, complaint = get_args_parser(), StringIO()
    try:
        with redirect_stderr(complaint):
            flags: argparse.Namespace = parser.parse_intermixed_args(list(words))
    except SystemExit as left:
        problem = complaint.getvalue().strip().rpartition("error: ")[2]
        strange = problem.removeprefix("unrecognized arguments: ").split()[0]
        key = strange.lstrip("-").partition("=")[0]
        if problem.startswith("unrecognized"):
            raise ConfigError(f"'{strange}' is not a flag; write {key}=... (flags are {FLAGS})") from left
        raise ConfigError(f"{problem} (flags are {FLAGS})") from left
    for flag in UNUSED:
        if getattr(flags, flag):
            raise ConfigError(f"--{flag.replace('_', '-')} is not supported; config=<file> repeats a run")
    if flags.resolve and not flags.cfg:
        raise ConfigError("--resolve needs --cfg job, hydra or all")
    if flags.package and not flags.cfg:
        raise ConfigError("--package needs --cfg job, hydra or all")
    modes = [name for name in ("run", "multirun", "cfg", "info", "help", "hydra_help") if getattr(flags, name)]
    if len(modes) > 1:
        raise ConfigError(f"--{modes[0]} and --{modes[1]} exclude each other; give one of them".replace("_", "-"))
    return flags


def _show(hydra: Hydra, name: str | None, overrides: Sequence[str], flags: argparse.Namespace) -> None:
    """Prints --cfg, --info and --hydra-help as Hydra does."""
    if flags.hydra_help:
        hydra.hydra_help(name, args_parser=get_args_parser(), args=flags)
    elif flags.info:
        root = logging.getLogger()
        before = root.level, list(root.handlers)
        hydra.show_info(flags.info, name, list(overrides))  # it prints by logging
        root.level, root.handlers[:] = before
    else:
        try:
            with redirect_stderr(StringIO()):
                hydra.show_cfg(name, list(overrides), flags.cfg, flags.package, flags.resolve)
        except SystemExit as left:
            raise ConfigError(f"--package {flags.package} is no part of --cfg {flags.cfg}") from left


@contextmanager
def _global(hydra: Hydra) -> Iterator[Hydra]:
    """Sets GlobalHydra, where Hydra's plugins and compose API look for it; restores the previous one afterwards."""
    instance = GlobalHydra.instance()
    outer = instance.hydra
    instance.hydra = hydra
    try:
        yield hydra
    finally:
        instance.hydra = outer
