"""The `diffusion` family: what changes in an observation is denoised, given the last ones and the actions."""

from worldsim.models.diffusion.family import DiffusionWorldModel

__all__ = ["DiffusionWorldModel"]
