"""Pairs that start from pictures instead of noise: noised by a share of the schedule, then denoised from there.

The start's clean latents are noised to the step where the last `strength` of the scheduler's steps begin, and only those
steps are run (SDEdit, arXiv 2108.01073; counted as diffusers' image-to-image pipelines do). A strength drawn anew for each
pair gives pairs near to their start and pairs further from it (DA-Fusion, arXiv 2302.07944). Outside of a region both
branches are put back before each step: the image branch to a normal picture, the anomaly branch to grey, each as noisy as
at that step (blended latent diffusion, arXiv 2206.02779). So what is new lies in the region, and the rest is the normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dual_anodiff.crops.native import CELL_PX
from dual_anodiff.errors import InputError
from dual_anodiff.objective import encode
from dual_anodiff.randomness import Stream, seeded


@dataclass(frozen=True)
class Starts:
    """What pairs start from, one row a pair, and what they are held to outside of their regions.

    Shape: pictures, parts, normals (n, 3, s, s) in [-1, 1]; regions (n, s, s) bool. A part is the picture inside the
    defect's mask and mid-grey, 0, outside, as in training. Units: strength is a share of the steps, in (0, 1]: one for
    all, or a range that each pair's own seed draws from. normals and regions are given both or not at all; without
    them nothing is held.
    """

    pictures: Tensor
    parts: Tensor
    strength: float | tuple[float, float]
    normals: Tensor | None = None
    regions: Tensor | None = None


def check_starts(starts: Starts, num_pairs: int, size_px: int) -> None:
    """Whether these starts can be used. Raises: InputError that names the field."""
    low, high = _range(starts.strength)
    if not 0 < low <= high <= 1:
        raise InputError(
            f"starts.strength: {starts.strength}; give a share of the steps above 0 and up to 1, or a range of such shares"
        )
    if (starts.normals is None) != (starts.regions is None):
        raise InputError(
            "starts.normals, starts.regions: one was given without the other; give both to hold pairs to their normals "
            "outside of the regions, or none"
        )
    square = (size_px, size_px)
    expected = {"pictures": (3, *square), "parts": (3, *square), "normals": (3, *square), "regions": square}
    for name, shape in expected.items():
        given: Tensor | None = getattr(starts, name)
        if given is not None and tuple(given.shape) != (num_pairs, *shape):
            raise InputError(
                f"starts.{name}: has shape {tuple(given.shape)}; {num_pairs} pairs of {size_px} px need "
                f"{(num_pairs, *shape)}"
            )
    if starts.regions is None:
        return
    if starts.regions.dtype != torch.bool:
        raise InputError(f"starts.regions: is {starts.regions.dtype}; give a mask of type bool")
    if not starts.regions.flatten(1).any(1).all():
        raise InputError(
            "starts.regions: one marks nothing, so that its pair would be the normal; mark its defect"
        )


def draw_strengths(strength: float | tuple[float, float], seeds: Sequence[int]) -> list[float]:
    """Each pair's strength, uniform over the range, from its own seed alone."""
    low, high = _range(strength)
    return [low + (high - low) * float(torch.rand((), generator=seeded(s, Stream.STRENGTH))) for s in seeds]


def steps_of(strength: float, num_inference_steps: int) -> int:
    """How many of the last steps a strength runs: whole ones, rounded down as in diffusers, but at least one."""
    return max(1, int(num_inference_steps * strength + 1e-6))  # .29 of 100 is 28.999…


