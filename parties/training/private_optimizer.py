"""Opacus' optimizer of DP-SGD, with gradients summed up by patient, and noise from the operating system's entropy.

This module loads Opacus, which takes seconds and is an optional extra.
"""

from __future__ import annotations

import math

import torch
from opacus.optimizers import DPOptimizer

from crypto.arrays import Int64Array
from parties.training.private_noise import PrivateRandom, round_to_grid


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus is not typed for mypy here
    """An optimizer that steps on the noised sum of clipped gradients.

    The gradients of a unit (a patient, or an image) are summed up over its images, and the sum is clipped over all
    trained weights together, a private stem included. A unit may go over several passes of one step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        divisor: float,
        random: PrivateRandom,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=divisor,
        )
        self.random = random
        self._units = torch.zeros(0, dtype=torch.int64)
        self._is_last_open = False
        #: Per weight, the sum so far over the images of a unit that goes on in the next pass.
        self._open: list[torch.Tensor] | None = None

    def set_units(self, units: Int64Array, is_last_open: bool) -> None:
        """Say which unit each image of the coming pass belongs to.

        Args:
            units: int64 [images]; images of one unit are neighbours.
            is_last_open: whether the last unit has further images in the next pass.
        """
        self._units, self._is_last_open = torch.from_numpy(units), is_last_open

    def take_no_images(self) -> None:
        """Stand for a pass without images: the step is of noise alone."""
        for weight in self.params:
            weight.grad_sample = weight.new_zeros((0, *weight.shape))
        self.set_units(self._units[:0].numpy(), is_last_open=False)

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Sum the gradients of the pass up by unit, clip each sum, and add it to the sum of the step."""
        sums = self._sum_by_unit()
        squares = [
            (g.reshape(len(g), math.prod(g.shape[1:])) ** 2).sum(1, dtype=torch.float64) for g in sums
        ]
        norms = torch.stack(squares).sum(0).sqrt()
        # A gradient that is not a number would show through any noise. Its unit does not count.
        is_finite = torch.isfinite(norms)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for weight, g in zip(self.params, sums, strict=True):
            clipped = torch.einsum("i,i...", factors[is_finite].to(g.dtype), g[is_finite])
            earlier = weight.summed_grad
            weight.summed_grad = clipped if earlier is None else earlier + clipped

    def _sum_by_unit(self) -> list[torch.Tensor]:
        """Return, for each weight, the gradients of the units that end in this pass, float32 [units, *shape]."""
        units, index = torch.unique_consecutive(self._units, return_inverse=True)
        sums = []
        for weight in self.params:
            g = self._get_flat_grad_sample(weight).to(weight.dtype)
            if len(units) < len(g):
                index = index.to(g.device)
                g = g.new_zeros((len(units), *g.shape[1:])).index_add_(0, index, g)
            sums.append(g)
        if self._open is not None:
            for g, part in zip(sums, self._open, strict=True):
                g[0] += part
            self._open = None
        if self._is_last_open:
            self._open = [g[-1].clone() for g in sums]
            sums = [g[:-1] for g in sums]
        return sums

    @torch.no_grad()
    def add_noise(self) -> None:
        """Add Gaussian noise of deviation noise_multiplier · max_grad_norm to the sum, and round it to a grid."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for weight in self.params:
            total = weight.summed_grad.double().cpu().numpy()
            noised = total + deviation * self.random.normal(total.size).reshape(total.shape)
            rounded = torch.from_numpy(round_to_grid(noised, deviation))
            weight.grad = rounded.to(weight.device, weight.dtype)
