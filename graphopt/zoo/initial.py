"""Seeded weights: to train from, or under which a network behaves like a trained one.

For the latter convolutions get He weights, batch norms a spread of gamma and beta. Then one pass over
seeded images sets every running mean and variance near what the layer really sees, and scales the
layers that no batch norm follows, so that signals neither fade nor blow up however deep the
network, and still depend on the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from graphopt.zoo.retinanet import RARE, SharedHead
from graphopt.zoo.yolov3 import ANCHORS_PER_SCALE, Head

LARGEST_PROBE = 128  # pixels; at 64 the borders already differ too much from a full image
IMAGES = 4
NOISES = 2  # some callers feed standard normal noise, three times the spread of an image

LAYERS = (nn.Conv2d, nn.Linear)


def initialise(network: nn.Module, input_shape: tuple[int, int, int], seed: int) -> None:
    """Fill an uninitialised network on the CPU; torch's global random state is not touched."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, LAYERS):
            _he(module, generator)
        elif isinstance(module, nn.BatchNorm2d):
            _spread(module, generator)
    _calibrate(network, _probes(input_shape, generator), generator)
    for module in network.modules():
        if isinstance(module, SharedHead):
            module.predict.bias.data.add_(module.prior_logit)


def untrained(network: nn.Module, seed: int) -> None:
    """Fill an uninitialised network with weights to train from; torch's random state is not touched.

    He weights, gamma 1, beta and biases 0. What predicts scores starts low, at a probability of 1 %
    (Lin et al. 2017, section 4.1), or the many places where nothing is would drown all else.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, SharedHead):
            nn.init.normal_(module.predict.weight, std=0.01, generator=generator)
            module.predict.bias.data.fill_(module.prior_logit)
        elif isinstance(module, Head):
            nn.init.normal_(module[-1].weight, std=0.01, generator=generator)
            module[-1].bias.data.view(ANCHORS_PER_SCALE, -1)[:, 4:] = RARE


def _he(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.normal_(layer.bias, std=0.1, generator=generator)


def _spread(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
    nn.init.normal_(norm.bias, std=0.2, generator=generator)
    nn.init.zeros_(norm.running_mean)
    nn.init.ones_(norm.running_var)
    nn.init.zeros_(norm.num_batches_tracked)


def _probes(input_shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """From grain to smooth between 0 and 1 like scaled images, then normal noise."""
    channels, height, width = input_shape
    size = (min(height, LARGEST_PROBE), min(width, LARGEST_PROBE))
    coarse = torch.rand(IMAGES, channels, 8, 8, generator=generator)
    grain = torch.rand(IMAGES, channels, *size, generator=generator)
    noise = torch.randn(NOISES, channels, *size, generator=generator)
    share = torch.linspace(0, 1, IMAGES).reshape(-1, 1, 1, 1)
    images = share * functional.interpolate(coarse, size, mode="bilinear") + (1 - share) * grain
    return torch.cat((images, noise)).double()


def _calibrate(network: nn.Module, probes: Tensor, generator: torch.Generator) -> None:
    # float64, and rounded: float32 sums differ in their last bit with the number of threads
    network.double().eval()
    handles = [_watch(module, generator) for module in network.modules()]
    with torch.no_grad():
        network(probes)
    for handle in handles:
        if handle is not None:
            handle.remove()
    network.float()


def _watch(module: nn.Module, generator: torch.Generator) -> RemovableHandle | None:
    if isinstance(module, nn.BatchNorm2d):
        return module.register_forward_pre_hook(
            lambda norm, inputs: _set_statistics(norm, inputs[0], generator)
        )
    if isinstance(module, LAYERS) and module.bias is not None:
        return _scale_first_output(module)
    return None


def _set_statistics(norm: nn.BatchNorm2d, x: Tensor, generator: torch.Generator) -> None:
    """What the layer sees, each value off by a little, as after training.

    The second moment in place of the variance keeps an image brighter than the probes from
    being amplified at every layer.
    """
    mean, power = x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))
    shift = torch.empty(mean.shape).normal_(0, 0.1, generator=generator)
    stretch = torch.empty(mean.shape).uniform_(0.8, 1.25, generator=generator)
    floor = 0.1 * power.mean()  # a channel that is silent here may not be elsewhere
    norm.running_mean.copy_(_rounded(mean + shift * power.sqrt()))
    norm.running_var.copy_(_rounded((power + floor) * stretch))


def _scale_first_output(layer: nn.Conv2d | nn.Linear) -> RemovableHandle:
    """Bring the output to unit size; a head shared by several levels is scaled once."""

    def scale(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        handle.remove()
        bias = layer.bias.reshape(-1, *[1] * (output.ndim - 2))
        size = math.sqrt((output - bias).square().mean().item())
        layer.weight.mul_(_rounded(torch.tensor(1 / max(size, 1e-3))))
        return layer(*inputs)

    handle = layer.register_forward_hook(scale)
    return handle


def _rounded(values: Tensor) -> Tensor:
    return values.bfloat16().double()
