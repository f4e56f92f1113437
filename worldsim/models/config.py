"""What a model is made of. Every key is explained in configs/model/*.yaml; a test holds the two together."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast, get_args

import gymnasium as gym
from pydantic import ConfigDict, Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from worldsim.modules import load_module
from worldsim.settings import Settings

if TYPE_CHECKING:  # a configuration is checked without torch
    from worldsim.models.world_model import WorldModel

WIDEST = 1 << 14  # of a layer: its square alone is a GiB
Precision = Literal["32-true", "bf16-mixed"]  # of products, in training and in stepping, as Lightning has it
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ModelConfig(Settings):
    """What every world model has, whatever its family. A family's own configuration says how its model is built."""

    model_config = ConfigDict(frozen=True)

    family: str
    width: int = Field(256, ge=16, le=WIDEST)
    ensemble: int = Field(5, ge=2, le=64)
    head_hidden: int = Field(192, ge=8, le=WIDEST)
    min_p: float = Field(0.1, ge=0, lt=1)

    @abstractmethod
    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        """An untrained model of these spaces. reward_range: least and greatest reward in the data."""


class LatentConfig(ModelConfig):
    """A model that imagines in a latent space: an encoder and a decoder around latent dynamics."""

    patch: int = Field(8, ge=2, le=64)
    embed: int = Field(96, ge=8, le=WIDEST)
    hidden: int = Field(160, ge=8, le=WIDEST)
    local: bool = False

    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        from worldsim.models.latent import LatentWorldModel

        return LatentWorldModel(self, observation_space, action_space, reward_range)


class CodedConfig(LatentConfig):
    """Codes from each frame alone, followed by a backbone."""

    variables: int = Field(6, ge=1, le=1024)
    classes: int = Field(5, ge=2, le=1024)
    layers: int = Field(1, ge=1, le=256)
    code_width: int = Field(24, ge=4, le=WIDEST)
    corrupt: float = Field(0.05, ge=0, lt=1)


class SSMConfig(CodedConfig):
    """The backbone is a gated linear recurrence."""

    family: Literal["ssm"] = "ssm"


class TransformerConfig(CodedConfig):
    """The backbone is causal attention over a window."""

    family: Literal["transformer"] = "transformer"
    layers: int = Field(2, ge=1, le=256)
    heads: int = Field(4, ge=1, le=WIDEST)
    window: int = Field(32, ge=1, le=1 << 16)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class RSSMConfig(LatentConfig):
    """DreamerV3's recurrent state-space model."""

    family: Literal["rssm"] = "rssm"
    latents: int = Field(24, ge=1, le=1024)
    latent_classes: int = Field(24, ge=2, le=1024)
    units: int = Field(192, ge=8, le=WIDEST)
    blocks: int = Field(1, ge=1, le=WIDEST)
    slot_features: int = Field(32, ge=4, le=WIDEST)
    unimix: float = Field(0.01, ge=0, lt=1)
    free_nats: float = Field(1.0, ge=0)
    representation_scale: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.width % self.blocks:
            raise ValueError(f"width {self.width} is not a multiple of blocks {self.blocks}")
        return self


class DiffusionConfig(ModelConfig):
    """The next observation is denoised, given the last ones (DIAMOND, arXiv:2405.12399)."""

    family: Literal["diffusion"] = "diffusion"
    context: int = Field(4, ge=1, le=64)
    steps: int = Field(3, ge=1, le=256)
    order: Literal[1, 2] = 1
    patch: Literal[1, 2, 4, 8, 16] = 4
    channels: int = Field(64, ge=8, le=WIDEST, multiple_of=8)
    levels: int = Field(2, ge=1, le=8)
    blocks: int = Field(1, ge=1, le=64)
    condition: int = Field(192, ge=8, le=WIDEST)
    layers: int = Field(1, ge=1, le=64)
    targets: int = Field(4, ge=1, le=1024)

    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        from worldsim.models.diffusion import DiffusionWorldModel

        return DiffusionWorldModel(self, observation_space, action_space, reward_range)


def _of_its_family(values: Any, known: ValidatorFunctionWrapHandler) -> ModelConfig:
    """A family's own configuration, which `family: module:Class` names where it is none of worldsim's."""
    if isinstance(values, ModelConfig):
        return values
    family = values.get("family") if isinstance(values, Mapping) else None
    if not isinstance(family, str) or ":" not in family:
        return cast(ModelConfig, known(values))
    module, _, name = family.partition(":")
    found = getattr(load_module(module, f"model.family={family}"), name, None)
    if not (isinstance(found, type) and issubclass(found, ModelConfig)):
        raise ValueError(f"{family} is no subclass of worldsim.models.config.ModelConfig")
    return found.model_validate(values)


Known = Annotated[SSMConfig | TransformerConfig | RSSMConfig | DiffusionConfig, Field(discriminator="family")]
AnyModelConfig = Annotated[SerializeAsAny[Known], WrapValidator(_of_its_family)]
