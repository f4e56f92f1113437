"""A family's configuration has the keys that the family reads, and no others."""

from typing import Any

import pytest
import torch
from pydantic import Field, TypeAdapter, ValidationError

from tests.models.conftest import ACTIONS, FAMILIES, NESTED, built, random_batch
from worldsim.models.config import (
    AnyModelConfig,
    DiffusionConfig,
    LatentConfig,
    ModelConfig,
    RSSMConfig,
    SSMConfig,
    TransformerConfig,
)
from worldsim.models.dynamics import make_dynamics

READ_IN_STEPS = {"min_p", "steps", "order"}


@pytest.mark.parametrize("family", [SSMConfig, TransformerConfig, RSSMConfig, DiffusionConfig])
def test_every_key_is_read(family: type[ModelConfig]) -> None:
    read = set()

    class Watched(family):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    config = Watched(**{k: v for k, v in FAMILIES[family().family] if k != "family"})
    read.clear()
    model, batch = built(config), random_batch(2, 3)
    for stage in model.stages:
        model.losses(batch, torch.Generator().manual_seed(0), stage)
    assert read & set(family.model_fields) == set(family.model_fields) - READ_IN_STEPS - {"family"}
    model.step(model.initial(2), {name: value[:, 0] for name, value in batch.action.items()}, None)
    tick_alone = {"min_p"} if family is DiffusionConfig else set()  # the reward is drawn by it
    assert read & set(family.model_fields) == set(family.model_fields) - {"family"} - tick_alone


def test_the_family_decides_which_keys_there_are() -> None:
    adapter = TypeAdapter(AnyModelConfig)
    for config in (SSMConfig(layers=3), TransformerConfig(window=7), RSSMConfig(unimix=0.1), DiffusionConfig(steps=9)):
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
        model = SSMConfig().build(NESTED, ACTIONS, (-1.0, 2.0))
    parameters = [parameter.double() for parameter in model.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == 1975781
    ordered = sum(number * parameter.sum().item() for number, parameter in enumerate(parameters))
    assert ordered == pytest.approx(102683.5624, abs=1e-3)


def test_blocks_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of blocks 8"):
        RSSMConfig(width=100, blocks=8)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of heads 8"):
        TransformerConfig(width=100, heads=8)


def test_a_configuration_without_a_family_is_no_model() -> None:
    with pytest.raises(TypeError, match="LatentConfig is no family"):
        make_dynamics(LatentConfig(family="none"), torch.tensor([2]), 1, 2)


class Own(SSMConfig):
    """A family of somebody else."""

    family: str = "tests.models.test_config:Own"  # type: ignore[assignment]
    temperature: float = Field(1.0, gt=0)


def test_a_family_of_ones_own_is_named_by_its_class() -> None:
    adapter = TypeAdapter(AnyModelConfig)
    given = {"family": "tests.models.test_config:Own", "temperature": 0.5, "layers": 2}
    found = adapter.validate_python(given)
    assert isinstance(found, Own) and (found.temperature, found.layers) == (0.5, 2)
    assert adapter.validate_python(found.model_dump()) == found
    assert adapter.validate_json(adapter.dump_json(found)) == found
    with pytest.raises(ValidationError, match="greater than 0"):
        adapter.validate_python({**given, "temperature": 0})
    with pytest.raises(ValidationError, match="not a subclass of"):
        adapter.validate_python({"family": "pathlib:Path"})
    with pytest.raises(ValidationError, match="cannot import no_such_module"):
        adapter.validate_python({"family": "no_such_module:Tiny"})
