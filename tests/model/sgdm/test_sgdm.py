"""The parts of SGDM: shapes, variants, conditioning that matters, schedules equal to the libraries'."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.autoencoder import (
    DRAFT_CHANNELS,
    IMAGES,
    JOIN,
    Draft,
    PaletteAutoencoder,
    enlarge,
    join_cells,
)
from tilecascade.model.sgdm.config import (
    LATENT_STRIDE,
    AutoencoderConfig,
    DiffusionConfig,
    SGDMConfig,
    default,
    sd21,
    tiny,
)
from tilecascade.model.sgdm.layers import cut
from tilecascade.model.sgdm.mf_encoder import BackboneBranch
from tilecascade.model.sgdm.network import SGDM, load_network, random_network, save_network, weights_hash
from tilecascade.model.sgdm.sampler import Sampler
from tilecascade.model.sgdm.scale_text import ZOOM_TABLE, scale_text
from tilecascade.model.sgdm.text_tower import compact_vocabulary


def text_of(network: SGDM, n: int = 1) -> torch.Tensor:
    return network.text([scale_text(16, 15)] * n)


def images(n: int = 1, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Imagery, a reference, and the mask that says that the reference was generated."""
    generator = torch.Generator().manual_seed(3)
    imagery, reference = (torch.rand(n, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return imagery, reference, torch.zeros(n, 1, size, size)


@pytest.mark.parametrize("reference", ["spade", "concat", "none"])
@pytest.mark.parametrize("branch", ["conv", "efficientnet_lite0"])
def test_features_have_the_unets_shapes(reference: str, branch: str) -> None:
    config = replace(tiny(), encoder=replace(tiny().encoder, reference=reference, imagery_branch=branch))
    network = random_network(config)
    with torch.no_grad():
        encoded = network.condition(*images(2), text_of(network, 2))
    widths = config.unet.widths
    assert [tuple(f.shape) for f in encoded.features] == [(2, widths[i], 8 >> i, 8 >> i) for i in range(3)]
    assert encoded.draft is not None
    assert encoded.draft.mean.shape == (2, config.autoencoder.latent_channels, 8, 8)
    assert encoded.draft.hidden.shape == (2, DRAFT_CHANNELS, 32, 32)
    assert encoded.draft.cut(16).embedded.shape == (2, 8, 16, 16)


@pytest.mark.parametrize("preset", [tiny, default])
def test_both_conditions_and_the_text_change_the_prediction(preset: object) -> None:
    network = random_network(preset())  # type: ignore[operator]
    imagery, reference, generated_mask = images()
    latent = torch.randn(1, network.config.autoencoder.latent_channels, 8, 8)

    def predict(a: torch.Tensor, b: torch.Tensor, text: str) -> torch.Tensor:
        with torch.no_grad():
            context = network.text([text])
            return network.unet(
                latent, torch.tensor([500]), context, network.condition(a, b, generated_mask, context).features
            )

    base = predict(imagery, reference, scale_text(16, 15))
    assert base.shape == latent.shape
    assert not torch.equal(base, predict(torch.zeros_like(imagery), reference, scale_text(16, 15)))
    assert not torch.equal(base, predict(imagery, torch.zeros_like(reference), scale_text(16, 15)))
    assert not torch.equal(base, predict(imagery, reference, scale_text(18, 16)))


def test_zero_features_equal_the_plain_unet() -> None:
    network = random_network(tiny())
    latent, context = torch.randn(1, 4, 8, 8), network.text([scale_text(14, None)])
    features = [torch.zeros_like(f) for f in network.condition(*images(), context).features]
    with torch.no_grad():
        ours = network.unet(latent, torch.tensor([7]), context, features)
        plain = network.unet.unet(latent, torch.tensor([7]), encoder_hidden_states=context).sample
    assert torch.equal(ours, plain)


def test_gradients_reach_both_branches() -> None:
    network = random_network(tiny())
    sum(f.square().sum() for f in network.condition(*images(), text_of(network)).features).backward()  # type: ignore[union-attr]
    for branch in (network.encoder.imagery, network.encoder.reference):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in branch.parameters())


def test_local_networks_take_no_statistics_of_the_window() -> None:
    """Far away from a changed pixel the autoencoder and the condition map stay exactly as they were."""
    network = random_network(tiny())
    imagery, reference, generated_mask = images(1, 512)
    changed = imagery.clone()
    changed[:, :, :8, :8] = 1
    with torch.no_grad():
        a, b = (network.encoder(seen, reference, generated_mask)[0] for seen in (imagery, changed))
        c, d = network.autoencoder.encode(imagery), network.autoencoder.encode(changed)
    assert not torch.equal(a, b)
    assert torch.equal(a[..., 40:], b[..., 40:])
    assert torch.equal(c[..., 40:], d[..., 40:])


def test_autoencoder_shapes() -> None:
    network = random_network(tiny())
    image = images()[0]
    with torch.no_grad():
        latent = network.autoencoder.encode(image)
        assert latent.shape == (1, 4, 8, 8)
        assert network.autoencoder.decode(latent).shape == image.shape


def test_the_prior_is_the_latent_of_the_expected_colours() -> None:
    """Certain of one colour, the mean decodes to it, whatever the scale; the sampler's output is added to it."""
    network = random_network(tiny())
    prior, auto = network.prior, network.autoencoder
    assert prior is not None
    assert isinstance(auto, PaletteAutoencoder)
    auto.fit([torch.randint(0, len(PALETTE), (64, 64))])
    water = [name for name, _, _ in PALETTE].index("water")
    with torch.no_grad():
        prior.logits.weight.zero_()
        prior.logits.bias.zero_()
        prior.logits.bias[water] = 50
        logits, hidden = prior(torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 16, 16), text_of(network))
        draft = prior.draft(logits, hidden, torch.zeros(1, IMAGES, 32, 32), auto)
        mean = draft.mean
        flat = torch.tensor(PALETTE[water][1]).view(1, 3, 1, 1) / 127.5 - 1
        assert torch.allclose(mean, auto.encode(flat.expand(1, 3, 32, 32)), atol=1e-4)
        prior.scale.fill_(2)
        assert torch.allclose(network.latent(torch.ones_like(mean), draft), mean + 2)


