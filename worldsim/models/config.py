"""What a model is made of. Every key is explained in configs/model/*.yaml; a test holds the two together."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from worldsim.settings import Settings

WIDEST = 1 << 14  # of a layer: its square alone is a GiB
Precision = Literal["32-true", "bf16-mixed"]  # of products, in training and in stepping, as Lightning has it


class ModelConfig(Settings):
    """What every world model has, whatever its family: encoder, decoder and heads."""

    model_config = ConfigDict(frozen=True)

    patch: int = Field(8, ge=2, le=64)
    embed: int = Field(96, ge=8, le=WIDEST)
    hidden: int = Field(160, ge=8, le=WIDEST)
    local: bool = False
    width: int = Field(256, ge=16, le=WIDEST)
    ensemble: int = Field(5, ge=2, le=64)
    head_hidden: int = Field(192, ge=8, le=WIDEST)
    min_p: float = Field(0.1, ge=0, lt=1)


class CodedConfig(ModelConfig):
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


class RSSMConfig(ModelConfig):
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


AnyModelConfig = Annotated[SSMConfig | TransformerConfig | RSSMConfig, Field(discriminator="family")]
