"""Options are bounded and typos refused; importing the options stays cheap."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from downstream.config import LocalizeConfig


def test_weights_are_a_word_or_a_path() -> None:
    assert LocalizeConfig.model_validate({"encoder_weights": "random"}).encoder_weights == "random"
    assert LocalizeConfig.model_validate({"encoder_weights": "a.safetensors"}).encoder_weights == Path(
        "a.safetensors"
    )
    config = LocalizeConfig(encoder_weights=Path("w"), ema_decay=0.99)
    assert LocalizeConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_px": 100},
        {"trian_steps": 3},
        {"decoder_channels": [8, 8]},
        {"focal_weight": 0, "dice_weight": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LocalizeConfig.model_validate(wrong)


def test_no_module_imports_more_than_it_needs() -> None:
    """smp, torchmetrics and anomalib cost 3 to 10 s each on a small machine: only their users may load them."""
    code = (
        "import sys, downstream.config, downstream.errors; assert 'torch' not in sys.modules\n"
        "import downstream.training_sets; assert 'torch' not in sys.modules\n"
        "import downstream.localization, downstream.lift\n"
        "heavy = {'anomalib', 'lightning', 'torchmetrics', 'timm', 'segmentation_models_pytorch', 'prefect', 'tasks'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