def test_the_published_preset_has_no_prior_and_both_autoencoders_fit_the_same_code() -> None:
    published = replace(tiny(), diffusion=DiffusionConfig(), autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32)))
    network = random_network(published)
    imagery, reference, generated_mask = images()
    with torch.no_grad():
        draft = network.condition(imagery, reference, generated_mask, text_of(network)).draft
        assert draft is None
        latent = network.autoencoder.encode(imagery)
        assert latent.shape == (1, 4, 8, 8)
        assert network.autoencoder.decode(network.latent(latent, draft)).shape == imagery.shape


def test_scale_text_slots() -> None:
    assert scale_text(17, 15) == (
        "a map tile, zoom level 17, reference zoom level 15, 4X reference, 1.194 m/pixel, scale 1:4k, "
        "block, park, addresses"
    )
    assert "reference" not in scale_text(14, None)
    assert len({scale_text(z, None) for z in ZOOM_TABLE}) == 23
    with pytest.raises(ValueError, match="no scale text"):
        scale_text(23, 22)


def test_every_scale_text_fits_the_compact_tower() -> None:
    network = random_network(tiny())
    texts = [scale_text(z, r) for z in ZOOM_TABLE for r in (None, z - 1, z - 2) if r is None or r >= 0]
    tokens = network.text.tokens(texts)
    assert int(tokens.max()) < len(compact_vocabulary())
    assert (tokens[:, -1] == 0).all(), "a text was cut off"
    assert len({tuple(row.tolist()) for row in tokens}) == len(texts)


def test_store_and_load(tmp_path: Path) -> None:
    network = random_network(tiny())
    stem = tmp_path / "net"
    save_network(network, stem, half=False)
    again = load_network(stem)
    assert again.config == network.config
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    first = weights_hash(stem)
    stem.with_suffix(".json").write_text(stem.with_suffix(".json").read_text() + " ")
    assert weights_hash(stem) != first
    with pytest.raises(FileNotFoundError, match="missing"):
        load_network(tmp_path / "nothing")


def test_config_round_trip() -> None:
    for preset in (sd21, default, tiny):
        assert SGDMConfig.from_dict(preset().to_dict()) == preset()


