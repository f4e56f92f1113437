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

FAMILY = "ssm, transformer, rssm or diffusion: chosen by model="
WIDEST = 1 << 14  # of a layer: its square alone is a GiB
Precision = Literal["32-true", "bf16-mixed"]  # of products, in training and in stepping, as Lightning has it
AnyPrecision = Literal["32-true", "bf16-mixed", "auto"]  # the last tries the others and takes the faster
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ModelConfig(Settings):
    """What every world model has, whatever its family. A family's own configuration says how its model is built."""

    model_config = ConfigDict(frozen=True)

    family: str = Field(description=FAMILY)
    width: int = Field(256, ge=16, le=WIDEST, description="width of what carries the past")
    ensemble: int = Field(
        5, ge=2, le=64, description="members whose disagreement shows how far a prediction can be trusted"
    )
    head_hidden: int = Field(
        192, ge=8, le=WIDEST, description="width inside the heads for reward, termination and the ensemble"
    )
    min_p: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="what is less probable than min_p times the likeliest is never drawn; 0: everything may be",
    )

    @abstractmethod
    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        """An untrained model of these spaces. reward_range: least and greatest reward in the data."""


class LatentConfig(ModelConfig):
    """A model that imagines in a latent space: an encoder and a decoder around latent dynamics."""

    patch: int = Field(8, ge=2, le=64, description="an image is seen and drawn in patches of patch x patch pixels")
    embed: int = Field(96, ge=8, le=WIDEST, description="width of an encoded patch, vector or categorical variable")
    hidden: int = Field(160, ge=8, le=WIDEST, description="width inside the encoder and the decoder of images")
    local: bool = Field(
        False,
        description="weights of their own for every place of an image, for cameras that stand still: more parameters, "
        "as many operations",
    )

    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        from worldsim.models.latent import LatentWorldModel

        return LatentWorldModel(self, observation_space, action_space, reward_range)


class CodedConfig(LatentConfig):
    """Codes from each frame alone, followed by a backbone."""

    variables: int = Field(6, ge=1, le=1024, description="numbers that code a patch")
    classes: int = Field(5, ge=2, le=1024, description="levels that each of these numbers has")
    layers: int = Field(1, ge=1, le=256, description="recurrent blocks, one after another")
    code_width: int = Field(24, ge=4, le=WIDEST, description="width of an embedded code")
    corrupt: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of codes exchanged in training, so that imagination recovers from its own slips",
    )


class SSMConfig(CodedConfig):
    """The backbone is a gated linear recurrence."""

    family: Literal["ssm"] = Field("ssm", description=FAMILY)


class TransformerConfig(CodedConfig):
    """The backbone is causal attention over a window."""

    family: Literal["transformer"] = Field("transformer", description=FAMILY)
    layers: int = Field(2, ge=1, le=256, description="attention blocks, one after another")
    heads: int = Field(4, ge=1, le=WIDEST, description="attention heads, of which width is a multiple")
    window: int = Field(
        32,
        ge=1,
        le=1 << 16,
        description="last moments that a block attends to; those further back than trainer.length are never learned",
    )

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class RSSMConfig(LatentConfig):
    """DreamerV3's recurrent state-space model."""

    family: Literal["rssm"] = Field("rssm", description=FAMILY)
    latents: int = Field(24, ge=1, le=1024, description="categorical variables of the stochastic state")
    latent_classes: int = Field(24, ge=2, le=1024, description="classes that each of them has")
    units: int = Field(192, ge=8, le=WIDEST, description="width of the hidden layers around the recurrent state")
    blocks: int = Field(
        1,
        ge=1,
        le=WIDEST,
        description="the GRU's weights in so many blocks on the diagonal, of which width is a multiple; 1: a plain "
        "GRU, DreamerV3 has 8",
    )
    slot_features: int = Field(
        32,
        ge=4,
        le=WIDEST,
        description="width of what the decoder gets for a patch, vector or categorical variable",
    )
    unimix: float = Field(
        0.01, ge=0, lt=1, description="share of the uniform distribution mixed into the latents' probabilities"
    )
    free_nats: float = Field(
        1.0, ge=0, description="nats of KL divergence below which prior and posterior are left alone"
    )
    representation_scale: float = Field(
        0.1, ge=0, description="weight of pulling the posterior towards the prior; the other way weighs 1"
    )

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.width % self.blocks:
            raise ValueError(f"width {self.width} is not a multiple of blocks {self.blocks}")
        return self


class DiffusionConfig(ModelConfig):
    """The next observation is denoised, given the last ones (DIAMOND, arXiv:2405.12399)."""

    family: Literal["diffusion"] = Field("diffusion", description=FAMILY)
    context: int = Field(
        4,
        ge=1,
        le=64,
        description="last observations that the next one is denoised from; what was seen before them is forgotten",
    )
    steps: int = Field(3, ge=1, le=256, description="denoising steps, which a step of the world costs")
    order: Literal[1, 2] = Field(
        1, description="of the sampler: 1 Euler, 2 Heun, which is more exact and costs twice as much"
    )
    patch: Literal[1, 2, 4, 8, 16] = Field(
        4, description="pixels of patch x patch squares are seen side by side; smaller is finer and slower"
    )
    channels: int = Field(64, ge=8, le=WIDEST, multiple_of=8, description="of the denoiser at its finest resolution")
    levels: int = Field(2, ge=1, le=8, description="resolutions of the denoiser, each half of the one before")
    blocks: int = Field(
        1, ge=1, le=64, description="residual blocks at each resolution, on the way down and on the way up"
    )
    condition: int = Field(
        192,
        ge=8,
        le=WIDEST,
        description="width of what the denoiser knows of noise level, actions and the moment as a whole",
    )
    layers: int = Field(
        1,
        ge=1,
        le=64,
        description="recurrent blocks of the memory that reward, termination and uncertainty are read from",
    )
    targets: int = Field(
        4,
        ge=1,
        le=1024,
        description="moments of each sequence that are denoised in an update; more learn more from it and cost more",
    )

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


BuiltInConfig = Annotated[SSMConfig | TransformerConfig | RSSMConfig | DiffusionConfig, Field(discriminator="family")]
AnyModelConfig = Annotated[SerializeAsAny[BuiltInConfig], WrapValidator(_of_its_family)]
