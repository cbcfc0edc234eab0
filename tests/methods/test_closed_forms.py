"""Each closed-form method against an independent computation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from steering_vectors import train_steering_vector
from torch import Tensor

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.methods.aura import auroc, dampen
from lineas_core.methods.gaussian_act import match_moments
from lineas_core.methods.iti_c import move_along_probe, probe_accuracy
from lineas_core.methods.names import STEPWISE, TITLES, module_of
from lineas_core.methods.repe import move_along_reading_vector, reading_vector
from lineas_core.numerics.transport import affine_transport
from lineas_core.steerable import Pooling
from lineas_core.system.paths import checkout, packaged
from tests.helpers.pipelines import small_sd

CONFIG = lc.TrainConfig(holdout=0, batch_size=8)
CLOSED_FORM = [name for name in TITLES if name not in STEPWISE]


def both_sides(n: int = 24, m: int = 24, d: int = 6) -> tuple[Tensor, Tensor]:
    """Two samples that differ in mean, spread and correlation."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    source = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    target = torch.randn(m, d, generator=generator, dtype=torch.float64) * 0.7
    return source, target + torch.linspace(-1, 2, d)


def activations(
    model: lc.LanguageModel, lines: list[str], pooling: Pooling = "mean"
) -> dict[str, Tensor]:
    return pooled_activations(
        model, model.prepare(lines), model.sites("post_layernorm"), pooling=pooling
    )


@pytest.mark.parametrize("trim", [0.0, 0.125, 0.25])
def test_lin_act_is_the_least_squares_line_through_the_sorted_samples(trim: float) -> None:
    source, target = both_sides()
    out = round(trim * len(source))
    fitted = affine_transport(source, target, trim)
    for j in range(source.shape[1]):
        x, y = (np.sort(z[:, j])[out : len(z) - out] for z in (source, target))
        wanted, *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y, rcond=None)
        np.testing.assert_allclose((fitted.scale[j], fitted.shift[j]), wanted, rtol=1e-5)


def test_trimming_counts_a_sample_at_the_edge_for_the_part_that_is_in() -> None:
    source, target = both_sides(10, 15)
    fitted = affine_transport(source, target, 0.17)
    # Brute force: 3,000 quantile levels, without the lowest and the highest 17%.
    levels = (np.arange(3000) + 0.5) / 3000
    levels = levels[(levels > 0.17) & (levels < 0.83)]
    for j in range(source.shape[1]):
        x, y = (np.sort(z[:, j])[(levels * len(z)).astype(int)] for z in (source, target))
        wanted, *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y, rcond=None)
        np.testing.assert_allclose((fitted.scale[j], fitted.shift[j]), wanted, rtol=1e-5)


def test_trimming_keeps_odd_samples_from_deciding_the_slope() -> None:
    source, _ = both_sides(20)
    target = 2 * source + 1
    target[0] += 1000
    fitted = affine_transport(source, target, 0.1)
    torch.testing.assert_close(fitted.scale, torch.full((6,), 2.0), atol=0.8, rtol=0)
    assert affine_transport(source, target).scale.max() > 50
    with pytest.raises(lc.ConfigError, match=r"trim is 0\.5; it must be 0 or more, and below 0\.5"):
        affine_transport(source, target, 0.5)


