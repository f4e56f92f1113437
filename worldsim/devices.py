"""Where a World runs: the key `device` of every verb that steps one. To check it loads torch only for a GPU."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from worldsim.errors import ConfigError

if TYPE_CHECKING:
    import torch


def device_of(asked: "str | torch.device") -> "torch.device":
    """ "auto" is a GPU where torch sees one, else the CPU; anything else is what torch calls so.

    Raises ConfigError for a device that torch does not know, and for a GPU where there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if asked == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"device={asked}: torch knows no such device; give auto, cpu or cuda") from error
    if device.type == "cuda" and not there:
        raise ConfigError(f"device={asked}: torch sees no GPU here; give device=auto or device=cpu")
    return device


def _at_hand(asked: str) -> str:
    if asked == "cuda":
        try:
            device_of(asked)
        except ConfigError as error:
            raise ValueError(str(error).partition(": ")[2]) from error  # the key and its value are told anyway
    return asked


Device = Annotated[Literal["auto", "cpu", "cuda"], AfterValidator(_at_hand)]