def test_ddim_equals_diffusers() -> None:
    config = DiffusionConfig(prediction="velocity", sampler="ddim", steps=5, zero_snr=True)
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(5)
    ours = Sampler(config)
    assert ours.steps == theirs.timesteps.tolist()
    x = y = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for index, t in enumerate(ours.steps):
        output = torch.tanh(x * 0.7 + index)
        x = ours.step(x, output, index)
        y = theirs.step(output, t, y).prev_sample
    assert torch.allclose(x, y, atol=1e-4)


def test_respaced_ddpm_equals_diffusers() -> None:
    ours = Sampler(DiffusionConfig())
    assert len(ours.steps) == 50
    assert (ours.steps[0], ours.steps[-1]) == (999, 0)
    theirs = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        variance_type="fixed_small",
    )
    theirs.set_timesteps(timesteps=ours.steps)
    x = y = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    for index, t in enumerate(ours.steps):
        output = torch.tanh(x * 0.7)
        y = theirs.step(output, t, y, generator=torch.Generator().manual_seed(index)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(index), dtype=x.dtype)
        x = ours.step(x, output, index, noise)
    assert torch.allclose(x, y, atol=1e-3)


@pytest.mark.parametrize("steps", [8, 12, 20])
def test_the_solver_comes_closer_to_the_exact_way_than_ddim(steps: int) -> None:
    """Of data that are normal with deviation 0.5 the best network and the way from noise to data are known."""
    deviation, noise = 0.5, torch.linspace(-3, 3, 64).view(1, 1, 8, 8)
    error = {}
    for name in ("ddim", "dpmpp"):
        sampler = Sampler(DiffusionConfig(sampler=name, steps=steps))  # type: ignore[arg-type]
        x, walk = sampler.start(noise), sampler.walk()
        first = float(sampler.alphas[sampler.steps[0]])
        exact = noise * deviation / (first * deviation**2 + 1 - first) ** 0.5
        for index, t in enumerate(sampler.steps):
            a = float(sampler.alphas[t])
            x = walk.step(x, (1 - a) ** 0.5 * x / (a * deviation**2 + 1 - a), index)
        error[name] = float((x - exact).abs().max())
    assert error["dpmpp"] < 0.2 * error["ddim"]
    assert Sampler(DiffusionConfig(sampler="dpmpp", steps=steps)).needs_step_noise is False


def test_a_perfect_network_gives_the_clean_sample_back() -> None:
    clean = torch.randn(3, 4, 4, 4)
    for prediction in ("epsilon", "velocity"):
        sampler = Sampler(DiffusionConfig(prediction=prediction))  # type: ignore[arg-type]
        noise, t = torch.randn(3, 4, 4, 4), torch.tensor([10, 400, 900])
        x = sampler.add_noise(clean, noise, t)
        a = sampler.alphas[t].view(-1, 1, 1, 1)
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        again, eps = sampler.split(x, noise if prediction == "epsilon" else velocity, t)
        assert torch.allclose(again, clean, atol=1e-3)
        assert torch.allclose(eps, noise, atol=1e-3)


def test_published_size() -> None:
    """Parameter counts of the publication: 866 M U-Net, 53 M encoder and adapter (on the meta device: no memory)."""
    with torch.device("meta"):
        from tilecascade.model.sgdm.mf_encoder import MFEncoder
        from tilecascade.model.sgdm.sf_adapter import SFAdapter
        from tilecascade.model.sgdm.unet import InjectedUNet

        config = sd21()
        count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
        unet = count(InjectedUNet(config.unet, 4))
        rest = count(MFEncoder(config.encoder)) + count(SFAdapter(config.encoder, config.unet.widths))
    assert round(unet / 1e6, 1) == 865.9
    assert round(rest / 1e6) == 53


def test_default_fits_the_size_promised() -> None:
    counts = random_network(default()).parameter_counts()
    assert sum(counts.values()) * 2 < 40e6, counts
    assert np.all([n > 0 for n in counts.values()])