def test_lin_act_trims_what_the_settings_say(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    found = lc.fit("lin-act", tiny, prompts, replace(CONFIG, trim=0.125, order="parallel"))
    source, target = activations(tiny, prompts.source), activations(tiny, prompts.target)
    for site, affine in found.sites.items():
        wanted = affine_transport(source[site], target[site], 0.125)
        torch.testing.assert_close(affine.scale, wanted.scale)
        assert not torch.allclose(affine.scale, affine_transport(source[site], target[site]).scale)


@pytest.mark.parametrize(("n", "m"), [(24, 24), (9, 16)])
def test_gaussian_act_gives_the_source_the_moments_of_the_target(n: int, m: int) -> None:
    source, target = both_sides(n, m)
    fitted = match_moments(source, target)
    moved = source * fitted.scale + fitted.shift
    np.testing.assert_allclose(np.mean(moved.numpy(), axis=0), target.numpy().mean(0), atol=1e-5)
    np.testing.assert_allclose(
        np.std(moved.numpy(), axis=0, ddof=1), target.numpy().std(0, ddof=1), rtol=1e-5
    )


def test_gaussian_act_only_shifts_what_does_not_vary() -> None:
    source, target = both_sides()
    source[:, 0] = 3.0
    fitted = match_moments(source, target)
    assert fitted.scale[0] == 1
    assert float(fitted.shift[0]) == pytest.approx(float(target[:, 0].mean()) - 3, abs=1e-6)


@pytest.mark.parametrize("method", ["mean-act", "gaussian-act", "lin-act"])
def test_in_sequence_the_mean_of_every_site_arrives_in_the_steered_model(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    wanted = activations(tiny, prompts.target)
    arrives = {}
    for order in ("sequential-source", "parallel"):
        smap = lc.fit(method, tiny, prompts, replace(CONFIG, order=order, bounds="none"))
        with lc.steer(tiny, [(smap, 1.0)]):
            found = activations(tiny, prompts.source)
        arrives[order] = [
            torch.allclose(found[s].mean(0), wanted[s].mean(0), atol=1e-4) for s in wanted
        ]
    # No site precedes the first one, so it is the same in both orders.
    assert arrives == {"sequential-source": [True, True, True], "parallel": [True, False, False]}


@pytest.mark.parametrize("method", ["mean-act", "gaussian-act", "lin-act"])
def test_in_parallel_every_site_is_fitted_as_if_it_were_alone(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    together = lc.fit(method, tiny, prompts, replace(CONFIG, order="parallel"))
    for site in together.sites:
        alone = lc.fit(method, tiny, prompts, replace(CONFIG, sites=site.replace(".", r"\.")))
        torch.testing.assert_close(alone.sites[site].scale, together.sites[site].scale)
        torch.testing.assert_close(alone.sites[site].shift, together.sites[site].shift)


def test_caa_is_that_of_the_steering_vectors_package(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    found = lc.fit("caa", tiny, prompts, CONFIG)
    wanted = train_steering_vector(
        tiny.module,
        tiny.tokenizer,
        list(zip(prompts.target, prompts.source, strict=True)),
        layer_type="post_attention_layernorm",
        layer_config={"post_attention_layernorm": "model.layers.{num}.post_attention_layernorm"},
    )
    assert len(found.sites) == len(wanted.layer_activations) == 3
    for (site, affine), vector in zip(
        found.sites.items(), wanted.layer_activations.values(), strict=True
    ):
        torch.testing.assert_close(affine.shift, vector, msg=site)
        assert bool((affine.scale == 1).all())
    assert found.info.config["pooling"] == "last"


def test_caa_steers_as_the_steering_vectors_package_does(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    site = "model.layers.1.post_attention_layernorm"
    layers = {"post_attention_layernorm": "model.layers.{num}.post_attention_layernorm"}
    pairs = list(zip(prompts.target, prompts.source, strict=True))
    vector = train_steering_vector(
        tiny.module,
        tiny.tokenizer,
        pairs,
        layers=[1],
        layer_type="post_attention_layernorm",
        layer_config=layers,
    )
    ids = tiny.prepare(["abcabc xyz"]).ids
    with torch.no_grad():
        with vector.apply(tiny.module, layer_config=layers, multiplier=0.5):
            wanted = tiny.module(ids).logits
        found = lc.fit("caa", tiny, prompts, replace(CONFIG, sites=site))
        with lc.steer(tiny, [(found, 0.5)]):
            torch.testing.assert_close(tiny.module(ids).logits, wanted)
        assert not torch.allclose(tiny.module(ids).logits, wanted)


def test_actadd_is_the_difference_of_one_pair(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, holdout=0.25)
    training, _ = prompts.split(config.holdout, config.seed)
    pair = [training.source[0], training.target[0]]
    found = lc.fit("actadd", tiny, prompts, config)
    for site, rows in activations(tiny, pair, "last").items():
        torch.testing.assert_close(found.sites[site].shift, rows[1] - rows[0])
        assert bool((found.sites[site].scale == 1).all())


@pytest.mark.parametrize(("n", "m"), [(24, 24), (15, 9)])
def test_repe_reads_the_first_principal_component_of_scikit_learn(n: int, m: int) -> None:
    source, target = both_sides(n, m)
    pairs = min(n, m)
    signs = np.where(np.arange(pairs) % 2, -1, 1)[:, None]
    pca = PCA(n_components=1).fit(signs * (target[:pairs] - source[:pairs]).numpy())
    found = reading_vector(source, target).numpy()
    assert abs(found @ pca.components_[0]) == pytest.approx(1, abs=1e-9)
    projected = [(z.numpy() @ found).mean() for z in (source, target)]
    assert projected[0] < projected[1]


def test_repe_moves_the_mean_along_the_reading_vector_and_nothing_else() -> None:
    source, target = both_sides()
    vector, shift = reading_vector(source, target), move_along_reading_vector(source, target).shift
    moved = source + shift
    torch.testing.assert_close(
        (moved @ vector).mean(), (target @ vector).mean(), rtol=1e-5, atol=1e-5
    )
    across = torch.eye(6, dtype=torch.float64) - torch.outer(vector, vector)
    torch.testing.assert_close(moved @ across, source @ across, rtol=1e-5, atol=1e-5)


def test_repe_finds_a_direction_that_all_pairs_share() -> None:
    noise, _ = both_sides(24, 24)
    shared = torch.tensor([0, 3, 0, 4, 0, 0], dtype=torch.float64)
    found = reading_vector(noise, noise + 10 * shared + 0.01 * noise.flip(0))
    torch.testing.assert_close(found, shared / 5, rtol=0, atol=1e-2)


def test_iti_c_moves_along_the_normal_of_scikit_learns_boundary() -> None:
    source, target = both_sides()
    rows = torch.cat([source, target]).numpy()
    probe = LogisticRegression(max_iter=1000).fit(rows, [0] * 24 + [1] * 24)
    fitted = move_along_probe(source, target)
    shift = fitted.shift.double().numpy()
    normal = shift / np.linalg.norm(shift)
    # Moving along the boundary does not change the target's probability; the shift raises it.
    point = rows[:1]
    across = rows - np.outer(rows @ normal, normal)
    np.testing.assert_allclose(
        probe.predict_proba(point + across)[:, 1], probe.predict_proba(point)[0, 1], rtol=1e-4
    )
    assert probe.predict_proba(point + shift)[0, 1] > probe.predict_proba(point)[0, 1]
    assert np.linalg.norm(shift) == pytest.approx(np.std(rows @ normal), rel=1e-5)
    assert bool((fitted.scale == 1).all())


def test_iti_c_leaves_a_site_alone_where_nothing_differs() -> None:
    same = torch.ones(8, 3, dtype=torch.float64)
    assert bool((move_along_probe(same, same).shift == 0).all())


def test_iti_c_keeps_the_sites_with_the_best_probes(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, alpha=1.0)
    everywhere = lc.fit("iti-c", tiny, prompts, config)
    source, target = activations(tiny, prompts.source), activations(tiny, prompts.target)
    right: dict[str, float] = {}
    for site in everywhere.sites:
        rows = torch.cat([source[site], target[site]]).double().numpy()
        labels = np.repeat([0, 1], [len(source[site]), len(target[site])])
        shares = []
        for seen, unseen in StratifiedKFold(5).split(rows, labels):
            probe = LogisticRegression(max_iter=1000).fit(rows[seen], labels[seen])
            shares.append(np.mean(probe.predict(rows[unseen]) == labels[unseen]))
        right[site] = float(np.mean(shares))
        found = probe_accuracy(source[site].double(), target[site].double())
        assert found == pytest.approx(right[site])
    for top in (1, 2):
        smap = lc.fit("iti-c", tiny, prompts, replace(config, top_sites=top))
        assert len(smap.sites) == top
        left_out = set(everywhere.sites) - set(smap.sites)
        assert min(right[s] for s in smap.sites) >= max(right[s] for s in left_out)
        for site, affine in smap.sites.items():
            assert torch.equal(affine.shift, everywhere.sites[site].shift)
    assert set(lc.fit("iti-c", tiny, prompts, replace(CONFIG, top_sites=9)).sites) == set(right)


@pytest.mark.parametrize(("n", "m"), [(24, 24), (5, 13)])
def test_aura_scores_each_neuron_as_scikit_learn_does(n: int, m: int) -> None:
    # Rounded, so that there are ties within and across the sides.
    source, target = (z.round() for z in both_sides(n, m))
    # In some columns the source is higher, in others the target.
    source[:, 0] += 2
    labels = [1] * n + [0] * m
    columns = torch.cat([source, target]).T.numpy()
    wanted = np.array([roc_auc_score(labels, column) for column in columns])
    np.testing.assert_allclose(auroc(source, target).numpy(), wanted, rtol=1e-6)
    assert wanted.min() < 0.5 < wanted.max()
    scales = np.where(wanted > 0.5, 1 - 2 * (wanted - 0.5), 1)
    fitted = dampen(source, target)
    np.testing.assert_allclose(fitted.scale.numpy(), scales, atol=1e-6)
    assert bool((fitted.shift == 0).all())


def test_aura_silences_a_sure_detector_of_the_source_only() -> None:
    low, high = torch.arange(4.0), torch.arange(10.0, 14.0)
    fitted = dampen(torch.stack([high, low, low], 1), torch.stack([low, high, low], 1))
    assert fitted.scale.tolist() == [0, 1, 1]


def test_aura_looks_at_the_maximum_over_tokens(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    found = lc.fit("aura", tiny, prompts, replace(CONFIG, pooling="last"))
    source, target = (activations(tiny, side, "max") for side in (prompts.source, prompts.target))
    for site, affine in found.sites.items():
        torch.testing.assert_close(affine.scale, dampen(source[site], target[site]).scale)
    assert found.info.config["pooling"] == "max"


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> lc.DiffusionModel:
    folder = tmp_path_factory.mktemp("pipelines") / "sd"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small_sd().save_pretrained(folder)
    return lc.load_model(str(folder), device="cpu", dtype="float32")


def test_caa_of_an_image_model_is_the_difference_of_mean_channels(
    painter: lc.DiffusionModel, prompts: lc.PromptSet
) -> None:
    seen: list[Tensor] = []
    norm = painter.module.get_submodule("unet.conv_norm_out")
    handle = norm.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        for lines in (prompts.source, prompts.target):
            painter.forward(painter.prepare(lines))
    handle.remove()
    wanted = seen[1].mean(dim=(0, 2, 3)) - seen[0].mean(dim=(0, 2, 3))
    found = lc.fit("caa", painter, prompts, replace(CONFIG, sites=r"unet\.conv_norm_out"))
    torch.testing.assert_close(found.sites["unet.conv_norm_out"].shift, wanted)


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_every_method_steers_images(
    painter: lc.DiffusionModel, prompts: lc.PromptSet, method: str, tmp_path: Path
) -> None:
    config = replace(CONFIG, sites=r"unet\.(up_blocks\.1\.resnets.*norm\d|conv_norm_out)")
    smap = lc.fit(method, painter, replace(prompts, modality="image"), config)
    assert set(smap.sites) == set(painter.sites(config.sites))
    pooling = "max" if method == "aura" else "mean"
    assert smap.info.config["pooling"] == pooling
    smap.save(tmp_path / "map.safetensors")
    kept = lc.SteeringMap.load(tmp_path / "map.safetensors")
    plain, steered = painter.sweep(["abc"], [(kept, None)], [0, 1]).images[0]
    assert np.any(np.asarray(plain) != np.asarray(steered))


def test_every_method_has_a_title_and_a_line_in_the_documentation() -> None:
    modules = {path.stem for path in packaged("methods").glob("*.py")}
    assert {module_of(name) for name in TITLES} <= modules
    text = (checkout() / "docs/methods.md").read_text(encoding="utf-8")
    for method, title in TITLES.items():
        assert f"| {title} (`{method}`) |" in text
