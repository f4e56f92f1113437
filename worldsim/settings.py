"""What the configurations of all verbs have in common: which values are none, whatever the key."""

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MOST_ENVS = 1024  # environments side by side: beyond it they only take memory

Seed = Annotated[int, Field(ge=0, lt=2**32)]
StepCount = Annotated[int, Field(ge=1, le=10**9)]  # of an environment
ContextSteps = Annotated[int, Field(ge=1, le=10_000)]  # recorded steps that a world sees first
Envs = Annotated[int, Field(ge=1, le=MOST_ENVS)]  # side by side


def _somebody(policy: str | dict[str, float]) -> str | dict[str, float]:
    if not policy:
        raise ValueError("names no agent; give one, e.g. random, or null")
    if isinstance(policy, dict) and not (min(policy.values()) >= 0 and 0 < sum(policy.values()) < math.inf):
        raise ValueError("the weights must not be negative, and one must be above 0")
    return policy


Policy = Annotated[str | dict[str, float], AfterValidator(_somebody)]  # an agent, or several with weights


class Settings(BaseModel):
    """A part of a configuration. Refused are unknown keys, NaN and infinities, true for a number, and empty paths."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")  # of the model: pydantic allows none on the discriminator of a union
    @classmethod
    def _no_nonsense(cls, values: Any) -> Any:
        wrong = list[InitErrorDetails]()
        for name in cls.model_fields.keys() & values.keys() if isinstance(values, Mapping) else ():
            if problem := _nonsense(set(_types(cls.model_fields[name].annotation)), list(_entries(values[name]))):
                wrong.append({"type": PydanticCustomError("nonsense", problem), "loc": (name,), "input": values[name]})
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values


class LoggerConfig(Settings):
    """Weights & Biases. `worldsim/configs/logger` holds the modes."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["disabled", "offline", "online"] = Field("disabled", description="chosen by logger=")
    project: str = Field("worldsim", description="name of the project there")
    name: str | None = Field(None, description="name of the run; null: made up")
    group: str | None = Field(
        None, description="name that runs share; null: the folder of a sweep, or else of the world that they are about"
    )


def _nonsense(wanted: set[Any], given: Sequence[Any]) -> LiteralString | None:
    """What is wrong with the entries of a value of these types, of what pydantic lets pass."""
    if wanted & {int, float} and not wanted & {bool, Any} and any(isinstance(each, bool) for each in given):
        return "true and false are no numbers"
    if Path in wanted and "" in given:
        return "must be a path; the current folder is called ."
    return None


def _types(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: int, str and float where it is list[int] | dict[str, float]."""
    inner = [part for part in typing.get_args(annotation) if not isinstance(part, str)]
    if typing.get_origin(annotation) is Annotated:
        inner = inner[:1]
    if not inner:
        yield annotation
    for part in inner:
        yield from _types(part)


def _entries(value: Any) -> Iterator[Any]:
    """A value, or those in a list or a mapping."""
    if isinstance(value, list | tuple | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _entries(each)
    else:
        yield value
