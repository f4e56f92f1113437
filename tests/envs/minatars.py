"""MinAtar registers its environments when it is asked to."""

from minatar.gym import register_envs

register_envs()
