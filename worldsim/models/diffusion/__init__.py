"""The `diffusion` family: the next observation is denoised from nothing, given the last ones and their actions."""

from worldsim.models.diffusion.family import DiffusionWorldModel

__all__ = ["DiffusionWorldModel"]
