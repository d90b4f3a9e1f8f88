"""Sampling of pairs: anomaly image, anomaly part, mask."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from dual_anodiff.adapter import attach_adapter, load_weights
from dual_anodiff.adapter_card import AdapterCard, adapter_config, read_card
from dual_anodiff.attention import BackgroundMemory
from dual_anodiff.background import check_backgrounds, encode_backgrounds, recall
from dual_anodiff.base import load_base
from dual_anodiff.errors import AdapterError, InputError
from dual_anodiff.images import Background, mask_to_pil, to_pil
from dual_anodiff.masks import mask_from_part
from dual_anodiff.normals import fuse_normals
from dual_anodiff.objective import decode, encode_prompts
from dual_anodiff.randomness import Stream, seeded
from dual_anodiff.refine import refine
from dual_anodiff.regions import PREVIEW_STEPS, RegionGuide
from dual_anodiff.start import Beginning, Starts, check_starts


@dataclass
class DualAnoDiffOutput(BaseOutput):
    """Lists of the same length; pair i is images[i], anomalies[i], masks[i] (8-bit grey, 0 or 255)."""

    images: list[Image.Image]
    anomalies: list[Image.Image]
    masks: list[Image.Image]


class DualAnoDiffPipeline(DiffusionPipeline):
    """Draws image–part–mask pairs with an adapter on any SD 1.x/2.x base.

    >>> pipe = DualAnoDiffPipeline.from_pretrained("dual_anodiff/mini").load_adapter("adapter/")
    >>> pairs = pipe(num_pairs=8)
    """

    card: AdapterCard | None = None

    def __init__(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
        )

    @classmethod
    def from_adapter(
        cls,
        folder: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        step: int | None = None,
        strength: float = 1.0,
    ) -> Self:
        """The adapter's own base, with the adapter on it. Raises: AdapterError, BaseModelError."""
        card = read_card(Path(folder))
        # Normals are fused in float32: what they add is smaller than bf16's rounding of what is there.
        first = dtype if card.normals is None else torch.float32
        pipe: Self = load_base(cls, card.base, revision=card.revision, dtype=first)
        pipe.load_adapter(folder, step=step, strength=strength)
        for module in (pipe.vae, pipe.unet, pipe.text_encoder):
            torch.nn.Module.to(module, dtype=dtype)
        return pipe

    def load_adapter(self, folder: Path | str, *, step: int | None = None, strength: float = 1.0) -> Self:
        """Put a fine-tuned adapter on this base, that of a kept step if one is given, its LoRA at a share of 0 to 2.

        Raises: AdapterError if one is on already, or it was made for another base.
        """
        if self.card is not None:
            raise AdapterError("this pipeline has an adapter already; make a new one with from_pretrained")
        card = read_card(Path(folder))
        if card.normals is not None:
            fuse_normals(self.unet, Path(folder), expected=card.normals)
        attach_adapter(self.unet, self.text_encoder, adapter_config(card))
        load_weights(Path(folder), self.unet, self.text_encoder, step=step, strength=strength)
        # Module.to, since diffusers' own warns of a cast that an adapter made in float32 cannot do without.
        torch.nn.Module.to(self.unet, self.device, self.vae.dtype).requires_grad_(False)
        self.text_encoder.to(self.device, self.vae.dtype).requires_grad_(False)
        self.card = card
        return self

    @torch.no_grad()
    def __call__(
        self,
        num_pairs: int = 1,  # 1 and up, in one batch
        *,
        seeds: Sequence[int] | None = None,  # one a pair; None: 0, 1, 2, …
        backgrounds: Sequence[Background] | Tensor | None = None,  # one a pair, or None as the adapter asks
        num_inference_steps: int = 25,
        guidance_scale: float = 2.5,  # 1: none
        image_prompt: str | None = None,  # None: the adapter's own
        anomaly_prompt: str | None = None,  # None: the adapter's own
        mask_threshold: float | None = None,  # distance from the background, 0 to 1; None: the adapter's own
        min_area_px: int = 4,  # specks of a mask below it are removed, holes as small filled; 1: none
        refine_masks: bool = True,  # by the image's colours
        size_px: int | None = None,  # side, a multiple of 8; None: that of training
        background: Literal[
            "auto", "exact", "fast"
        ] = "auto",  # how its passes are made; auto: as in training
        unguided_background: Literal["same", "grey"] = "same",  # of the half without prompt
        regions: Tensor | None = None,  # (num_pairs, h, w) bool: where each defect is to be; None: anywhere
        starts: Starts | None = None,  # pictures to start from; None: noise. Not beside regions
    ) -> DualAnoDiffOutput:
        """Draw `num_pairs` pairs in one batch; pair i depends on seeds[i], backgrounds[i] and its start alone.

        An adapter trained with a background needs one a pair: a picture and its object's mask, or tensors as
        `load_background` gives them. `regions` are of any size, as `draw_regions` gives them; short previews are drawn for
        them, until one has its defect there. `starts` are pictures with their parts, and normals that stay outside.
        Raises: InputError if seeds, backgrounds or starts and num_pairs disagree, or backgrounds are given to an adapter
        without any; AdapterError without an adapter, or without the backgrounds that it needs.
        """
        seeds = list(range(num_pairs)) if seeds is None else list(seeds)
        if len(seeds) != num_pairs:
            raise InputError(
                f"seeds: {len(seeds)} were given for num_pairs={num_pairs}; give one for each pair"
            )
        parts = self.sample(
            seeds, backgrounds=backgrounds, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_prompt=image_prompt, anomaly_prompt=anomaly_prompt, size_px=size_px,
            background=background, unguided_background=unguided_background, regions=regions, starts=starts,
            mask_threshold=mask_threshold,
        )  # fmt: skip
        images, anomalies = parts[:, 0], parts[:, 1]
        threshold = self._card().mask_threshold if mask_threshold is None else mask_threshold
        masks = mask_from_part(anomalies, threshold, min_area_px)
        if refine_masks:
            masks = refine(images, anomalies, masks, threshold)
        return DualAnoDiffOutput(
            images=[to_pil(i) for i in images],
            anomalies=[to_pil(a) for a in anomalies],
            masks=[mask_to_pil(m) for m in masks],
        )

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        backgrounds: Sequence[Background] | Tensor | None = None,
        image_prompt: str | None = None,
        anomaly_prompt: str | None = None,
        size_px: int | None = None,
        background: Literal["auto", "exact", "fast"] = "auto",
        unguided_background: Literal["same", "grey"] = "same",
        regions: Tensor | None = None,
        starts: Starts | None = None,
        mask_threshold: float | None = None,
    ) -> Tensor:
        """Both branches' pictures; arguments as in a call, mask_threshold for the previews of regions.

        Shape: (len(seeds), f=2, 3, h, w) float32 in [-1, 1].
        """
        card, dtype = self._card(), self.unet.dtype
        check_backgrounds(card, len(seeds), 0 if backgrounds is None else len(backgrounds))
        side, channels = (size_px or card.size_px) // 8, self.unet.config.in_channels
        prompts = [image_prompt or card.image_prompt, anomaly_prompt or card.anomaly_prompt]
        text = encode_prompts(self.tokenizer, self.text_encoder, [*prompts, "", ""]).to(dtype)
        clean = (
            encode_backgrounds(self.vae, backgrounds, side * 8)
            if backgrounds is not None and len(backgrounds)
            else None
        )
        if regions is not None and starts is not None:
            raise InputError(
                "regions, starts: were both given; a start's place is where its region is, so leave out regions"
            )
        region_guide = (
            None if regions is None else RegionGuide(card, self.vae, regions, seeds, side, mask_threshold)
        )
        begun = None
        if starts is not None:
            check_starts(starts, len(seeds), side * 8)
            begun = Beginning(starts, self.vae, seeds, num_inference_steps)

        def draw(own: Sequence[torch.Generator]) -> Tensor:
            return torch.stack([torch.randn(2, channels, side, side, generator=g) for g in own])

        def denoise(which: list[int], noise: Tensor, steps: int, own: Sequence[torch.Generator]) -> Tensor:
            asked, empty = text[:2].repeat(len(which), 1, 1), text[2:].repeat(len(which), 1, 1)
            context = torch.cat([empty, asked]) if guidance_scale > 1 else asked
            # A stream of its own for the background: the pair's noise is that of a pair without one.
            others = [seeded(seeds[i], Stream.BACKGROUND_NOISE) for i in which]
            recalled = (
                None
                if clean is None
                else self._recall(clean[which], context[::2], others, background, unguided_background)
            )
            some = None if region_guide is None else region_guide.of(which)
            start = None if begun is None else begun.of(which)
            latents = self._denoise(noise, context, guidance_scale, steps, recalled, own, some, start)
            return latents.to(self.vae.dtype).unflatten(0, (len(which), 2))

        def preview(which: list[int], noise: Tensor) -> Tensor:
            own = [seeded(seeds[i], Stream.PREVIEW) for i in which]
            return decode(self.vae, denoise(which, noise, PREVIEW_STEPS, own)[:, 1]).float()

        generators = [seeded(seed) for seed in seeds]
        noise = draw(generators)
        if region_guide is not None:
            again = [seeded(seed, Stream.OTHER_NOISE) for seed in seeds]
            noise = region_guide.settle(noise, lambda which: draw([again[i] for i in which]), preview)
        groups = [list(range(len(seeds)))] if begun is None else begun.groups()
        latents = torch.empty_like(noise, device=self.device, dtype=self.vae.dtype)
        for which in groups:
            own = [generators[i] for i in which]
            latents[which] = denoise(which, noise[which], num_inference_steps, own)
        return decode(self.vae, latents.flatten(0, 1)).float().unflatten(0, (len(seeds), 2))

    def _denoise(
        self,
        noise: Tensor,
        context: Tensor,
        guidance_scale: float,
        num_inference_steps: int,
        recalled: Callable[[Tensor], BackgroundMemory] | None,
        generators: Sequence[torch.Generator],
        region_guide: RegionGuide | None,
        start: Beginning | None,
    ) -> Tensor:
        """Clean latents. Shape: noise (b, f=2, c, h, w), context ((cfg b f), tokens, d) → ((b f), c, h, w)."""
        dtype, guided = self.unet.dtype, guidance_scale > 1
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        if start is None:
            timesteps = self.scheduler.timesteps
            latents = noise.flatten(0, 1).to(self.device) * self.scheduler.init_noise_sigma
        else:
            latents, timesteps = start.begin(noise, self.scheduler)

        def hold(latents: Tensor, t: Tensor | None) -> Tensor:
            if start is not None:
                return start.hold(latents, noise, self.scheduler, t)
            return (
                latents
                if region_guide is None
                else region_guide.hold(latents, noise[:, 1], self.scheduler, t)
            )

        # Samplers that add noise draw it from the pair's own generator, branch by branch.
        extra = (
            {"generator": [g for g in generators for _ in range(2)]}
            if _takes_generator(self.scheduler)
            else {}
        )
        for t in self.progress_bar(timesteps):
            latents = hold(latents, t)
            scaled = self.scheduler.scale_model_input(latents, t).to(dtype)
            both = torch.cat([scaled, scaled]) if guided else scaled  # ((cfg b f), c, h, w)
            seen = {"background": recalled(t)} if recalled else None
            predicted = self.unet(both, t, encoder_hidden_states=context, cross_attention_kwargs=seen).sample
            predicted = predicted.float()
            if guided:
                without, with_prompt = predicted.chunk(2)
                predicted = without + guidance_scale * (with_prompt - without)
            latents = self.scheduler.step(predicted, t, latents, **extra).prev_sample
        return hold(latents, None)

    def _recall(
        self,
        clean: Tensor,
        text: Tensor,
        generators: Sequence[torch.Generator],
        form: Literal["auto", "exact", "fast"],
        unguided: Literal["same", "grey"],
    ) -> Callable[[Tensor], BackgroundMemory]:
        """What the backgrounds add at each timestep. Shape: clean (b, c, h, w), text ((cfg b), tokens, d)."""
        if len(text) > len(clean):
            # With the same background in both halves, guidance is towards the prompt alone.
            size_px = 8 * clean.shape[-1]
            grey = torch.zeros(1, 3, size_px, size_px)
            without = clean if unguided == "same" else encode_backgrounds(self.vae, grey, size_px)
            clean = torch.cat([without.expand_as(clean), clean])
        trained: Literal["exact", "fast"] = (
            "exact" if adapter_config(self._card()).background_from == "noised" else "fast"
        )
        if form not in ("auto", trained):
            warnings.warn(
                f"background: '{form}', but the adapter was trained for '{trained}' (adapter.background_from); "
                "it makes less of backgrounds of another form",
                stacklevel=3,
            )
        return recall(self.unet, self.scheduler, clean, text, generators, trained if form == "auto" else form)

    def _card(self) -> AdapterCard:
        if self.card is None:
            raise AdapterError("no adapter is loaded; call load_adapter(folder) first")
        return self.card


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames
