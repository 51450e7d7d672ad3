"""Diffusion of palette colours: paths, denoiser, cached features; and how much a map looks like one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.training.conftest import BUILDING_AND_ROAD
from tests.model.training.test_training import config
from tilecascade.model.evaluation.likeness import Likeness, building_instances, road_pieces
from tilecascade.model.palette import COLOURS, LAND, PALETTE
from tilecascade.model.sgdm.colour_denoiser import ColourDenoiser, Guess
from tilecascade.model.sgdm.colour_sampler import SCALES, DiffusionPath, blended_noise
from tilecascade.model.sgdm.config import UNetConfig, tiny
from tilecascade.model.sgdm.network import random_network
from tilecascade.model.training import feature_cache
from tilecascade.model.training.colours import ColourTask
from tilecascade.model.training.feature_cache import EDGE, FeatureCache, crops, encode
from tilecascade.model.training.perceive import perceiving
from tilecascade.model.training.samples import SampleSource, collate


@pytest.mark.parametrize("kind", ["noise", "bridge"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_path_ends_at_the_map_of_whoever_knows_it(kind: str, steps: int) -> None:
    path = DiffusionPath(kind)  # type: ignore[arg-type]
    clean, draft, noise = torch.randn(3, 2, 8, 16, 16, generator=torch.Generator().manual_seed(1)).unbind()
    levels = []

    def guess(state: torch.Tensor, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels.append(float(level[0]))
        return clean, state

    last = path.sample(guess, draft, noise, steps)
    assert levels == sorted(levels, reverse=True)
    assert len(levels) == steps
    # the state of the last step is that of the path at its time; the path of noise begins at the draft, not at the map
    left = noise + (draft - clean) / path.most if kind == "noise" else noise
    expected, _ = path.state(clean, draft, left, torch.full((2,), 1 / steps))
    assert torch.allclose(last, expected, atol=1e-4) or steps == 1


def test_the_denoiser_begins_as_the_draft() -> None:
    unet = UNetConfig((16,) * 4, layers_per_block=1, head_dim=8, context_dim=32, local=True, finer_levels=1)
    denoiser = ColourDenoiser(tiny().encoder, unet)
    draft = torch.randn(1, len(PALETTE), 32, 32)
    features = denoiser.features(torch.randn(1, 16, 8, 8))
    guess = Guess(draft, torch.rand(1, 48, 32, 32), torch.randn(1, 7, 64, 64))
    logits, found = denoiser(torch.randn(1, 8, 32, 32), torch.ones(1), guess, torch.randn(1, 48, 32), features)
    assert torch.allclose(logits, draft, atol=1e-5)
    full, keep = denoiser.finest(logits, found, guess.images)
    assert full.shape == (1, len(PALETTE), 64, 64)
    assert keep.shape == (1, 1, 64, 64)
    assert torch.allclose(full, torch.nn.functional.interpolate(draft, scale_factor=2.0, mode="bilinear"), atol=1e-5)
    shares = torch.zeros(1, len(PALETTE), 1, 1)
    shares[0, 7] = 100
    assert torch.allclose(denoiser.mean(shares).flatten(), denoiser.embedding[7], atol=1e-5)
    with pytest.raises(ValueError, match="one level"):
        ColourDenoiser(tiny().encoder, tiny().unet)


def test_noise_is_normal_and_changes_over_one_to_eight_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = blended_noise([torch.randn(4, 8, 128 // scale, 128 // scale, generator=generator) for scale in SCALES])
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    near = [float((noise[..., step:] * noise[..., :-step]).mean()) for step in (1, 4, 16)]
    assert near[0] > near[1] > 0.05
    assert abs(near[2]) < 0.05


def test_cached_features_are_those_of_the_encoder(pairs_dir: Path, tmp_path: Path) -> None:
    settings = config(pairs_dir, tmp_path, 2)
    stage = next(stage for stage in settings.stages if stage.name == "colours")
    network = random_network(tiny(), 3)
    source = SampleSource(settings, "train")
    cache = FeatureCache(perceiving(network), source, stage, tmp_path / "features")
    records = cache.variant(0)
    assert len(records) == len(cache.pairs) == 7  # those of another style are left out
    files = sorted(path.name for path in (tmp_path / "features").iterdir())
    again = FeatureCache(perceiving(network), source, stage, tmp_path / "features")
    assert (again.variant(0)["hidden"] == records["hidden"]).all()
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == files
    assert again.name(1) != again.name(0)
    assert FeatureCache(perceiving(random_network(tiny(), 4)), source, stage, tmp_path).name(0) != cache.name(0)

    sample = source.plain(source.pairs[0], True)
    whole = crops(list(encode(perceiving(network), collate([sample]))), (slice(0, EDGE), slice(0, EDGE)))
    batch = collate([sample])
    own = perceiving(network)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        condition, fine = own.encoder(batch.imagery, batch.reference, batch.trusted)
        _, hidden = own.prior(condition, fine, own.text(batch.texts))
    assert torch.allclose(whole.condition, condition.float(), atol=2e-2)
    assert (whole.hidden - hidden.float()).abs().max() <= hidden.float().amax() / 255
    assert (whole.images[:, :3] - batch.imagery).abs().max() < 0.01
    assert (whole.labels == batch.labels).all()
    part = crops(list(encode(perceiving(network), collate([sample]))), (slice(64, 128), slice(32, 96)))
    assert torch.equal(part.labels, whole.labels[:, 64:128, 32:96])
    assert torch.equal(part.hidden, whole.hidden[..., 32:64, 16:48])
    assert torch.equal(part.condition, whole.condition[..., 8:16, 4:12])


@pytest.mark.parametrize("path", ["noise", "bridge", "critic"])
def test_every_path_learns(path: str, pairs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "tqdm", lambda it, **_: it)
    settings = config(pairs_dir, tmp_path, 2)
    stage = next(stage for stage in settings.stages if stage.name == "colours")
    stage = type(stage)(**{**stage.__dict__, "path": path, "batch": 4})
    source, val = SampleSource(settings, "train"), SampleSource(settings, "val")
    task = ColourTask(random_network(tiny(), 3), source, val, stage)
    optimizer = torch.optim.Adam([p for group in task.groups() for p in group["params"]], lr=3e-3)  # type: ignore[attr-defined]
    losses = []
    for step in range(12):
        batch = task.batch(np.random.default_rng(step % 2))
        loss, told = task.loss(batch, torch.Generator().manual_seed(7))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(told["entropy"] if path == "critic" else float(loss.detach()))
    assert sum(losses[-4:]) < sum(losses[:4])
    if path == "bridge":  # the same for all
        scores, picture = task.validate(task.module)
        assert {"draft_miou", "1_miou", "8_building_f", "true_pieces"} <= set(scores)
        assert picture.dtype == np.uint8


def test_likeness_counts_houses_and_pieces_of_road() -> None:
    fill, outline, white = (COLOURS[[name for name, *_ in PALETTE].index(n)] for n in BUILDING_AND_ROAD)
    truth = np.full((128, 128, 3), LAND, dtype=np.uint8)
    for left in (10, 40, 70):
        truth[10:30, left : left + 20] = outline
        truth[11:29, left + 1 : left + 19] = fill
    truth[80:86] = white
    image = truth.copy()
    image[10:30, 10:60] = fill  # two houses have become one
    image[80:86, 60:70] = LAND  # and the road is broken
    assert building_instances(truth)[1] == 3
    assert building_instances(image)[1] == 2
    assert road_pieces(truth)[0] == 1
    assert road_pieces(image)[0] == 2
    likeness = Likeness()
    likeness.add(image, truth)
    told = likeness.summary()
    assert told["building_f"] == pytest.approx(2 * 1 / 5, abs=0.01)
    assert told["building_count"] == 0.67
    assert told["pieces"] > 1.8 * told["true_pieces"]
    same = Likeness()
    same.add(truth, truth)
    assert (same.summary()["building_f"], same.summary()["building_count"]) == (1, 1)
