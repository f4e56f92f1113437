"""The suite runs on a world of known numpy draws; what needs weights is in test_real_world.py."""

import pytest

from tests.simulator.stub_world import StubWorld


@pytest.fixture
def world() -> StubWorld:
    return StubWorld()
