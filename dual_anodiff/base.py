"""Base models: the bundled `mini`, a diffusers folder, or a hub id of an SD 1.x/2.x pipeline."""

import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from dual_anodiff.errors import BaseModelError

MINI = Path(__file__).parent / "mini"


def resolve_base(base: str) -> str:
    """Turn `mini` into its folder and check that a local folder is a pipeline; a hub id passes as it is.

    Raises: BaseModelError where a folder is meant but holds no pipeline.
    """
    folder = MINI if base == "mini" else Path(base)
    if (folder / "model_index.json").is_file():
        return str(folder)
    if base == "mini" or folder.exists() or base.startswith((".", "/", "~")) or base.count("/") != 1:
        raise BaseModelError(
            f"base: no model_index.json in {folder}; give 'mini', a diffusers StableDiffusion folder, or a hub id"
        )
    return base


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
    parts = ("text_encoder", "unet", "vae")
    files = [file for part in parts for file in sorted((folder / part).glob("*.safetensors"))]
    return _fingerprint_of(tuple((file, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files))


# A run asks for each of its adapters, and SD v1.5 is 4 GB.
@lru_cache(maxsize=8)
def _fingerprint_of(weights: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, *_ in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
