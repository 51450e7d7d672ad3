"""The names of the published checkpoint layout (C2GM's release on latent-diffusion) -> ours.

Names beginning `model.diffusion_model.` are the U-Net's and go through diffusers' own LDM conversion; names beginning
`adapter.` are MFEncoder's and SFAdapter's; `first_stage_model.` (autoencoder) and `cond_stage_model.` (text tower)
are those of Stable Diffusion 2.1.
"""

from __future__ import annotations

import re

UNET_PREFIX = "model.diffusion_model."
ADAPTER_PREFIX = "adapter."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.model."

# published name (after `adapter.`) -> ours; {n} counts from 0 here and from 1 there
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"merge_encoder\.first_layer_source\.conv_in\.", "encoder.imagery.stem."),
    (r"merge_encoder\.first_layer_ref_scale\.conv_in\.", "encoder.reference.stem."),
    (r"merge_encoder\.layer(\d)_source\.0\.conv_in\.", "encoder.imagery.stages.{n}.conv."),
    (r"merge_encoder\.layer(\d)_source\.1\.res_block\.0\.", "encoder.imagery.stages.{n}.residual.conv1."),
    (r"merge_encoder\.layer(\d)_source\.1\.res_block\.2\.", "encoder.imagery.stages.{n}.residual.conv2."),
    (r"merge_encoder\.layer(\d)_source\.2\.downsample\.1\.", "encoder.imagery.stages.{n}.down.conv."),
    (r"merge_encoder\.layer(\d)_ref_scale\.0\.", "encoder.reference.stages.{n}.conv."),
    (r"merge_encoder\.layer(\d)_ref_scale\.2\.downsample\.1\.", "encoder.reference.stages.{n}.down.conv."),
    (r"merge_encoder\.spade(\d)\.param_free_norm\.", "encoder.spade.{n}.norm."),
    (r"merge_encoder\.spade(\d)\.mlp_shared\.0\.", "encoder.spade.{n}.shared."),
    (r"merge_encoder\.spade(\d)\.mlp_gamma\.", "encoder.spade.{n}.gamma."),
    (r"merge_encoder\.spade(\d)\.mlp_beta\.", "encoder.spade.{n}.beta."),
    (r"merge_encoder\.last_linear\.", "encoder.merge."),
    (r"conv_in\.", "adapter.conv_in."),
)
_BODY = re.compile(r"body\.(\d+)\.(in_conv|block1|block2|down_opt\.op)\.")
_BODY_PARTS = {"in_conv": "widen", "block1": "conv1", "block2": "conv2", "down_opt.op": "down"}


def adapter_name(published: str, blocks: int = 2) -> str:
    """Our name for a published MFEncoder or SFAdapter tensor (without `adapter.`). Raises KeyError if unknown."""
    match = _BODY.match(published)
    if match:
        group, block = divmod(int(match[1]), blocks)
        return f"adapter.groups.{group}.{block}.{_BODY_PARTS[match[2]]}." + published[match.end() :]
    for pattern, ours in _RENAMES:
        match = re.match(pattern, published)
        if match:
            number = int(match[1]) - 1 if match.groups() else 0
            return ours.format(n=number) + published[match.end() :]
    raise KeyError(published)
