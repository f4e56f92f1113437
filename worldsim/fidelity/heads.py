"""Reward and termination: how well they are foreseen, how honest their probabilities are, what would make them so."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.fidelity.measures import Bools, Floats, calibration_error, detection, reliability, temperature
from worldsim.fidelity.one_step import Foreseen
from worldsim.models.heads import RewardHead

SIGNS = ("negative", "none", "positive")


def reward_temperature(head: RewardHead, log_probs: Tensor, reward: Floats) -> float:
    """By which the reward's logits are to be divided: what came (N,) is then least surprising.

    log_probs: (N, R) at temperature 1. The head's own loss decides, not the sign alone: that would blur the mean.
    """
    actual = torch.from_numpy(reward).float()
    return temperature(lambda heat: float(head.nll(torch.log_softmax(log_probs / heat, -1), actual).sum()))


def end_temperature(logits: Floats, ended: Bools) -> float:
    """By which termination's logits (N,) are to be divided: what came is then least surprising."""
    signed = np.where(ended, logits, -logits)
    return temperature(lambda heat: float(np.logaddexp(0, -signed / heat).sum()))


def reward_figures(head: RewardHead, seen: Foreseen, heat: float) -> dict[str, Any]:
    """Mean error, each sign's detection, and the calibration of the most probable sign, before and after."""
    log_probs = torch.log_softmax(seen.reward / heat, -1)
    mean = log_probs.exp() @ head.values
    signs = head.signs(log_probs).double().exp().numpy()
    actual = head.sign(torch.from_numpy(seen.actual_reward).float()).numpy()
    said = signs.argmax(-1)
    before = head.signs(seen.reward).double().exp().numpy()
    bins = reliability(signs.max(-1), said == actual)
    return {
        "error": float(np.abs(mean.cpu().numpy() - seen.actual_reward).mean()),
        "signs": {name: detection(said == i, actual == i)._asdict() for i, name in enumerate(SIGNS)},
        "accuracy": float((said == actual).mean()),
        "ece": calibration_error(bins),
        "ece_uncalibrated": calibration_error(reliability(before.max(-1), before.argmax(-1) == actual)),
        "temperature": heat,
        "reliability": bins,
    }


def end_figures(seen: Foreseen, heat: float) -> dict[str, Any]:
    """Detection of ends that are more probable than not, and the calibration of their probability, before and after."""
    probability = 1 / (1 + np.exp(-seen.end / heat))
    bins = reliability(probability, seen.ended)
    return {
        **detection(probability > 0.5, seen.ended)._asdict(),
        "ece": calibration_error(bins),
        "ece_uncalibrated": calibration_error(reliability(1 / (1 + np.exp(-seen.end)), seen.ended)),
        "temperature": heat,
        "reliability": bins,
    }
