"""What a model is made of. The files in configs/model hold what differs from these defaults."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from worldsim.settings import Settings

WIDEST = 1 << 14  # of a layer: its square alone is a GiB
Precision = Literal["32-true", "bf16-mixed"]  # of products, in training and in stepping, as Lightning has it


class ModelConfig(Settings):
    """What every world model has, whatever its family: encoder, decoder and heads."""

    model_config = ConfigDict(frozen=True)

    patch: int = Field(8, ge=2, le=64, description="an image is seen and drawn in patches of patch x patch pixels")
    embed: int = Field(96, ge=8, le=WIDEST, description="width of an encoded patch, vector or categorical variable")
    hidden: int = Field(160, ge=8, le=WIDEST, description="width inside the encoder and the decoder of images")
    local: bool = Field(
        False,
        description="weights of their own for every place of an image, for cameras that stand still: more parameters, "
        "as many operations",
    )
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


class CodedConfig(ModelConfig):
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


FAMILY = "ssm, transformer or rssm: chosen by model="


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


class RSSMConfig(ModelConfig):
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


AnyModelConfig = Annotated[SSMConfig | TransformerConfig | RSSMConfig, Field(discriminator="family")]
