from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.diagnostics.health import check_health, judge, judge_likelihood
from lineas_core.numerics.transport import delta
from tests.helpers.models import random_map


@pytest.mark.parametrize(
    ("training", "held_out", "surprise", "verdict"),
    [
        (0.95, 0.95, (50.0, 50.0), "no effect"),
        (0.95, None, None, "no effect"),
        (0.3, 0.5, (50.0, 60.0), "healthy"),
        (0.3, None, None, "healthy"),
        (0.3, 0.95, (50.0, 60.0), "overfitted"),
        (0.3, 1.5, None, "overfitted"),
        (0.1, 0.2, (50.0, 151.0), "collapsed"),
        (0.1, 0.2, (50.0, math.nan), "collapsed"),
    ],
)
def test_verdicts(
    training: float, held_out: float | None, surprise: tuple[float, float] | None, verdict: str
) -> None:
    assert judge(training, held_out, surprise)[0] == verdict


@pytest.mark.parametrize(
    ("surprise", "verdict"),
    [
        ((50.0, 30.0), "healthy"),
        ((50.0, 46.0), "no effect"),
        ((50.0, 60.0), "no effect"),
        ((50.0, 151.0), "collapsed"),
        ((50.0, math.nan), "collapsed"),
    ],
)
def test_verdicts_by_likelihood(surprise: tuple[float, float], verdict: str) -> None:
    assert judge_likelihood(surprise)[0] == verdict


def test_a_map_of_lineas_plus_is_judged_by_what_it_is_trained_for(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0, spread=0.2)
    smap = lc.SteeringMap(smap.sites, replace(smap.info, method="lineas+"))
    held_out = prompts.split(0.25, seed=0)[1]
    report = check_health(tiny, smap, *prompts.split(0.25, seed=0))
    assert report.surprise is not None
    assert report.verdict == judge_likelihood(report.surprise)[0]
    with lc.steer(tiny, [(smap, 1.0)]):
        assert report.surprise[1] == pytest.approx(tiny.perplexity(held_out.target))
    # With nothing held out there is only the distance.
    whole = check_health(tiny, smap, *prompts.split(0.0, seed=0))
    assert whole.verdict == judge(whole.training.ratio, None, None)[0]


def test_figures_are_measured_on_either_half(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0, spread=0.2)
    training, held_out = prompts.split(0.25, seed=0)
    report = check_health(tiny, smap, training, held_out)
    site = next(iter(smap.sites))
    assert report.held_out is not None
    for side, deltas in ((training, report.training), (held_out, report.held_out)):
        target = pooled_activations(tiny, tiny.prepare(side.target), [site])[site]
        source = pooled_activations(tiny, tiny.prepare(side.source), [site])[site]
        scale, shift = smap.sites[site]
        assert deltas.before[site] == pytest.approx(float(delta(source, target).mean()), rel=1e-5)
        # At the first site the map acts on the untouched model's output, and pooling is linear.
        moved = float(delta(scale * source + shift, target).mean())
        assert deltas.after[site] == pytest.approx(moved, rel=1e-3)
    assert report.largest_gain == pytest.approx(
        max(float((a.scale - 1).abs().max()) for a in smap.sites.values())
    )
    assert report.support == 1
    assert report.surprise is not None
    assert report.surprise[0] != report.surprise[1]


def test_holding_nothing_out_leaves_those_figures_out(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    result = lc.train(tiny, prompts, lc.TrainConfig(steps=2, holdout=0))
    assert result.health.held_out is None
    assert result.health.surprise is None


def test_training_that_learns_nothing_says_so(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(steps=2, rate=1e-6, holdout=0.25)
    health = lc.train(tiny, prompts, config).health
    assert health.verdict == "no effect"
    assert "raise the Learning rate" in health.advice


@pytest.mark.embedded
def test_a_map_that_breaks_the_language_is_called_collapsed(smollm2: lc.LanguageModel) -> None:
    prompts = lc.PromptSet.load("football")
    widths = dict.fromkeys(smollm2.sites("post_layernorm"), 576)
    generator = torch.Generator().manual_seed(0)
    noise = {
        s: lc.Affine(torch.ones(d), torch.randn(d, generator=generator)) for s, d in widths.items()
    }
    small = replace(prompts, source=prompts.source[:8], target=prompts.target[:8])
    health = check_health(smollm2, lc.SteeringMap(noise), *small.split(0.5, 0))
    assert health.verdict == "collapsed"
