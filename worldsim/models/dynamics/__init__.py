"""Families of latent dynamics, one file each, interchangeable."""

from torch import Tensor

from worldsim.models.config import LatentConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.dynamics.base import Dynamics, SequenceOutput, StepOutput
from worldsim.models.dynamics.rssm import RSSM
from worldsim.models.dynamics.ssm import SSM
from worldsim.models.dynamics.transformer import Transformer

__all__ = ["Dynamics", "SequenceOutput", "StepOutput", "make_dynamics"]


def make_dynamics(config: LatentConfig, nvec: Tensor, slots: int, actions: int) -> Dynamics:
    """Those that the configuration is of. nvec: (V,) class counts of categorical variables; slots: S; actions: A."""
    match config:
        case SSMConfig():
            return SSM(config, nvec, slots, actions)
        case TransformerConfig():
            return Transformer(config, nvec, slots, actions)
        case RSSMConfig():
            return RSSM(config, nvec, slots, actions)
    raise TypeError(f"{type(config).__name__} is no family of dynamics")
