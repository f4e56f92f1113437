"""What a model is made of. Every key is explained in configs/model/*.yaml; a test holds the two together."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Sizes and options of a world model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["ssm", "rssm"] = "ssm"
    patch: int = Field(8, ge=2, le=64)
    embed: int = Field(96, ge=8)
    hidden: int = Field(160, ge=8)
    variables: int = Field(6, ge=1)
    classes: int = Field(5, ge=2)
    width: int = Field(384, ge=16)
    layers: int = Field(2, ge=1)
    code_width: int = Field(24, ge=4)
    unimix: float = Field(0.01, ge=0, lt=1)
    corrupt: float = Field(0.05, ge=0, lt=1)
    blocks: int = Field(4, ge=1)
    ensemble: int = Field(5, ge=2)
    head_hidden: int = Field(192, ge=8)
    min_p: float = Field(0.1, ge=0, lt=1)
    free_nats: float = Field(1.0, ge=0)
    representation_scale: float = Field(0.1, ge=0)
