"""Reward and termination: accuracy and calibration of their predictions, and temperature scaling."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.fidelity.measures import calibration_error, detection, fit_temperature, reliability
from worldsim.fidelity.one_step import HeadPredictions
from worldsim.models.heads import RewardHead
from worldsim.spaces import Bools, Floats

SIGNS = ("negative", "none", "positive")


def reward_temperature(head: RewardHead, log_probs: Tensor, reward: Floats) -> float:
    """The temperature for the reward's logits that maximises the likelihood of the actual rewards (N,).

    log_probs: (N, R) at temperature 1. The likelihood is that of the bins, not of the signs, which would blur the mean.
    """
    actual = torch.from_numpy(reward).float()
    return fit_temperature(lambda t: float(head.nll(torch.log_softmax(log_probs / t, -1), actual).sum()))


def end_temperature(logits: Floats, ended: Bools) -> float:
    """The temperature for termination's logits (N,) that maximises the likelihood of the actual ends (N,)."""
    signed = np.where(ended, logits, -logits)
    return fit_temperature(lambda t: float(np.logaddexp(0, -signed / t).sum()))


def reward_metrics(head: RewardHead, predicted: HeadPredictions, temperature: float) -> dict[str, Any]:
    """Mean error, detection of each sign, and the calibration of the most probable sign, before and after scaling."""
    log_probs = torch.log_softmax(predicted.reward / temperature, -1)
    mean = log_probs.exp() @ head.values
    signs = head.signs(log_probs).double().exp().numpy()
    actual = head.sign(torch.from_numpy(predicted.actual_reward).float()).numpy()
    most_probable = signs.argmax(-1)
    uncalibrated = head.signs(predicted.reward).double().exp().numpy()
    bins = reliability(signs.max(-1), most_probable == actual)
    return {
        "error": float(np.abs(mean.cpu().numpy() - predicted.actual_reward).mean()),
        "signs": {name: detection(most_probable == i, actual == i)._asdict() for i, name in enumerate(SIGNS)},
        "accuracy": float((most_probable == actual).mean()),
        "ece": calibration_error(bins),
        "ece_uncalibrated": calibration_error(reliability(uncalibrated.max(-1), uncalibrated.argmax(-1) == actual)),
        "temperature": temperature,
        "reliability": bins,
    }


def end_metrics(predicted: HeadPredictions, temperature: float) -> dict[str, Any]:
    """Detection of terminations (probability above 0.5), and their calibration, before and after scaling."""
    probability = 1 / (1 + np.exp(-predicted.end / temperature))
    bins = reliability(probability, predicted.ended)
    return {
        **detection(probability > 0.5, predicted.ended)._asdict(),
        "ece": calibration_error(bins),
        "ece_uncalibrated": calibration_error(reliability(1 / (1 + np.exp(-predicted.end)), predicted.ended)),
        "temperature": temperature,
        "reliability": bins,
    }