def widened(masks: Tensor, margin_cells: int) -> Tensor:
    """Masks with a margin of so many latent cells, in whole cells: what they touch, and those around.

    Shape: (n, s, s) bool → the same.
    """
    cells = _cells(masks, masks.shape[-1] // CELL_PX).float()
    wide = F.max_pool2d(cells, 2 * margin_cells + 1, 1, margin_cells)
    return F.interpolate(wide, masks.shape[-2:], mode="nearest")[:, 0] > 0


class Beginning:
    """Starts in latents, for the steps of a scheduler. Shape: all (b, f=2, c, side, side), inside (b, 1, 1, side, side)."""

    def __init__(self, starts: Starts, vae: Any, seeds: Sequence[int], num_inference_steps: int) -> None:
        strengths = draw_strengths(starts.strength, seeds)
        self.steps = [steps_of(strength, num_inference_steps) for strength in strengths]
        self.clean = _encode(vae, starts.pictures, starts.parts)
        self.outside: Tensor | None = None
        self.inside: Tensor | None = None
        if starts.normals is not None and starts.regions is not None:
            self.outside = _encode(vae, starts.normals, torch.zeros_like(starts.normals))
            self.inside = _cells(starts.regions, self.clean.shape[-1])[:, None].to(self.clean.device)

    def groups(self) -> list[list[int]]:
        """Numbers of the pairs that run as many steps: those can be denoised in one batch."""
        return [[i for i, n in enumerate(self.steps) if n == steps] for steps in sorted(set(self.steps))]

    def of(self, which: list[int]) -> Self:
        """For these of the pairs, which all run as many steps."""
        some = object.__new__(type(self))
        some.steps = [self.steps[i] for i in which]
        some.clean = self.clean[which]
        some.outside = None if self.outside is None else self.outside[which]
        some.inside = None if self.inside is None else self.inside[which]
        return some

    def begin(self, noise: Tensor, scheduler: Any) -> tuple[Tensor, Tensor]:
        """Latents at the first of their steps, and the timesteps to run; `set_timesteps` has been called before.

        Shape: noise (b, f=2, c, side, side) → ((b f), c, side, side), (steps,).
        """
        first = len(scheduler.timesteps) - self.steps[0]
        # Solvers of several steps count by an index, which would begin at the step of pure noise.
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        return _noised(self.clean, noise, scheduler, timesteps[0]), timesteps

    def hold(self, latents: Tensor, noise: Tensor, scheduler: Any, t: Tensor | None) -> Tensor:
        """Put both branches back outside of the regions, as noisy as at t; None: clean.

        Shape: latents ((b f), c, side, side), as the scheduler steps them; noise as in `begin`.
        """
        if self.outside is None or self.inside is None:
            return latents
        # The pair's own first noise at each step, so that the normal comes back along one path.
        kept = (
            self.outside.flatten(0, 1) if t is None else _noised(self.outside, noise, scheduler, t)
        ).unflatten(0, (len(noise), 2))
        return torch.where(self.inside, latents.unflatten(0, (len(noise), 2)), kept).flatten(0, 1)


def _range(strength: float | tuple[float, float]) -> tuple[float, float]:
    return strength if isinstance(strength, tuple) else (strength, strength)


def _cells(regions: Tensor, side: int) -> Tensor:
    """Latent cells that a region touches. Shape: (n, s, s) bool → (n, 1, side, side) bool."""
    return F.adaptive_max_pool2d(regions[:, None].float(), side) > 0


def _encode(vae: Any, pictures: Tensor, parts: Tensor) -> Tensor:
    """Clean latents by the VAE's mean. Shape: (n, 3, s, s) twice → (n, f=2, c, s/8, s/8) float32."""
    both = torch.stack([pictures, parts], 1).flatten(0, 1).to(vae.device, vae.dtype)
    return encode(vae, both)[0].float().unflatten(0, (-1, 2))


def _noised(clean: Tensor, noise: Tensor, scheduler: Any, t: Tensor) -> Tensor:
    """Shape: (b, f=2, c, side, side) twice → ((b f), c, side, side), in the scale that the scheduler steps."""
    flat = clean.flatten(0, 1)
    noisy: Tensor = scheduler.add_noise(flat, noise.flatten(0, 1).to(flat.device), t.expand(len(flat)))
    return noisy
