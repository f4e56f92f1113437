"""The base class of all configurations, and types of keys that several verbs share."""

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

MOST_ENVS = 1024  # parallel environments: more only take memory

Seed = Annotated[int, Field(ge=0, lt=2**32)]
StepCount = Annotated[int, Field(ge=1, le=10**9)]  # of an environment
ContextSteps = Annotated[int, Field(ge=1, le=10_000)]  # recorded steps that a world observes first
Envs = Annotated[int, Field(ge=1, le=MOST_ENVS)]  # in parallel


def _check_policy(policy: str | dict[str, float]) -> str | dict[str, float]:
    if not policy:
        raise ValueError("names no agent; give one, e.g. random, or null")
    if isinstance(policy, dict) and not (min(policy.values()) >= 0 and 0 < sum(policy.values()) < math.inf):
        raise ValueError("the weights must not be negative, and one must be above 0")
    return policy


Policy = Annotated[str | dict[str, float], AfterValidator(_check_policy)]  # an agent, or several with weights


class Settings(BaseModel):
    """Base class of configurations. Refuses unknown keys, NaN and infinities, true for a number, and empty paths.

    Bounds of keys are declared in the `Field`s of subclasses; pydantic checks them.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")  # of the model: pydantic allows none on the discriminator of a union
    @classmethod
    def _check_types(cls, values: Any) -> Any:
        wrong = list[InitErrorDetails]()
        for name in cls.model_fields.keys() & values.keys() if isinstance(values, Mapping) else ():
            if problem := _type_problem(set(_types(cls.model_fields[name].annotation)), list(_entries(values[name]))):
                wrong.append({"type": PydanticCustomError("nonsense", problem), "loc": (name,), "input": values[name]})
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values


class LoggerConfig(Settings):
    """Weights & Biases. `worldsim/configs/logger` holds the modes."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["disabled", "offline", "online"] = Field("disabled", description="set by choosing logger=")
    project: str = Field("worldsim", description="name of the project there")
    name: str | None = Field(None, description="name of the run; null: chosen by wandb")
    group: str | None = Field(
        None, description="name of a group of runs; null: the folder of the sweep, or else of the world"
    )


def _type_problem(wanted: set[Any], given: Sequence[Any]) -> LiteralString | None:
    """What is wrong with the entries of a value of these types that pydantic would accept; None if nothing."""
    if wanted & {int, float} and not wanted & {bool, Any} and any(isinstance(each, bool) for each in given):
        return "true and false are not numbers"
    if Path in wanted and "" in given:
        return "must be a path; the current folder is called ."
    return None


def _types(annotation: Any) -> Iterator[Any]:
    """The types inside an annotation: int, str and float of list[int] | dict[str, float]."""
    inner = [part for part in typing.get_args(annotation) if not isinstance(part, str)]
    if typing.get_origin(annotation) is Annotated:
        inner = inner[:1]
    if not inner:
        yield annotation
    for part in inner:
        yield from _types(part)


def _entries(value: Any) -> Iterator[Any]:
    """The values inside nested lists and mappings, or the value itself."""
    if isinstance(value, list | tuple | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _entries(each)
    else:
        yield value
