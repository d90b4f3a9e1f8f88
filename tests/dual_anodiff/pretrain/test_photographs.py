"""Photographs: named by what they show, some held out, crops of any scale, and a corpus with a share of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from dual_anodiff.errors import InputError
from dual_anodiff.pretrain.corpus import KIND_NAMES, NAMES, read_corpus, write_corpus
from dual_anodiff.pretrain.photographs import SURFACES, crops, find_photographs

PICTURES = Path(__file__).parents[4] / "shared" / "pictures"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of real bricks and gravel, listed as the shared pictures are."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["path,original,licence"]
    for word, picture in (("Bricks", data.brick()), ("Gravel", data.gravel())):
        for i in range(24):
            name = f"ambientcg/{word}_{i:03}.png"
            (folder / "ambientcg").mkdir(exist_ok=True)
            y, x = 60 * (i // 6), 60 * (i % 6)
            Image.fromarray(picture[y : y + 128, x : x + 128]).save(folder / name)
            rows.append(f'{name},"a name, with a comma",CC0-1.0')
    (folder / "origin.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_pictures_are_named_by_what_they_show_and_some_are_held_out(folder: Path) -> None:
    found = find_photographs(folder)
    assert set(found.files) == {"brick", "surface"}
    for word in found.files:
        assert not set(found.files[word]) & set(found.held_out.get(word, []))
    everything = [*found.files.values(), *found.held_out.values()]
    assert sum(len(files) for files in everything) == 48
    assert 1 <= sum(len(files) for files in found.held_out.values()) <= 12


def test_a_folder_without_its_list_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"origin\.csv"):
        find_photographs(tmp_path)


def test_crops_have_the_size_asked_for_and_follow_the_seed(folder: Path) -> None:
    files = find_photographs(folder).files["brick"]
    first, again = (crops(files, 5, 96, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (5, 3, 96, 96)
    assert first.abs().max() <= 1
    assert torch.equal(first, again)
    assert len({float(crop.mean()) for crop in first}) == 5


def test_a_corpus_has_its_share_of_photographs_and_masks_for_their_defects(
    folder: Path, tmp_path: Path
) -> None:
    write_corpus(tmp_path, 1024, 64, seed=0, real=find_photographs(folder), real_share=0.6)
    corpus = read_corpus(tmp_path)
    real = corpus.kinds >= len(KIND_NAMES)
    assert 0.4 < real.float().mean() < 0.8
    assert {NAMES[k] for k in corpus.kinds[real]} <= set(SURFACES)
    assert corpus.masks[real & (corpus.defects > 0)].flatten(1).any(1).float().mean() > 0.98
    assert not corpus.masks[corpus.defects == 0].any()


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"no pictures at {PICTURES}")
def test_the_shared_pictures_cover_every_surface() -> None:
    found = find_photographs(PICTURES)
    assert set(found.files) == set(found.held_out) == set(SURFACES)
