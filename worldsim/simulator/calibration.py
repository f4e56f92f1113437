"""Calibration of a world on held-out rollouts: trust in its predictions, and temperatures of its heads."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import CheckpointError
from worldsim.files import SEAL, read_sealed, sealed

FILE = "calibration.json"
CERTIFICATE = "fidelity.json"
CERTIFICATE_FORMAT = 2  # earlier ones have other keys for the same metrics


class Trust(NamedTuple):
    """Trust as a function of cumulative entropy: a falling curve through these points, measured on held-out rollouts.

    Where the ensemble disagrees more than it ever did on those rollouts, the curve does not apply: trust is scaled down
    by max_disagreement / disagreement.
    """

    entropy: NDArray[np.float64]  # nats, increasing
    probability: NDArray[np.float64]  # in [0, 1], falling
    max_disagreement: float = float("inf")  # the greatest on the rollouts that the curve was measured on

    def of(self, entropy: NDArray[Any], disagreement: NDArray[Any]) -> NDArray[np.float32]:
        """Trust in [0, 1], of the shape of both: entropy summed since the start, greatest disagreement since then."""
        measured = np.minimum(1.0, self.max_disagreement / np.maximum(disagreement, 1e-12))
        return np.asarray(np.interp(entropy, self.entropy, self.probability) * measured, np.float32)


class Calibration(NamedTuple):
    """What `worldsim validate` measures and a World then uses.

    reward, termination: temperatures that the heads' logits are divided by (Guo et al. 2017, arXiv:1706.04599); above 1
    a head was overconfident.
    """

    trust: Trust
    reward: float = 1.0
    termination: float = 1.0

    def to_json(self) -> str:
        trust = {"entropy": self.trust.entropy.tolist(), "probability": self.trust.probability.tolist()}
        heads = {"reward": self.reward, "termination": self.termination}
        written = {"trust": trust | {"max_disagreement": self.trust.max_disagreement}, "temperature": heads}
        return json.dumps(sealed(written), indent=1)

    @classmethod
    def read(cls, world: Path) -> Self | None:
        """The calibration in a world's folder, None where it has none. Raises CheckpointError where it is damaged."""
        file = world / FILE
        if not file.is_file():
            return None
        try:
            found = read_sealed(file)
            trust, heads = found["trust"], found["temperature"]
            entropy, probability = (np.asarray(trust[key], np.float64) for key in ("entropy", "probability"))
            curve = Trust(entropy, probability, float(trust["max_disagreement"]))
            return cls(curve, float(heads["reward"]), float(heads["termination"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged, or of an older worldsim ({type(error).__name__}); run worldsim validate again"
            ) from error


def certificate_of(world: Path) -> dict[str, Any] | None:
    """The certificate in a world's folder; None where there is none.

    No step of a world depends on it: a damaged one is ignored with a warning.
    """
    file = world / CERTIFICATE
    if not file.is_file():
        return None
    try:
        found = read_sealed(file)
    except (OSError, ValueError):
        found = {}
    if SEAL in found and found.get("format") == CERTIFICATE_FORMAT:
        return found
    warnings.warn(f"{file} is damaged, or of an older worldsim; run worldsim validate again", stacklevel=3)
    return None
