"""Hydra's composition of a verb's configuration, over the defaults of the verb's pydantic model.

Three things are added to Hydra: keys that no file sets have the model's default, an option may be given by its path
(env=path/to/my.yaml), and an environment by its Gymnasium id (env=CartPole-v1).
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.utils import create_config_search_path
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import BaseModel

from worldsim.errors import ConfigError
from worldsim.overrides import label, parse, swept, written
from worldsim.schemas import filled, is_open, unknown

CONFIGS = Path(str(files("worldsim"))) / "configs"
SHIPPED = {str(CONFIGS), "hydra.conf"}  # sources whose files stay as they are while a program runs
INNER = ("model/size", "model/sized")  # groups inside the folder of another group
FOLLOWING = ("budget", "model/sized")  # groups whose option follows from another group's
LOGS = ("job_logging", "hydra_logging")
KEEP_LOGGING: dict[str, Any] = {
    "version": 1,
    "incremental": True,
    "root": {"level": "WARNING"},
}  # "disabled" silences all
DATED_RUN = "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"  # Hydra's own default of hydra.run.dir
DATED_SWEEP = "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}"  # of hydra.sweep.dir
NUMBERED = "${hydra.job.num}"  # of hydra.sweep.subdir
HERE = "."  # replaces DATED_RUN, because `out` names the folder, and NUMBERED until a job has its label
SWEEP_FOLDER = "./multirun"  # replaces DATED_SWEEP where the jobs of a sweep need no folders of their own


class Repository(ConfigRepository):
    """The files of the search path, and files that are given by their path from the current folder."""

    _read: ClassVar[dict[tuple[str, str], ConfigResult | None]] = {}  # what is shipped is read once, as YAML is slow

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.path not in SHIPPED:
            return self._load(config_path)
        key = source.path, config_path
        if key not in self._read:
            self._read[key] = self._load(config_path)
        return copy.deepcopy(self._read[key])  # Hydra changes what it is given

    def _load(self, config_path: str) -> ConfigResult | None:
        found = super().load_config(config_path)
        file = self.file(config_path) if found is None else None
        if file is not None:
            found = FileConfigSource("file", f"file://{file.absolute().parent}").load_config(file.name)
            defaults = self._extract_defaults_list(config_path, found.config)
            found.defaults_list = self._create_defaults_list(config_path, defaults)
        return found

    def config_exists(self, config_path: str) -> bool:
        return super().config_exists(config_path) or self.file(config_path) is not None

    def file(self, config_path: str) -> Path | None:
        """The file of env/path/to/my.yaml, where env is a group and the rest a path."""
        parts = config_path.split("/")
        for number in range(1, len(parts)):
            group, path = "/".join(parts[:number]), Path("/".join(parts[number:]))
            if group not in FOLLOWING and path.suffix == ".yaml" and path.is_file() and self.group_exists(group):
                return path
        return None


class Loader(ConfigLoaderImpl):
    """Loads the configurations of one verb.

    verb: as it is typed, e.g. "faults fit". schema: its model. folder: whether `out` is a folder, else it is a file.
    config_dir, config_path: the user's folders from Hydra's flags of these names. Raises ConfigError where one does not
    exist.
    """

    def __init__(
        self,
        verb: str,
        schema: type[BaseModel],
        folder: bool = True,
        config_dir: str | None = None,
        config_path: str | None = None,
    ):
        version.setbase("1.3")
        for flag, path in (("--config-dir", config_dir), ("--config-path", config_path)):
            if path is not None and not Path(path).is_dir():
                raise ConfigError(f"{flag} {path} is not a folder; give the folder of your configurations")
        search_path = create_config_search_path(f"file://{Path(config_path or CONFIGS).absolute()}")
        last = search_path.get_path().pop()  # Hydra's own schemas
        if config_path is not None:
            search_path.append("worldsim", f"file://{CONFIGS}")
        if config_dir is not None:
            search_path.append("command-line", f"file://{Path(config_dir).absolute()}")
        search_path.append(last.provider, last.path)
        super().__init__(search_path)
        self.repository = Repository(search_path)
        self.verb, self.schema, self.folder = verb, schema, folder
        self._files: dict[tuple[str | None, ...], IConfigRepository] = {}  # cache for one command
        name = verb.replace(" ", "-")
        self.config_name = (
            name if self.repository.config_exists(name) else None
        )  # its primary configuration, if it has one

    def files(self, overrides: Sequence[str] = (), config_name: str | None = None) -> IConfigRepository:
        """The files of the search path, including the folders of hydra.searchpath=[...], which must exist."""
        searched = [text for text in overrides if text.lstrip("+").startswith("hydra.searchpath=")]
        asked = (config_name or self.config_name, *searched)
        if asked in self._files:
            return self._files[asked]
        with warnings.catch_warnings(action="ignore"):  # Hydra only warns of a missing folder
            repository = self._parse_overrides_and_create_caching_repo(asked[0], searched)[1]
        for source in repository.get_sources():
            if not source.available():
                raise ConfigError(f"hydra.searchpath has {source.full_path()}, which is not there")
        self._files[asked] = repository
        return repository

    def groups(self, repository: IConfigRepository | None = None, config_name: str | None = None) -> dict[str, Any]:
        """The groups of the configuration, with their default options."""
        name = config_name or self.config_name
        return dict(_groups(repository or self.repository, name)) if name else {}

    def options(self, group: str, repository: IConfigRepository | None = None) -> list[str]:
        """The options of a group, without those of groups inside its folder, such as model/size."""
        return sorted(_options(repository or self.repository, group, ""))

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        prepared = self.prepare(overrides, config_name)
        composed = super().load_configuration(config_name, prepared, run_mode, from_shell, validate_sweep_overrides)
        with open_dict(composed):
            self._replace_hydra_defaults(composed, [parse(text)[0] for text in prepared], run_mode)
        return composed

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one job of a sweep. Its folder is named after the overrides that only it has."""
        composed = super().load_sweep_config(master_config, sweep_overrides)
        shared, own = master_config.hydra, composed.hydra
        own.sweep.dir, own.sweep.subdir = shared.sweep.dir, _raw(shared.sweep, "subdir")
        apart = shared.sweep.dir != SWEEP_FOLDER
        if _raw(own.sweep, "subdir") == HERE and apart:
            own.sweep.subdir = label(own.overrides.task, shared.overrides.task) or HERE
        with open_dict(composed):
            if apart and "out" in composed and "out" not in swept(shared.overrides.task):
                composed.out = self._in_folder(composed, "${hydra:sweep.dir}/${hydra:sweep.subdir}")
            if "group" in composed.get("logger", {}) and composed.logger.group is None:
                composed.logger.group = str(shared.sweep.dir)
        return composed

    def prepare(self, overrides: Sequence[str], config_name: str | None = None) -> list[str]:
        """Translates overrides for Hydra: any text as a value, any Gymnasium id as env=, any key in open mappings."""
        repository, prepared = self.files(overrides, config_name), list[str]()
        groups = self.groups(repository, config_name)
        for override, text in map(parse, overrides):
            key, plain = str(override.key_or_group), text[0] not in "+~"
            if key in groups and (override.is_delete() or self._is_null(override, groups, repository)):
                prepared += self._deselected(override, text)
            elif key == "env" and key in groups and plain:
                prepared += _env_overrides(override, text, repository)
            elif plain and (self._allows_any_key(override) or self._is_user_option(override, groups, repository)):
                prepared.append(f"{'+' if repository.group_exists(key) else '++'}{text}")
            else:
                prepared.append(text)
        return prepared

    def _compose_config_from_defaults_list(self, defaults: Any, repo: IConfigRepository) -> DictConfig:
        """Adds the model's defaults below the files. Hydra then applies the overrides, and refuses unknown keys."""
        composed: DictConfig = super()._compose_config_from_defaults_list(defaults, repo)
        values = own_values(composed)
        if strange := next(unknown(self.schema, values), None):
            raise ConfigError(f"a configuration file has the key '{strange}', which worldsim {self.verb} does not know")
        for key in values:
            composed.pop(key)
        for key, value in filled(self.schema, values).items():
            composed[key] = value
        return composed

    def _replace_hydra_defaults(self, composed: DictConfig, overrides: Sequence[Override], run_mode: RunMode) -> None:
        """Replaces Hydra's defaults unless set by the user: no dated folders, no logs, a sweep's jobs inside `out`."""
        hydra, typed = composed.hydra, _keys(overrides)
        for name in LOGS:
            if hydra.runtime.choices.get(f"hydra/{name}") == "default" and f"hydra/{name}" not in typed:
                hydra[name] = KEEP_LOGGING
        if hydra.output_subdir == ".hydra" and "hydra.output_subdir" not in typed:
            hydra.output_subdir = None
        if _raw(hydra.run, "dir") == DATED_RUN:
            hydra.run.dir = HERE
        elif run_mode == RunMode.RUN and "out" in composed and "out" not in typed:
            composed.out = self._in_folder(composed, "${hydra:run.dir}")
        if run_mode == RunMode.MULTIRUN and _raw(hydra.sweep, "dir") == DATED_SWEEP:
            swept = _keys([override for override in overrides if override.is_sweep_override()])
            hydra.sweep.dir = self._sweep_folder(composed, swept)
            if _raw(hydra.sweep, "subdir") == NUMBERED and "hydra.sweep.subdir" not in typed:
                hydra.sweep.subdir = HERE

    def _sweep_folder(self, composed: DictConfig, swept: set[str]) -> str:
        """The folder in which each job of a sweep gets a folder of its own."""
        if "out" not in composed or "out" in swept:
            return SWEEP_FOLDER
        out = OmegaConf.select(composed, "out", throw_on_missing=False)
        if out is None and swept - {
            "world"
        }:  # it writes into the world's folder, where jobs would overwrite each other's files
            raise ConfigError("give out=..., a folder in which each of the runs gets a folder of its own")
        return SWEEP_FOLDER if out is None else str(out if self.folder else Path(str(out)).parent)

    def _in_folder(self, composed: DictConfig, folder: str) -> str:
        """`out` inside Hydra's folder of a job."""
        if composed.hydra.job.chdir:
            folder = "${hydra:runtime.output_dir}"
        return folder if self.folder else f"{folder}/{Path(str(composed.out)).name}"

    def _deselected(self, override: Override, text: str) -> list[str]:
        """The overrides that leave a group out: none where it is null anyway, ~group where it is optional."""
        key = str(override.key_or_group)
        field = self.schema.model_fields.get(key)
        if override.is_delete() and field is not None and field.is_required():
            raise ConfigError(f"{text}: worldsim {self.verb} needs it; choose another option, {key}=<option>")
        return [text] if override.is_delete() else []

    def _is_null(self, override: Override, groups: dict[str, Any], repository: IConfigRepository) -> bool:
        """Whether a group that is null is set to null. Raises ConfigError for other values that are not names."""
        if override.is_sweep_override() or isinstance(override.value(), str):
            return False
        key = str(override.key_or_group)
        if override.value() is None and groups[key] is None:
            return True
        if isinstance(override.value(), dict):
            raise ConfigError(f"{key} is a group; give its keys one by one, {key}.<key>=<value>")
        known = ", ".join(self.options(key, repository)) + (", or any Gymnasium id" if key == "env" else "")
        raise ConfigError(f"there is no {key}={written(override.value())}; it is one of {known}")

    def _allows_any_key(self, override: Override) -> bool:
        """Whether the key is inside a mapping with arbitrary keys, or sets one to a mapping."""
        key = str(override.key_or_group)
        given = isinstance(override.value(), dict) and is_open(self.schema, f"{key}.anything")
        return given or is_open(self.schema, key)

    def _is_user_option(self, override: Override, groups: dict[str, Any], repository: IConfigRepository) -> bool:
        """Whether the override chooses an option that exists only in the user's folders, such as experiment=mine."""
        key = str(override.key_or_group)
        if key in groups or key.startswith("hydra/") or not repository.group_exists(key):
            return False
        value = override.value()
        first = value.list[0] if isinstance(value, ChoiceSweep) else value
        sources = [source for source in repository.get_sources() if source.path != str(CONFIGS)]
        return any(source.is_config(f"{key}/{first}") for source in sources)


