"""Plans of guided pairs: from seeds alone, within the normals, borders kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_anodiff.errors import InputError
from dual_anodiff.images import Shot
from dual_anodiff.native import Box
from dual_anodiff.wishes import plan_pairs, read_defect


def test_plans_come_from_seed_and_number_and_stay_within_the_normals(
    shots: list[Shot], normals: list[Path]
) -> None:
    planned = plan_pairs(shots, normals, 30, 7, side_px=None, horizontal=True, max_turn_deg=20)
    assert plan_pairs(shots, normals, 3, 7, side_px=None, horizontal=True, max_turn_deg=20) == planned[:3]
    assert len({wish.seed for wish in planned}) == 30
    assert {wish.shot for wish in planned} == set(shots)
    assert {wish.change.flip_x for wish in planned} == {True, False}
    assert not any(wish.change.flip_y for wish in planned)
    for wish in planned:
        width, height = Image.open(wish.normal).size
        assert 0 <= wish.top <= height - 10
        assert 0 <= wish.left <= width - 10


def test_a_defect_at_a_border_stays_at_that_border_mirrored_with_it_and_unturned(
    tmp_path: Path, normals: list[Path]
) -> None:
    mask = np.zeros((50, 60), dtype=np.uint8)
    mask[20:30, :8] = 255
    Image.fromarray(np.repeat(mask[..., None] // 2 + 60, 3, axis=2)).save(tmp_path / "break.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shot = Shot(tmp_path / "break.png", tmp_path / "mask.png")
    planned = plan_pairs([shot], normals, 20, 0, side_px=None, horizontal=True, max_turn_deg=45, scale=(1, 1))
    for wish in planned:
        assert wish.change.turn_deg == 0
        width = Image.open(wish.normal).width
        assert wish.left == (width - 8 if wish.change.flip_x else 0)
    assert {wish.change.flip_x for wish in planned} == {True, False}


def test_on_crops_each_defect_of_a_shot_is_one_and_too_large_ones_are_left_out(
    tmp_path: Path, normals: list[Path]
) -> None:
    mask = np.zeros((64, 80), dtype=np.uint8)
    mask[5:9, 5:9] = mask[40:46, 50:54] = 255
    mask[30, 10:70] = 255  # longer than the crops
    Image.fromarray(np.repeat(mask[..., None] // 2 + 60, 3, axis=2)).save(tmp_path / "shot.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shot = Shot(tmp_path / "shot.png", tmp_path / "mask.png")
    planned = plan_pairs([shot], normals, 20, 0, side_px=32, size_px=64)
    assert {wish.defect for wish in planned} == {Box(5, 5, 4, 4), Box(40, 50, 6, 4)}
    assert read_defect(shot, Box(5, 5, 4, 4))[1].sum() == 16
    (whole,) = plan_pairs([shot], normals, 1, 0, side_px=None)
    assert whole.defect is None
    assert read_defect(shot, None)[1].sum() == 16 + 24 + 60
    with pytest.raises(InputError, match="side_px: no defect of 1 shots is seen whole in 4 px"):
        plan_pairs([shot], normals, 1, 0, side_px=4)


def test_without_shots_or_room_nothing_is_planned(shots: list[Shot], normals: list[Path]) -> None:
    with pytest.raises(InputError, match="shots, normals: 0 and 2 were given"):
        plan_pairs([], normals, 1, 0, side_px=None)
    with pytest.raises(InputError, match="fits into none of 2; lower `scale`"):
        plan_pairs(shots, normals, 1, 0, side_px=None, scale=(12, 12))
