"""On a device of its own a model neither waits for numbers nor mixes in tensors of the CPU, in training and in steps.

Torch's meta device stands in for one: it has no numbers that could be waited for, and refuses most mixing by itself.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.models.conftest import FAMILIES, built
from tests.models.test_inputs import ACTS, ARM, B, T, measure, recorded
from worldsim.models.world_model import Batch, WorldModel
from worldsim.simulator.noise import NoiseSource
from worldsim.simulator.world import WorldState, tick

ELSEWHERE = torch.device("meta")


class Apart(TorchDispatchMode):
    """No operation has tensors of two devices; where it only reads a number without axes it may lie anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_flatten((args, kwargs, result))[0] if isinstance(value, Tensor)]
        copies = func.overloadpacket.__name__ in ("_to_copy", "to", "copy_")
        assert len({tensor.device for tensor in tensors if tensor.dim() or copies}) <= 1, f"{func} mixes devices"
        return result


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WorldModel:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device has none
    return built(FAMILIES[request.param], ARM, ACTS)


def batch() -> Batch:
    first = torch.zeros(B, T, dtype=torch.bool)
    return Batch(recorded(ARM, 0), recorded(ACTS, 0), torch.zeros(B, T), first, first)


def test_losses_and_gradients(model: WorldModel) -> None:
    measure(model, batch())
    model, there = model.to(ELSEWHERE), batch().each(lambda value: value.to(ELSEWHERE))
    with Apart():
        for stage in model.stages:
            losses = model.losses(there, Generator(), stage)
            losses.total.backward()
            assert all(tensor.device == ELSEWHERE for tensor in (losses.total, *losses.parts.values()))
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("observe", ["latent", "frame"])
def test_steps(model: WorldModel, observe: Any) -> None:
    measure(model, batch())
    model, there = model.to(ELSEWHERE), batch().each(lambda value: value.to(ELSEWHERE))
    with torch.inference_mode(), Apart():
        latent = model.observe(there.observation, there.action, there.first).state
        whole, real = (torch.zeros(B, dtype=kind, device=ELSEWHERE) for kind in (torch.int64, torch.float32))
        state = WorldState(latent, whole, whole, real, real, {})
        actions = {name: value[:, 0] for name, value in there.action.items()}
        chance = NoiseSource.of(model.noise_size + 2, ELSEWHERE)
        for _ in range(2):
            now = tick(model, state, actions, observe, chance, (1.0, 1.0))
            state = now.state
    found = [*tree_flatten(tuple(now))[0]]
    assert all(value.device == ELSEWHERE for value in found) and bool(state.observation) == (observe == "frame")
