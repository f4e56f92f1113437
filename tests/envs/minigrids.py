"""Levels of a user's own on MiniGrid: one that is seen in a narrow view, and the same seen in pixels."""

import gymnasium as gym
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import RGBImgPartialObsWrapper


class Level(MiniGridEnv):
    """An empty room of 6x6."""

    def __init__(self, **kwargs):
        missions = MissionSpace(lambda colour: f"see the {colour} one", [["red", "blue"]])
        super().__init__(missions, grid_size=6, max_steps=10, agent_view_size=5, **kwargs)

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.agent_pos, self.agent_dir = (1, 1), 0
        self.mission = f"see the {self._rand_elem(['red', 'blue'])} one"


def pixels(**kwargs):
    return RGBImgPartialObsWrapper(Level(**kwargs))


gym.register("WorldsimTestLevel-v0", Level)
gym.register("WorldsimTestPixels-v0", pixels)