def test_folding_batch_norm_changes_nothing_but_the_time() -> None:
    torch.manual_seed(0)
    branch = BackboneBranch(default().encoder).eval()
    for module in branch.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    image = torch.rand(1, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        before = branch(image)
        branch.fold()
        after = branch(image)
    assert not [m for m in branch.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [f.shape[2] for f in before] == [48, 24, 12]
    for a, b in zip(before, after, strict=True):
        assert float((a - b).abs().max()) < 1e-4 * float(a.abs().max())


@pytest.mark.parametrize("contrast", [0.0, 4.0])
def test_decoding_in_pieces_is_the_mean_of_the_likely_colours(contrast: float) -> None:
    auto = PaletteAutoencoder(replace(tiny().autoencoder, building_contrast=contrast, road_contrast=contrast / 4))
    latent = torch.randn(2, 4, 12, 9)
    with torch.no_grad():
        whole = auto.shown(*auto.decode_logits(latent))
        auto.PIECE = 100
        assert torch.allclose(auto.decode(latent), whole, atol=1e-5)


def test_joining_softens_edges_between_cells_and_only_those() -> None:
    edges = torch.zeros(2, 1, 3, 8, 12)
    edges[0, ..., 6:] = 1  # between two cells of two pixels
    edges[1, ..., 5:] = 1  # within one
    for turned in (edges, edges.transpose(3, 4)):
        between, within = (join_cells(image) for image in turned)
        assert torch.equal(within.sum(), turned[1].sum())
        assert torch.allclose(between.sum(), turned[0].sum())
        row = (between if turned is edges else between.transpose(2, 3))[0, 0, 0]
        expected = torch.tensor([0.0] * 5 + [JOIN, 1 - JOIN] + [1.0] * 5)
        assert torch.allclose(row, expected)
        inner = (within if turned is edges else within.transpose(2, 3))[0, 0, 0]
        assert torch.equal(inner, edges[1, 0, 0, 0])
    noise = torch.rand(1, 3, 16, 16)
    assert torch.allclose(join_cells(noise)[..., 2:-2, 4:-2], join_cells(noise[..., 2:])[..., 2:-2, 2:-2])


def test_what_is_likelier_than_around_it_stands_out() -> None:
    """Two houses, likely everywhere, but less between them: one ground without contrast."""
    config = tiny().autoencoder
    auto, plain = PaletteAutoencoder(config), PaletteAutoencoder(replace(config, building_contrast=0.0))
    names = [entry[0] for entry in PALETTE]
    house, land, wood = names.index("building"), names.index("land"), names.index("forest")
    logits = torch.full((1, len(PALETTE), 32, 64), -20.0)
    logits[:, land], logits[:, house], logits[:, house, :, 30:34] = 0.0, 2.0, 0.3
    keep = torch.zeros(1, 1, 32, 64)

    def land_between(kind: int, auto: PaletteAutoencoder = auto) -> bool:
        """Whether columns 31 and 32 are nearer to land than to `kind`, which the ends must show."""
        generated = auto.shown(logits, keep)
        far = [(generated - auto.colours[index].view(3, 1, 1)).abs().sum(1)[0] for index in (kind, land)]
        assert (far[0] < far[1])[:, 5:25].all()
        return bool((far[1] < far[0])[:, 31:33].all())

    assert land_between(house)
    assert not land_between(house, plain)
    logits[:, wood], logits[:, house] = logits[:, house].clone(), -20.0
    assert not land_between(wood), "woods have no gaps to be kept"


def test_where_the_reference_is_trusted_less_stands_out() -> None:
    config = replace(tiny().autoencoder, trusted_contrast=0.0)
    auto = PaletteAutoencoder(config)
    plain = PaletteAutoencoder(replace(config, building_contrast=0.0, road_contrast=0.0))
    logits, keep = 3 * torch.randn(1, len(PALETTE), 16, 32), torch.full((1, 1, 16, 32), -50.0)
    images = torch.zeros(1, IMAGES, 16, 32)
    images[:, 6:, :, :16] = 1
    draft = Draft(torch.zeros(1, 4, 2, 4), torch.zeros(1, 8, 8, 16), torch.zeros(1, DRAFT_CHANNELS, 8, 16), images)
    generated, without, everywhere = (
        a.shown(logits, keep, d) for a, d in ((auto, draft), (plain, draft), (auto, None))
    )  # joined to its neighbour, the last column knows both
    assert torch.allclose(generated[..., :15], without[..., :15], atol=1e-5)
    assert torch.allclose(generated[..., 17:], everywhere[..., 17:], atol=1e-5)
    assert (without - everywhere).abs().mean() > 0.05


def test_the_text_and_the_details_change_what_is_generated() -> None:
    network = random_network(tiny())
    auto, prior = network.autoencoder, network.prior
    assert isinstance(auto, PaletteAutoencoder)
    assert prior is not None
    imagery, reference, generated_mask = images()
    with torch.no_grad():
        condition, fine = network.encoder(imagery, reference, generated_mask)
        (a, hidden), (b, _) = (
            prior(condition, fine, network.text([scale_text(*zooms)])) for zooms in ((14, None), (18, 17))
        )
        assert not torch.equal(a, b)
        draft = prior.draft(a, hidden, torch.cat([imagery, reference, generated_mask], dim=1), auto)
        flat = torch.zeros(1, 8, 64, 64)
        assert not auto.decoder(flat, draft).any()  # an untrained decoder adds nothing
        torch.nn.init.normal_(auto.decoder.conv4.weight)
        generated = auto.decoder(flat, draft)
        for field in ("hidden", "images"):
            other = replace(draft, **{field: torch.zeros_like(getattr(draft, field))})
            assert not torch.equal(generated, auto.decoder(flat, other)), field


def test_context_is_cut_off_before_merging_without_a_difference() -> None:
    encoder = random_network(tiny()).encoder
    generator = torch.Generator().manual_seed(5)
    imagery, reference = (torch.rand(1, 3, 256, 256, generator=generator) * 2 - 1 for _ in range(2))
    trusted = (reference[:, :1] > 0).float()
    with torch.no_grad():
        early = encoder(imagery, reference, trusted, 96)
        late = encoder(imagery, reference, trusted)
    for a, b, stride in zip(early, late, (8, 2), strict=True):
        assert torch.allclose(a, cut(b, 96 // stride), atol=1e-5)
    assert early[0].shape[2] == 8


def test_only_a_trusted_reference_can_be_kept() -> None:
    network = random_network(tiny())
    auto = network.autoencoder
    assert isinstance(auto, PaletteAutoencoder)
    imagery, reference, trusted = images()
    trusted[..., :32] = 1
    with torch.no_grad():
        auto.decoder.conv4.bias[-1] = 50
        encoded = network.condition(imagery, reference, trusted, text_of(network))
        assert encoded.draft is not None
        for generated in (
            auto.decode(encoded.draft.mean, encoded.draft),
            auto.shown(*auto.decode_logits(encoded.draft.mean, encoded.draft), encoded.draft),
        ):
            assert torch.allclose(generated[..., :32], reference[..., :32], atol=1e-5)
            assert (generated[..., 32:] - reference[..., 32:]).abs().mean() > 0.1
        features = network.condition(imagery, reference, torch.zeros_like(trusted), text_of(network)).features
        assert not torch.equal(features[0], encoded.features[0]), "the encoder is told, too"


def test_a_draft_is_encoded_as_if_enlarged() -> None:
    auto = random_network(tiny()).autoencoder
    assert isinstance(auto, PaletteAutoencoder)
    auto.mean.normal_()
    auto.gain.uniform_(0.5, 2)
    embedded = torch.randn(2, 8, 20, 32)
    assert torch.allclose(auto.encode_draft(embedded), auto.encode_embedded(enlarge(embedded)), atol=1e-4)


def test_the_latent_only_changes_the_draft() -> None:
    """Decoded with its own mean an untrained decoder shows the draft itself, with what the components leave out."""
    auto = random_network(tiny()).autoencoder
    assert isinstance(auto, PaletteAutoencoder)
    embedded = auto.embed(torch.randint(0, len(PALETTE), (1, 16, 16)))
    with torch.no_grad():
        mean, images = auto.encode_embedded(enlarge(embedded)), torch.zeros(1, IMAGES, 32, 32)
        draft = Draft(mean, embedded, torch.zeros(1, DRAFT_CHANNELS, 16, 16), images)
        assert torch.allclose(auto.decode_embedded(draft.mean, draft), enlarge(embedded), atol=1e-5)
        changed = auto.decode_embedded(draft.mean + 1, draft) - auto.decode_embedded(draft.mean, draft)
        alone = auto.decode_linear(draft.mean + 1) - auto.decode_linear(draft.mean)
        means = torch.nn.functional.avg_pool2d(alone, LATENT_STRIDE)
        smooth = torch.nn.functional.interpolate(means, scale_factor=float(LATENT_STRIDE), mode="bilinear")
        assert torch.allclose(changed, smooth, atol=1e-4)
        assert (changed - alone).abs().mean() > 0.01
