"""The key `device` of every verb that steps a World. Checking it loads torch only for "cuda"."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from worldsim.errors import ConfigError

if TYPE_CHECKING:
    import torch


def device_of(asked: "str | torch.device") -> "torch.device":
    """The device: for "auto" a GPU where torch sees one, else the CPU; otherwise torch's device of this name.

    Raises ConfigError for a device that torch does not know, and for a GPU where there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if asked == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"device={asked}: torch knows no such device; give auto, cpu or cuda") from error
    if device.type == "cuda" and not available:
        raise ConfigError(f"device={asked}: torch sees no GPU here; give device=auto or device=cpu")
    return device


def _check_available(asked: str) -> str:
    if asked == "cuda":
        try:
            device_of(asked)
        except ConfigError as error:
            raise ValueError(str(error).partition(": ")[2]) from error  # key and value are added by the caller
    return asked


Device = Annotated[Literal["auto", "cpu", "cuda"], AfterValidator(_check_available)]
