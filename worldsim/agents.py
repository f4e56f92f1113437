"""Agents: whatever chooses actions, be it a policy, a program or a model. Collection policies are agents, too."""

from collections.abc import Mapping
from typing import Any, Protocol


class Agent(Protocol):
    """One decision maker. `reset` starts an episode and seeds all its randomness; `act` maps what it sees to an action."""

    def reset(self, seed: int) -> None: ...

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any: ...
