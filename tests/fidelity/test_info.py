"""What a world is and costs: counted by hand where a hand can count it."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console

import worldsim
from worldsim.fidelity.costs import _Peak, cost
from worldsim.fidelity.info import InfoConfig, _in_words, info
from worldsim.fidelity.table import in_lines
from worldsim.fidelity.validate import ValidateConfig, validate
from worldsim.rollouts.dataset import Rollouts
from worldsim.spaces import leaves


def test_the_peak_is_what_lives_at_once() -> None:
    """1000 floats, then 1000 more while the first live, then a product of 10 x 10 after both are gone."""
    peak = _Peak()
    with peak:
        a = torch.zeros(1000, device="meta")
        b = a.view(10, 100) + 1  # the view is no memory of its own
        assert peak.now == peak.peak == 8000
        c = b @ b.T
        assert peak.now == peak.peak == 8400
        del a, b
        assert peak.now == 400 and peak.peak == 8400
        del c
        assert peak.now == 0


def test_costs_grow_with_the_batch_as_they_must(folder: Path) -> None:
    world = worldsim.load(folder)
    model, acts = world.model, world.action_space
    one, many = cost(model, acts, 1), cost(model, acts, 10)
    assert many.flops == 10 * one.flops > 0
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert many.bytes - weights == 10 * (one.bytes - weights) > 0
    assert weights < one.memory < many.memory < weights + 11 * (one.memory - weights)
    assert next(model.parameters()).device.type == "cpu"


def test_a_step_has_at_least_the_operations_of_its_largest_layer(folder: Path) -> None:
    """Two a weight of every linear layer that a step goes through once; the ensemble's are all of that kind."""
    world = worldsim.load(folder)
    model = world.model
    ensemble = 2 * (model.ensemble.in_proj.numel() + model.ensemble.out_proj.numel())
    heads = sum(
        2 * layer.weight.numel()
        for head in (model.reward, model.termination)
        for layer in head.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    assert ensemble + heads < cost(model, world.action_space, 1).flops


def test_the_table_fits_and_the_json_is_whole(folder: Path, rollouts: Rollouts, tmp_path: Path) -> None:
    for name in ("world.json", "weights.safetensors", "starts.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    before = json.loads(info(InfoConfig(world=tmp_path, form="json")))
    assert before["certificate"] is None and not before["calibrated"]
    certificate = validate(
        ValidateConfig(world=tmp_path, data=rollouts.path, context=2, horizon=4, windows=4), progress=False
    )
    found = json.loads(info(InfoConfig(world=tmp_path, form="json")))
    assert found["certificate"] == certificate and found["calibrated"]
    assert found["parameters"]["all"] == sum(p.numel() for p in worldsim.load(tmp_path).model.parameters())
    assert set(found["step"]) == {"1", "64", "1024"}
    shown = io.StringIO()
    Console(file=shown, width=100).print(info(InfoConfig(world=tmp_path)))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 100 and any("a step of 1024" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_a_board_of_classes_is_described_in_a_line() -> None:
    board = spaces.Dict(
        {"cells": spaces.MultiDiscrete(np.tile([11, 6, 3], (7, 7, 1))), "few": spaces.MultiDiscrete([3, 2])}
    )
    said = ["cells MultiDiscrete(7, 7, 3) of 3 to 11 classes", "few MultiDiscrete([3 2])"]
    assert [_in_words(leaf) for leaf in leaves(board)] == said


def test_a_sentence_is_one_line_whatever_stands_in_it() -> None:
    sentence = "Its trust separates right from wrong (AUROC 0.90); as a probability it is off by 0.02."
    assert in_lines([sentence, "none; a; b"]).splitlines() == [sentence, "none; a; b"]
