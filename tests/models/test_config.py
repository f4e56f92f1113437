"""A family's configuration has the keys that the family reads, and no others."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.models.conftest import ACTIONS, FAMILIES, NESTED, built, random_batch
from worldsim.models.config import AnyModelConfig, ModelConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.dynamics import make_dynamics
from worldsim.models.world_model import WorldModel

READ_BY_THE_WORLD = {"min_p"}  # tests/simulator/test_world.py sees what it does


@pytest.mark.parametrize("family", [SSMConfig, TransformerConfig, RSSMConfig])
def test_every_key_is_read(family: type[ModelConfig]) -> None:
    read = set()

    class Watched(family):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    config = Watched(**{k: v for k, v in FAMILIES[family().family] if k != "family"})
    read.clear()
    built(config).losses(random_batch(2, 3), torch.Generator().manual_seed(0))
    assert read & set(family.model_fields) == set(family.model_fields) - READ_BY_THE_WORLD - {"family"}


def test_the_family_tells_which_keys_there_are() -> None:
    adapter = TypeAdapter(AnyModelConfig)
    for config in (SSMConfig(layers=3), TransformerConfig(window=7), RSSMConfig(unimix=0.1)):
        assert adapter.validate_python(config.model_dump()) == config
        assert adapter.validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="rssm.layers"):
        adapter.validate_python({"family": "rssm", "layers": 3})
    with pytest.raises(ValidationError, match="family"):
        adapter.validate_python({"family": "convolution"})


def test_a_seed_gives_the_weights_that_it_gave_before() -> None:
    """Figures in the documents were made by this model: a change here is a change of all of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WorldModel(SSMConfig(), NESTED, ACTIONS, (-1.0, 2.0))
    parameters = [parameter.double() for parameter in model.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == 1979621
    ordered = sum(number * parameter.sum().item() for number, parameter in enumerate(parameters))
    assert ordered == pytest.approx(102060.2333, abs=1e-3)


def test_blocks_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of blocks 8"):
        RSSMConfig(width=100, blocks=8)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of heads 8"):
        TransformerConfig(width=100, heads=8)


def test_a_configuration_without_a_family_is_no_model() -> None:
    with pytest.raises(TypeError, match="ModelConfig is no family"):
        make_dynamics(ModelConfig(), torch.tensor([2]), 1, 2)
