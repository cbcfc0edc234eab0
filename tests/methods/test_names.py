from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.methods.names import TITLES
from lineas_core.numerics.transport import affine_transport

CONFIG = lc.TrainConfig(steps=3, holdout=0, batch_size=8)


def test_lin_act_fits_each_site_through_the_ones_before(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, order="sequential-source", bounds="none")
    found = lc.fit("lin-act", tiny, prompts, config)
    sites = tiny.sites("post_layernorm")
    target = pooled_activations(tiny, tiny.prepare(prompts.target), sites)
    so_far: dict[str, lc.Affine] = {}
    for site in sites:
        maps = [(lc.SteeringMap(so_far), 1.0)] if so_far else []
        with lc.steer(tiny, maps):
            source = pooled_activations(tiny, tiny.prepare(prompts.source), [site])
        so_far[site] = affine_transport(source[site], target[site])
        torch.testing.assert_close(found.sites[site].scale, so_far[site].scale)
        torch.testing.assert_close(found.sites[site].shift, so_far[site].shift)
    assert found.info.method == "lin-act"


def test_lineas_is_what_training_gives(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    found, wanted = lc.fit("lineas", tiny, prompts, CONFIG), lc.train(tiny, prompts, CONFIG).map
    for site in wanted.sites:
        assert torch.equal(found.sites[site].shift, wanted.sites[site].shift)


@pytest.mark.parametrize("method", list(TITLES))
def test_methods_say_how_a_map_was_made(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    info = lc.fit(method, tiny, prompts, CONFIG).info
    assert (info.method, info.model, info.name) == (method, tiny.id, "letters")


def test_unknown_methods_are_named(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    with pytest.raises(lc.ConfigError, match=r"method is 'magic'; choose one of lineas, lineas\+"):
        lc.fit("magic", tiny, prompts)
