"""Configurations of world models: one class for each family."""

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
WIDEST = 1 << 14  # most units of a layer: a square matrix of it takes a GiB
Precision = Literal["32-true", "bf16-mixed"]  # of matrix products, with Lightning's names
AnyPrecision = Literal["32-true", "bf16-mixed", "auto"]  # auto times both and takes the faster one
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ModelConfig(Settings):
    """The keys of all families. A family's own configuration adds keys, and builds the model."""

    model_config = ConfigDict(frozen=True)

    family: str = Field(description=FAMILY)
    width: int = Field(
        256, ge=16, le=WIDEST, description="width of the recurrent state or backbone, which carries the past"
    )
    ensemble: int = Field(
        5, ge=2, le=64, description="members of the ensemble, whose disagreement measures epistemic uncertainty"
    )
    head_hidden: int = Field(
        192,
        ge=8,
        le=WIDEST,
        description="width of hidden layers in the heads for reward and termination and in the ensemble",
    )
    min_p: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="classes less probable than min_p times the most probable one are never sampled; 0: all may be",
    )

    @abstractmethod
    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        """An untrained model of these spaces. reward_range: least and greatest reward in the data."""


class LatentConfig(ModelConfig):
    """A model that imagines in a latent space: an encoder and a decoder around latent dynamics."""

    patch: int = Field(8, ge=2, le=64, description="images are encoded and decoded in patches of patch x patch pixels")
    embed: int = Field(96, ge=8, le=WIDEST, description="width of an encoded patch, vector or categorical variable")
    hidden: int = Field(160, ge=8, le=WIDEST, description="width of hidden layers in encoder and decoder of images")
    local: bool = Field(
        False,
        description="separate weights for every patch position, for static cameras: more parameters, the same "
        "operations",
    )

    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        from worldsim.models.latent import LatentWorldModel

        return LatentWorldModel(self, observation_space, action_space, reward_range)


class CodedConfig(LatentConfig):
    """Each frame is encoded by itself to discrete codes, and a backbone predicts the next codes from the past ones."""

    variables: int = Field(6, ge=1, le=1024, description="number of discrete codes of a patch")
    classes: int = Field(5, ge=2, le=1024, description="number of values of each code")
    layers: int = Field(1, ge=1, le=256, description="number of recurrent blocks")
    code_width: int = Field(24, ge=4, le=WIDEST, description="width of the embedding of a code")
    corrupt: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of codes that are replaced in training, so that imagination recovers from its own errors",
    )


class SSMConfig(CodedConfig):
    """The backbone is a gated linear recurrence."""

    family: Literal["ssm"] = Field("ssm", description=FAMILY)


class TransformerConfig(CodedConfig):
    """The backbone is causal attention over a window."""

    family: Literal["transformer"] = Field("transformer", description=FAMILY)
    layers: int = Field(2, ge=1, le=256, description="number of attention blocks")
    heads: int = Field(4, ge=1, le=WIDEST, description="attention heads; width must be a multiple of it")
    window: int = Field(
        32,
        ge=1,
        le=1 << 16,
        description="time steps that a block attends to; more than trainer.length are not trained",
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
    latent_classes: int = Field(24, ge=2, le=1024, description="classes of each of these variables")
    units: int = Field(192, ge=8, le=WIDEST, description="width of the hidden layers around the recurrent state")
    blocks: int = Field(
        1,
        ge=1,
        le=WIDEST,
        description="blocks of a block-diagonal GRU, of which width must be a multiple; 1: a plain GRU, DreamerV3 "
        "has 8",
    )
    slot_features: int = Field(
        32,
        ge=4,
        le=WIDEST,
        description="width of the decoder's input for a patch, vector or categorical variable",
    )
    unimix: float = Field(
        0.01, ge=0, lt=1, description="share of the uniform distribution mixed into the latents' probabilities"
    )
    free_nats: float = Field(1.0, ge=0, description="nats of KL divergence below which its losses are clipped")
    representation_scale: float = Field(
        0.1, ge=0, description="weight of the representation loss (posterior towards prior); the dynamics loss has 1"
    )

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.width % self.blocks:
            raise ValueError(f"width {self.width} is not a multiple of blocks {self.blocks}")
        return self


class DiffusionConfig(ModelConfig):
    """The change to the next observation is denoised, given the last ones (DIAMOND, arXiv:2405.12399)."""

    family: Literal["diffusion"] = Field("diffusion", description=FAMILY)
    context: int = Field(
        4,
        ge=1,
        le=64,
        description="last observations that the denoiser is conditioned on; earlier ones are forgotten",
    )
    steps: int = Field(3, ge=1, le=256, description="denoising steps for each step of the world")
    order: Literal[1, 2] = Field(
        1, description="order of the sampler: 1 Euler, 2 Heun, which is more accurate and costs twice as much"
    )
    patch: Literal[1, 2, 4, 8, 16] = Field(
        4, description="squares of patch x patch pixels become channels; smaller is finer and slower"
    )
    channels: int = Field(
        64, ge=8, le=WIDEST, multiple_of=8, description="channels of the denoiser at its finest resolution"
    )
    levels: int = Field(2, ge=1, le=8, description="resolutions of the denoiser (U-Net), each half of the one before")
    blocks: int = Field(
        1,
        ge=1,
        le=64,
        description="residual blocks at each resolution, on the way down and on the way up, and of what sees the noise",
    )
    condition: int = Field(
        192,
        ge=8,
        le=WIDEST,
        description="width of the denoiser's conditioning vector, from noise level, actions and context",
    )
    layers: int = Field(
        1,
        ge=1,
        le=64,
        description="recurrent blocks of the memory from which reward, termination and uncertainty are predicted",
    )
    targets: int = Field(
        4,
        ge=1,
        le=1024,
        description="time steps of each sequence that are denoised in an update; more cost more",
    )

    def build(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], reward_range: tuple[float, float]
    ) -> "WorldModel":
        from worldsim.models.diffusion import DiffusionWorldModel

        return DiffusionWorldModel(self, observation_space, action_space, reward_range)


def _of_its_family(values: Any, known: ValidatorFunctionWrapHandler) -> ModelConfig:
    """Validates a model configuration; `family: module:Class` names the class of a user's family."""
    if isinstance(values, ModelConfig):
        return values
    family = values.get("family") if isinstance(values, Mapping) else None
    if not isinstance(family, str) or ":" not in family:
        return cast(ModelConfig, known(values))
    module, _, name = family.partition(":")
    found = getattr(load_module(module, f"model.family={family}"), name, None)
    if not (isinstance(found, type) and issubclass(found, ModelConfig)):
        raise ValueError(f"{family} is not a subclass of worldsim.models.config.ModelConfig")
    return found.model_validate(values)


BuiltInConfig = Annotated[SSMConfig | TransformerConfig | RSSMConfig | DiffusionConfig, Field(discriminator="family")]
AnyModelConfig = Annotated[SerializeAsAny[BuiltInConfig], WrapValidator(_of_its_family)]
