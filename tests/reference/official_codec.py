"""A DAC of the official size whose weights stand in for the release, which needs a network.

Random weights, each layer scaled so that real music keeps unit variance on its way, and codebooks
drawn from the residuals of that music: codes are spread as a trained codec's are. It costs what the
official weights cost, and tells nothing of how they sound.
"""

import torch
from torch import Tensor, nn

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.dac import fold_weight_norm

OFFICIAL = DacArchitecture(
    encoder_dim=64,
    encoder_rates=(2, 4, 8, 8),
    latent_dim=1024,
    decoder_dim=1536,
    decoder_rates=(8, 8, 4, 2),
    n_codebooks=9,
    codebook_size=1024,
    codebook_dim=8,
    sample_rate=44_100,
)


@torch.no_grad()
def build_spread(architecture: DacArchitecture, audio: Tensor) -> nn.Module:
    """Build a model of this shape, with weights suited to `audio` of shape 1 x N."""
    torch.manual_seed(0)
    model = fold_weight_norm(build_model(architecture)).eval()
    hop = architecture.hop
    latents = _scale(model.encoder, audio[None, :, : audio.shape[1] // hop * hop])
    residual = latents
    for stage in model.quantizer.quantizers:
        projected = _scale(stage.in_proj, residual)[0].T
        drawn = torch.randint(0, projected.shape[0], (architecture.codebook_size,))
        noise = 0.1 * torch.randn(architecture.codebook_size, architecture.codebook_dim)
        stage.codebook.weight.copy_(projected[drawn] + noise)
        nn.init.normal_(stage.out_proj.weight, std=0.3 * architecture.codebook_dim**-0.5)
        residual = residual - stage(residual)[0]
    _scale(model.decoder, model.quantizer(latents)[0])
    return model


def _scale(network: nn.Module, x: Tensor) -> Tensor:
    """Scale every convolution to unit variance, in the order in which `x` passes them."""

    def rescale(layer: nn.Conv1d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        bias = layer.bias[:, None]
        scale, plain = (output - bias).std(), output - bias
        layer.weight.div_(scale)
        nn.init.normal_(bias, std=0.1)  # as in a trained model, silence has a code of its own
        return plain / scale + bias

    layers = [m for m in network.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    result = network(x)
    for hook in hooks:
        hook.remove()
    return result