def own_values(composed: DictConfig) -> dict[str, Any]:
    """The composed values without Hydra's own part; missing ones are "???", interpolations are not resolved."""
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return cast(dict[str, Any], OmegaConf.to_container(kept))


def _keys(overrides: Sequence[Override]) -> set[str]:
    return {str(override.key_or_group) for override in overrides}


def _raw(node: DictConfig, key: str) -> Any:
    """A value without resolving interpolations."""
    return OmegaConf.to_container(node)[key]  # type: ignore[index, call-overload]


def _groups(repository: IConfigRepository, name: str) -> Iterator[tuple[str, Any]]:
    loaded = repository.load_config(name)
    for entry in (loaded.defaults_list or []) if loaded else []:
        if isinstance(entry, ConfigDefault) and entry.path != "_self_":
            yield from _groups(repository, str(entry.path).lstrip("/"))
        elif isinstance(entry, GroupDefault) and not entry.optional:  # an optional one depends on another group
            yield str(entry.group).lstrip("/"), entry.value


def _options(repository: IConfigRepository, group: str, prefix: str) -> Iterator[str]:
    yield from (prefix + name for name in repository.get_group_options(group, ObjectType.CONFIG))
    for inner in repository.get_group_options(group, ObjectType.GROUP):
        if f"{group}/{inner}" not in INNER:
            yield from _options(repository, f"{group}/{inner}", f"{prefix}{inner}/")


def _env_overrides(override: Override, text: str, repository: IConfigRepository) -> list[str]:
    """Translates env=<id> to env=gymnasium env.id=<id>; a ready configuration or a file stays as it is."""

    def is_option(name: str) -> bool:
        return name.endswith(".yaml") or repository.config_exists(f"env/{name}")

    if override.is_sweep_override():
        strange = [name for each in text.partition("=")[2].split(",") if (name := each.strip()) and not is_option(name)]
        if strange:
            raise ConfigError(f"env={strange[0]} cannot be swept by its id; write env=gymnasium env.id=A-v1,B-v1")
        return [text]
    name = str(override.value())
    return [text] if is_option(name) else ["env=gymnasium", f"env.id={written(name)}"]
