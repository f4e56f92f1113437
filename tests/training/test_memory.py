"""What will not fit is refused before it is tried, with the key that helps."""

import re

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.errors import ConfigError
from worldsim.models.config import DiffusionConfig, ModelConfig, RSSMConfig, SSMConfig
from worldsim.models.world_model import Batch, Stage, WorldModel
from worldsim.training.config import TrainerConfig
from worldsim.training.memory import MemoryLimit, check_memory, memory_need
from worldsim.training.phases import phases

SPACE = spaces.Dict(
    screen=spaces.Box(0, 255, (32, 32, 3), np.uint8), id=spaces.Discrete(5000), lamps=spaces.MultiBinary(40)
)
SPACES = SPACE, spaces.Discrete(3)
TRAINER = TrainerConfig(batch=16, length=8, codec_frames=32, precision="32-true")


def held(model: WorldModel, batch: Batch, stage: Stage) -> int:
    """Bytes of all tensors that wait for the backward pass, but for weights and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.losses(batch, torch.Generator().manual_seed(0), stage)
    return sum(storage.nbytes() for place, storage in storages.items() if place not in own)


@pytest.mark.parametrize("config", [SSMConfig(), RSSMConfig(), DiffusionConfig()], ids=lambda config: config.family)
def test_an_update_takes_what_was_predicted(config: ModelConfig) -> None:
    model = config.build(*SPACES, (0.0, 1.0))
    plan = phases(TRAINER, model)
    need = memory_need(model, SPACES, plan, TRAINER)
    assert need.weights == 16 * sum(parameter.numel() for parameter in model.parameters())  # AdamW in fp32
    for phase in plan:
        shape = phase.batch, phase.length
        observation = {
            "screen": torch.randint(0, 256, (*shape, 32, 32, 3), dtype=torch.uint8),
            "id": torch.randint(0, 5000, (*shape, 1)),
            "lamps": torch.randint(0, 2, (*shape, 40)),
        }
        none = torch.zeros(shape, dtype=torch.bool)
        batch = Batch(observation, {"value": torch.zeros(*shape, 1, dtype=torch.long)}, torch.zeros(shape), none, none)
        assert need.updates[phase.stage.name] == pytest.approx(held(model, batch, phase.stage), rel=0.15)


def test_what_does_not_fit_is_refused_with_the_key_that_helps() -> None:
    model = SSMConfig().build(*SPACES, (0.0, 1.0))
    many = TRAINER.model_copy(update={"batch": 4096})
    plan = phases(many, model)
    need = memory_need(model, SPACES, plan, many)
    enough = need.weights + max(need.updates.values())
    check_memory(need, plan, enough)
    check_memory(need, plan, None)
    words = r"training takes at least .* GB are free; lower trainer\.batch=4096$"
    with pytest.raises(ConfigError, match=words):
        check_memory(need, plan, enough - 1)
    few = need._replace(updates=dict.fromkeys(need.updates, 1))
    with pytest.raises(ConfigError, match="lower model.width, or leave out"):
        check_memory(few, plan, need.weights)


def test_weights_that_do_not_fit_are_refused_before_they_are_made() -> None:
    """A prior of 100,000 lamps looks at all of them: 40 GB."""
    words = re.escape("and 1.0 GB are free; lower model.width, or leave out")
    with pytest.raises(ConfigError, match=words), MemoryLimit(10**9):
        SSMConfig().build(spaces.MultiBinary(100_000), spaces.Discrete(3), (0.0, 1.0))
    with MemoryLimit(10**9):
        SSMConfig().build(*SPACES, (0.0, 1.0))
