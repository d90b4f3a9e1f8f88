"""Options are bounded and typos refused; importing the options stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import downstream
from downstream.config import ClassifyConfig, DetectConfig, LocalizeConfig


def test_weights_are_a_word_or_a_path() -> None:
    assert LocalizeConfig.model_validate({"encoder_weights": "random"}).encoder_weights == "random"
    assert LocalizeConfig.model_validate({"encoder_weights": "a.safetensors"}).encoder_weights == Path(
        "a.safetensors"
    )
    config = LocalizeConfig(encoder_weights=Path("w"), average_weights=False)
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


@pytest.mark.parametrize(
    ("config", "option"),
    [(LocalizeConfig, "encoder"), (ClassifyConfig, "encoder"), (DetectConfig, "backbone")],
)
def test_the_encoder_that_is_gone_is_refused_with_the_name_of_its_successor(
    config: type[BaseModel], option: str
) -> None:
    assert config.model_validate({}).model_dump()[option] == "imagenet"
    with pytest.raises(ValidationError, match=f"{option}\n.*write imagenet"):
        config.model_validate({option: "bundled"})


def test_heavy_libraries_are_imported_by_their_users_only() -> None:
    """smp, torchmetrics and anomalib cost 3 to 10 s each on a small machine, and options need not even torch."""
    heavy = {"anomalib", "lightning", "torchmetrics", "timm", "segmentation_models_pytorch"}
    strangers = {"prefect", "tasks", "flows", "dual_anodiff"}
    for path in sorted(Path(downstream.__path__[0]).glob("*.py")):
        top = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        if path.name == "images.py":  # the one reader, which both libraries share
            names -= {"dual_anodiff", "dual_anodiff.errors"}
        assert not {name.split(".")[0] for name in names} & (heavy | strangers), path.name
    code = "import sys, downstream.config, downstream.errors, downstream.training_sets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
