"""The denoiser: a diffusers U-Net into which SFAdapter's features are injected.

Each feature is added to the output of the first transformer of its level, once on the way down (before the skip is
stored, so that it reaches the decoder too) and once on the way up. The paper's Eq. 8 also concatenates the enlarged
reference to the noisy latent and Eq. 11 sums a scale embedding into the timestep's; the released code does neither,
and neither does this.

A caption comes in beside the scale text: cross-attention looks at each of its segments by itself, and what it sees is
summed with weights that change over the denoising (see `model.text.segments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from tilecascade.model.sgdm.config import UNetConfig
from tilecascade.model.sgdm.layers import make_local

INJECTED_LEVELS = 3

_weights: ContextVar[Tensor | None] = ContextVar("weights", default=None)
"""How much each of several texts counts in this thread's forward pass, N x T; None if there is one text only."""

_features: ContextVar[Sequence[Tensor] | None] = ContextVar("features", default=None)
"""What is injected in this thread's forward pass: several may generate with one network."""


def unet_arguments(config: UNetConfig, latent_channels: int) -> dict[str, Any]:
    """Keyword arguments of `UNet2DConditionModel` for this configuration."""
    finer = config.finer_levels
    coarser = len(config.widths) - INJECTED_LEVELS - finer
    return {
        "sample_size": 32,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": config.widths,
        "layers_per_block": config.layers_per_block,
        "down_block_types": ("DownBlock2D",) * finer
        + ("CrossAttnDownBlock2D",) * INJECTED_LEVELS
        + ("DownBlock2D",) * coarser,
        "up_block_types": ("UpBlock2D",) * coarser + ("CrossAttnUpBlock2D",) * INJECTED_LEVELS + ("UpBlock2D",) * finer,
        # diffusers' name is historical: for this class the value is the number of heads of each level
        "attention_head_dim": [width // config.head_dim for width in config.widths],
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": True,
        "norm_num_groups": 8 if config.local else 32,
    }


class SegmentedAttention:
    """Cross-attention over several texts of equal length, one after the other in the context: each is looked at by
    itself, and the results are summed with their weights."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __call__(self, attention: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **more: Any) -> Tensor:
        """What diffusers calls."""
        weights = _weights.get()
        if weights is None or encoder_hidden_states is None:
            return self._plain(attention, x, encoder_hidden_states=encoder_hidden_states, **more)
        texts = encoder_hidden_states.chunk(weights.shape[1], dim=1)
        seen = [self._plain(attention, x, encoder_hidden_states=text, **more) for text in texts]
        return torch.einsum("nt,tnlc->nlc", weights.to(seen[0].dtype), torch.stack(seen))


class NoAttention(nn.Module):
    """Stands where a transformer block has self-attention between positions; adds nothing."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(x)


def remove_self_attention(unet: UNet2DConditionModel) -> None:
    """Leave each transformer block its text cross-attention and feed-forward only, in place."""
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.norm1 = nn.Identity()
            module.attn1 = NoAttention()


class InjectedUNet(nn.Module):
    """`UNet2DConditionModel` plus feature injection at three levels."""

    def __init__(self, config: UNetConfig, latent_channels: int) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet_arguments(config, latent_channels))
        if config.local:
            make_local(self.unet)
            remove_self_attention(self.unet)
        for module in self.unet.modules():
            if isinstance(module, BasicTransformerBlock) and module.attn2 is not None:
                module.attn2.set_processor(SegmentedAttention(module.attn2.processor))
        for level in range(INJECTED_LEVELS):
            place = config.finer_levels + level
            for block in (self.unet.down_blocks[place], self.unet.up_blocks[-1 - place]):
                block.attentions[0].register_forward_hook(self._adder(level))

    def _adder(self, level: int) -> Any:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            features = _features.get()
            return output if features is None else (output[0] + features[level], *output[1:])

        return add

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Tensor,
        features: Sequence[Tensor],
        weights: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        latent: N x C x h x w; timestep: N integers; context: N x L x context_dim;
        features: three maps of N x widths[i] x h/2^i x w/2^i. weights: N x T, if the context is T texts one after the
        other. Returns N x C x h x w.
        """
        token, other = _features.set(features), _weights.set(weights)
        try:
            return self.unet(latent, timestep, encoder_hidden_states=context, return_dict=False)[0]
        finally:
            _features.reset(token)
            _weights.reset(other)
