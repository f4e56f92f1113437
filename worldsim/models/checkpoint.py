"""A world on disk: a directory of plain JSON and safetensors. No pickle, so opening one does not run code from it.

    world.json            what the world is: format, model configuration, spaces, source environment, data, hashes
    weights.safetensors   the parameters
    starts.safetensors    recorded first observations, one row each
    calibration.json      calibration of trust and heads, once validated
    fidelity.*            the certificate, once validated: json, html, png and gif

world.json is written last and holds the hashes of all files: a directory with an intact world.json is complete.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldsim.errors import CheckpointError
from worldsim.files import SEAL, hash_of, is_broken, sealed, temporary_path, write_atomically
from worldsim.models.config import AnyModelConfig
from worldsim.models.world_model import WorldModel
from worldsim.spaces import space_from_json

FORMAT = 2  # 2: parameters have the names of `models/leaves`
MANIFEST, WEIGHTS, STARTS = "world.json", "weights.safetensors", "starts.safetensors"
VALIDATION_FILES = (
    "calibration.json",
    "fidelity.json",
    "fidelity.html",
    "fidelity.png",
    "fidelity.gif",
)  # by validation
WORLD_FILES = (MANIFEST, WEIGHTS, STARTS, *VALIDATION_FILES)


class WorldManifest(BaseModel):
    """The content of world.json."""

    model_config = ConfigDict(extra="forbid")

    format: int
    worldsim: str  # version that wrote it
    model: AnyModelConfig
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    reward_range: tuple[float, float]
    horizon: int  # steps after which an episode is truncated: the longest recorded
    metadata: dict[str, Any]  # of the source environment
    env: dict[str, Any]  # configuration of the source environment
    data: dict[str, Any]  # content hash, holdout and seed of the split, fingerprints of the training episodes
    training: dict[str, Any]  # trainer configuration and steps
    files: dict[str, str] = {}  # name -> sha256

    def build(self) -> WorldModel:
        """An untrained model of this description."""
        observation, action = space_from_json(self.observation_space), space_from_json(self.action_space)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # spaces without categorical leaves
            return self.model.build(observation, action, self.reward_range)


class OpenedWorld(NamedTuple):
    """A world directory, read and checked."""

    manifest: WorldManifest
    model: WorldModel
    starts: dict[str, Tensor]  # leaf -> (M, ...)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes a safetensors file atomically; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_path(path)
    try:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, part)
        digest = hash_of(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return digest


def save_world(out: Path, manifest: WorldManifest, model: WorldModel, starts: Mapping[str, Tensor]) -> None:
    """Writes a world, and deletes calibration and certificate of an older one in the folder."""
    for stale in VALIDATION_FILES:
        (out / stale).unlink(missing_ok=True)
    files = {WEIGHTS: save_tensors(out / WEIGHTS, model.state_dict()), STARTS: save_tensors(out / STARTS, starts)}
    written = sealed(manifest.model_copy(update={"files": files}).model_dump(mode="json"))
    write_atomically(out / MANIFEST, json.dumps(written, indent=1))


def read_manifest(path: Path) -> WorldManifest:
    """Raises CheckpointError where there is no world, or one of another format."""
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} holds no world (no {MANIFEST}); train one with: worldsim train out={path}")
    try:
        data = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}); train the world again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise CheckpointError(
            f"{file} has format {found}, this worldsim reads {FORMAT}; make it anew with: worldsim train out={path}"
        )
    if is_broken(data):
        raise CheckpointError(f"{file} was changed since it was written (wrong {SEAL}); train the world again")
    data.pop(SEAL, None)
    try:
        return WorldManifest(**data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: {where}: {first['msg']}; train the world again with this version") from error


def looks_like_a_world(path: Path) -> bool:
    """Whether the folder has a world.json of worldsim, of any version, intact or not."""
    try:
        data = json.loads((path / MANIFEST).read_text())
    except (ValueError, OSError):
        return False
    return isinstance(data, dict) and {"format", "worldsim", "model"} <= data.keys()


def is_whole(path: Path, manifest: WorldManifest) -> bool:
    """Whether the folder has a complete, intact world with this manifest."""
    try:
        found = read_manifest(path)
    except CheckpointError:
        return False
    files = {name: path / name for name in found.files}
    sound = all(file.is_file() and hash_of(file) == found.files[name] for name, file in files.items())
    return sound and found.model_copy(update={"files": {}}) == manifest


def open_world(path: str | Path, device: str | torch.device = "cpu") -> OpenedWorld:
    """Reads a world directory. Raises CheckpointError, in a line, if it is missing, cut short or of another version."""
    path = Path(path)
    manifest = read_manifest(path)
    for name, digest in manifest.files.items():
        if not (path / name).is_file() or hash_of(path / name) != digest:
            reason = f"is cut short or changed (its hash is not the one in {MANIFEST})"
            raise CheckpointError(f"{path / name} {reason}; train the world again")
    try:
        weights, starts = (load_file(path / name, device=str(device)) for name in (WEIGHTS, STARTS))
        with torch.random.fork_rng(devices=[]):
            model = manifest.build()
        model.load_state_dict(weights)
    except Exception as error:  # without a hash of itself, an older world.json may hold anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: the weights do not fit the model ({reason}); train the world again") from error
    return OpenedWorld(manifest, model.to(device).eval(), starts)
