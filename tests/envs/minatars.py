"""MinAtar registers its environments when it is told to."""

from minatar.gym import register_envs

register_envs()
