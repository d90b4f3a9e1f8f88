"""Base models: the bundled `mini`, a diffusers folder, or a hub id of an SD 1.x/2.x pipeline."""

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from dual_anodiff.errors import BaseModelError

MINI = Path(__file__).parent / "mini"
# The parts that hold weights, and what their files are called.
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def resolve_base(base: str) -> str:
    """Turn `mini` into its folder and check that a local folder is a pipeline; a hub id passes as it is.

    Raises: BaseModelError where a folder is meant but holds no pipeline, or another than SD 1.x/2.x, or lacks a file.
    """
    folder = MINI if base == "mini" else Path(base)
    if (folder / "model_index.json").is_file():
        _check_folder(folder)
        return str(folder)
    if base == "mini" or folder.exists() or base.startswith((".", "/", "~")) or base.count("/") != 1:
        raise BaseModelError(
            f"base: no model_index.json in {folder}; give 'mini', a diffusers StableDiffusion folder, or a hub id"
        )
    return base


def _check_folder(folder: Path) -> None:
    """Raises: BaseModelError, by the folder's small files and its listing alone, for what can't be loaded or adapted."""
    index = _json(folder / "model_index.json")
    name = str(index.get("_class_name", "StableDiffusionPipeline"))
    others = sorted({"text_encoder_2", "text_encoder_3", "transformer", "prior", "controlnet"} & set(index))
    if others or "XL" in name or not name.startswith(("StableDiffusion", "DualAnoDiff")):
        found = f"is a {name}" + (f" with {', '.join(others)}" if others else "")
        raise BaseModelError(
            f"base: {folder} {found}; give a pipeline of Stable Diffusion 1.x or 2.x, or 'mini'"
        )
    lacking = [text for part in WEIGHTS if (text := _lacks(folder / part)) is not None]
    if lacking:
        raise BaseModelError(f"base: {folder} lacks weights: {'; '.join(lacking)}")
    taken = _json(folder / "unet" / "config.json").get("in_channels", 4)
    latent = _json(folder / "vae" / "config.json").get("latent_channels", 4)
    if taken != latent:
        raise BaseModelError(
            f"base: {folder}: its unet takes {taken} channels, its vae gives {latent}, as of an inpainting pipeline; give "
            "the plain one of Stable Diffusion 1.x or 2.x"
        )


def _lacks(part: Path) -> str | None:
    """What a part of a pipeline lacks, None if nothing: safetensors under the plain name, in one file or several."""
    stem = WEIGHTS[part.name]
    if any((part / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json")):
        return None
    wanted = f"{part.name}/{stem}.safetensors"
    found = sorted(path.name for path in part.glob("*.safetensors"))
    if found:
        return f"{wanted}, there is {found[0]}; variants are not read, rename it"
    if any(part.glob("*.bin")):
        return f"{wanted}, there is .bin alone; save it with safe_serialization=True"
    return f"{wanted}; copy the whole pipeline"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BaseModelError(f"base: {path}: can't be read ({error}); copy it again") from error
    return found if isinstance(found, dict) else {}


def load_base(cls: type[Any], base: str, *, revision: str | None = None, dtype: Any = None) -> Any:
    """Load pipeline class `cls` from a base, safetensors only.

    Raises: BaseModelError if the weights can't be found, naming the option that takes a local folder.
    """
    # Imported here, since a run that finds everything done asks only for `fingerprint`: 10 s less.
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    # One bar for loading five small files is noise, and the wish for an AutoencoderKL is not ours.
    diffusers_log.disable_progress_bar()
    transformers_log.disable_progress_bar()
    logging.getLogger("diffusers.pipelines.pipeline_utils").setLevel(logging.ERROR)
    logging.getLogger("diffusers.configuration_utils").setLevel(logging.ERROR)
    try:
        return cls.from_pretrained(resolve_base(base), revision=revision, dtype=dtype, use_safetensors=True)
    except BaseModelError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"base: can't load '{base}' ({str(error).splitlines()[0]}); "
            "without a model hub, set finetune.base to a local diffusers folder or to 'mini'"
        ) from error


def fingerprint(base: str) -> str:
    """Hash of a local base's weights, so that an adapter knows what it was made for; a hub id stands for itself."""
    folder = Path(resolve_base(base))
    if not folder.is_dir():
        return f"hub:{base}"
    files = [file for part in sorted(WEIGHTS) for file in sorted((folder / part).glob("*.safetensors"))]
    return _fingerprint_of(tuple((file, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files))


# A run asks for each of its adapters, and SD v1.5 is 4 GB.
@lru_cache(maxsize=8)
def _fingerprint_of(weights: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, *_ in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
