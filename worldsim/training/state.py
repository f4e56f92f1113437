"""A checkpoint of a training run: everything that the next update depends on, written atomically, without pickle."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor
from torch.optim import Optimizer

from worldsim.errors import CheckpointError
from worldsim.files import hash_of, read_sealed, sealed, write_atomically
from worldsim.models.checkpoint import save_tensors
from worldsim.models.world_model import WorldModel
from worldsim.training.feed import Feed
from worldsim.training.processes import placed_like, unsharded

STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
KEPT = 1  # complete states kept; a new one is complete before the old one is deleted


class TrainingState:
    """Saves and restores model, optimizer, sampler and random generator of a run."""

    def __init__(self, folder: Path, model: WorldModel, optimizer: Optimizer, feed: Feed, generator: Generator):
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.feed, self.generator = feed, generator
        self.seconds = 0.0  # of training so far, set-up not counted

    def save(self, step: int, settings: Mapping[str, Any], writes: bool = True) -> None:
        """Saves the state after `step` updates, and then deletes older ones.

        All processes must call this together: sharded tensors are gathered. Only one of them `writes` the files.
        """
        weights, slots = unsharded(self.model.state_dict()), unsharded(self._optimizer_tensors())
        if not writes:
            return
        place = self.folder / f"step-{step:08d}"
        working = self.folder / f".step-{step:08d}"
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        tensors = {WEIGHTS: weights, OPTIMIZER: slots}
        files = {name: save_tensors(working / name, each) for name, each in tensors.items()}
        state = {"step": step, "seconds": self.seconds, "feed": self.feed.state_dict(), "settings": settings}
        write_atomically(working / STATE, json.dumps(sealed({**state, "files": files})))
        shutil.rmtree(place, ignore_errors=True)
        working.rename(place)
        for old in (*saved_states(self.folder)[:-KEPT], *_abandoned(self.folder)):
            if (old / STATE).is_file() or old.name.startswith("."):
                shutil.rmtree(old)

    def restore(self, settings: Mapping[str, Any]) -> int:
        """Loads the newest state; returns the number of updates behind it, 0 where there is none.

        Raises CheckpointError where the state belongs to other settings or cannot be read.
        """
        # All files are read and checked before any is loaded, so that a damaged state is reported, not half loaded.
        found = saved_states(self.folder)
        if not found:
            return 0
        place = found[-1]
        state = read_state(place)
        try:
            changed = [name for name, digest in state.get("files", {}).items() if hash_of(place / name) != digest]
            if changed:
                raise ValueError(changed[0])
            weights, tensors = load_file(place / WEIGHTS), load_file(place / OPTIMIZER)
        except (OSError, ValueError, SafetensorError) as error:
            raise _damaged(place, error) from error
        _check_same_settings(place, state["settings"], settings)
        own = self.model.state_dict()
        self.model.load_state_dict({name: placed_like(own[name], value) for name, value in weights.items()})
        drawn = tensors.pop("generator")
        if len(drawn) != len(self.generator.get_state()):
            raise CheckpointError(
                f"{place} was begun on a device of another kind than {self.generator.device.type}, whose random "
                "numbers differ; resume with trainer.accelerator= as it was, or use another out="
            )
        self.generator.set_state(drawn)
        self._load_optimizer(tensors)
        self.feed.load_state_dict(state["feed"], int(state["step"]))
        self.seconds = float(state["seconds"])
        return int(state["step"])

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        named = dict(self.model.named_parameters())
        slots = {
            f"{name}.{key}": torch.as_tensor(value)
            for name, parameter in named.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return slots | {"generator": self.generator.get_state()}

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            keys = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
            if keys:
                self.optimizer.state[parameter] = {
                    k: v.to(parameter.device) if k == "step" else placed_like(parameter, v) for k, v in keys.items()
                }


def saved_states(folder: Path) -> list[Path]:
    """Folders of complete states, oldest first."""
    return _named(folder, r"step-\d{8,}")


def _abandoned(folder: Path) -> list[Path]:
    """Folders of incomplete states, whose writer was killed."""
    return _named(folder, r"\.step-\d{8,}")


def _named(folder: Path, pattern: str) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if re.fullmatch(pattern, path.name))


def read_state(place: Path) -> dict[str, Any]:
    """The JSON part of a saved state: step, seconds, feed and settings. Raises CheckpointError if it is damaged."""
    try:
        state = read_sealed(place / STATE)
    except (OSError, ValueError) as error:
        raise _damaged(place, error) from error
    return state


def _damaged(place: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{place} is damaged ({type(error).__name__}); delete it to train from the start")


def _check_same_settings(place: Path, begun: Mapping[str, Any], asked: Mapping[str, Any], group: str = "") -> None:
    for key, value in asked.items():
        old = begun.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            _check_same_settings(place, old, value, f"{group}{key}.")
        elif old != value:
            raise CheckpointError(
                f"{place.parent.parent} was begun with {group}{key}={old}, now {group}{key}={value}; "
                "use another out= or delete it"
            )
