"""The image branch as a LoRA for plain Stable Diffusion pipelines."""

from pathlib import Path

from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from dual_anodiff.attention import BRANCHES
from dual_anodiff.normals import read_normals, with_normals
from dual_anodiff.pipeline import DualAnoDiffPipeline


def export_lora(folder: Path, out: Path) -> None:
    """Write the image branch as a LoRA that plain `StableDiffusionPipeline.load_lora_weights` reads.

    The normals' LoRA goes with it. What is left out: SAIM, the anomaly branch and the background module, which plain
    pipelines have no place for; so pictures resemble branch 0's, but come without a mask and with no given background.
    """
    pipe = DualAnoDiffPipeline.from_adapter(folder)
    unet_layers = get_peft_model_state_dict(pipe.unet, adapter_name=BRANCHES[0])
    if pipe._card().normals is not None:
        unet_layers = with_normals(unet_layers, read_normals(folder)[0])
    has_text = any(isinstance(m, LoraLayer) for m in pipe.text_encoder.modules())
    text_layers = get_peft_model_state_dict(pipe.text_encoder, adapter_name="text") if has_text else None
    StableDiffusionPipeline.save_lora_weights(
        out,
        # Not by diffusers' conversion: it renames attention layers alone, and its reader goes by the first name.
        unet_lora_layers={
            name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): weight
            for name, weight in unet_layers.items()
        },
        text_encoder_lora_layers=convert_state_dict_to_diffusers(text_layers) if text_layers else None,
    )
