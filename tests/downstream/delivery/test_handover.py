"""What is handed over is read back by each tool's own loader: the same pictures, masks, splits and provenance."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from downstream.delivery.handover import HandoverFormat, hand_over, polygons
from downstream.errors import DownstreamError, PictureError, TrainingSetError
from downstream.images import read_image, read_mask
from downstream.training_sets import training_set
from tests.downstream.conftest import Squares

REAL = Path(__file__).parents[4] / "shared" / "data" / "magnetic_tile"
Rows = pd.DataFrame


@pytest.fixture(scope="module")
def rows(squares: Squares, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """A training set and its validation rows; one normal a JPEG, one mask with a hole and two pieces."""
    pairs = squares.pairs.assign(index=range(20), seed=2**53 + 1, score=0.25, run="run 1", adapter_key="ab12")
    one = training_set("generated+real", squares.samples, pairs)
    rows = pd.concat([one.train.assign(split="train"), one.val.assign(split="val")], ignore_index=True)
    folder = tmp_path_factory.mktemp("special")
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[5:25, 5:30] = mask[30, 40] = 1  # 0 and 1, as some masks are
    mask[10:15, 10:20] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    Image.new("L", (50, 40), 77).save(folder / "grey.png")
    Image.new("RGB", (50, 40), (9, 8, 7)).save(folder / "normal.JPG")
    special = {"label": ["ring", "good"], "label_index": [1, 0], "source": ["real", "normal"]}
    paths = {
        "image_path": [str(folder / "grey.png"), str(folder / "normal.JPG")],
        "mask_path": [str(folder / "mask.png"), ""],
    }
    return pd.concat([rows, pd.DataFrame({**paths, **special, "split": "train"})], ignore_index=True)


def mask_of(row: Mapping[Any, Any]) -> NDArray[np.bool_]:
    height, width, _ = read_image(row["image_path"]).shape
    return read_mask(row["mask_path"]) if row["label_index"] else np.zeros((height, width), dtype=bool)


def test_mvtec_is_read_by_anomalib(rows: Rows, tmp_path: Path) -> None:
    from anomalib.data.datasets.image.mvtecad import MVTecADDataset

    hand_over(rows, tmp_path / "toy", "mvtec")
    provenance = pd.read_csv(tmp_path / "toy" / "provenance.csv").set_index("file_name")
    seen = 0
    for split in ("train", "test"):
        data = MVTecADDataset(root=tmp_path, category="toy", split=split)
        for sample in data.samples.to_dict("records"):
            name = str(Path(sample["image_path"]).relative_to(tmp_path / "toy"))
            row = rows.iloc[int(Path(name).stem)].to_dict()
            assert sample["label_index"] == row["label_index"]
            assert sample["label"] == row["label"]
            np.testing.assert_array_equal(read_image(sample["image_path"]), read_image(row["image_path"]))
            if row["label_index"]:
                np.testing.assert_array_equal(read_mask(sample["mask_path"]), mask_of(row))
            assert provenance.loc[name, "source"] == row["source"]
            seen += 1
        assert data[0].image.shape[0] == 3
    assert seen == len(rows) == len(provenance)
    pairs = provenance[provenance["source"] == "generated"]
    assert pairs["index"].astype(int).sort_values().tolist() == list(range(20))
    assert set(pairs["adapter_key"]) == {"ab12"}


def test_coco_is_read_by_pycocotools(rows: Rows, tmp_path: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    hand_over(rows, tmp_path, "coco")
    seen, annotation_ids = 0, []
    for split in ("train", "val"):
        coco = coco_api.COCO(str(tmp_path / "annotations" / f"instances_{split}.json"))
        assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["ring", "spot"]
        for image in coco.loadImgs(coco.getImgIds()):
            row = rows.iloc[int(Path(image["file_name"]).stem)].to_dict()
            assert row["split"] == split
            picture = read_image(tmp_path / "images" / split / image["file_name"])
            np.testing.assert_array_equal(picture, read_image(row["image_path"]))
            assert picture.shape[:2] == (image["height"], image["width"])
            found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            together = np.zeros(picture.shape[:2], dtype=int)
            for each in found:
                piece = coco.annToMask(each)
                together += piece
                assert each["area"] == piece.sum()
                assert coco.loadCats(each["category_id"])[0]["name"] == row["label"]
                left, top, width, height = (int(x) for x in each["bbox"])
                assert piece[top : top + height, left : left + width].sum() == piece.sum()
            np.testing.assert_array_equal(together, mask_of(row))
            assert len(found) == {"good": 0, "ring": 2}.get(row["label"], 1)
            assert image["source"] == row["source"]
            if row["source"] == "generated":
                assert (image["run"], image["adapter_key"], image["score"]) == ("run 1", "ab12", 0.25)
                assert image["seed"] == 2**53 + 1  # whole, not through a float
                assert image["index"] == row["index"]
            else:
                assert image["run"] is None
            seen += 1
        annotation_ids += coco.getAnnIds()
    assert seen == len(rows)
    assert len(set(annotation_ids)) == len(annotation_ids)


def rasterise(outlines: list[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """As Ultralytics does (polygon2mask): rounded down, filled with cv2.fillPoly."""
    import cv2

    mask = np.zeros(size, dtype=np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
    return mask > 0


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_yolo_labels_draw_the_same_masks(rows: Rows, tmp_path: Path) -> None:
    hand_over(rows, tmp_path, "yolo")
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "names": {0: "ring", 1: "spot"}}
    provenance = pd.read_csv(tmp_path / "provenance.csv")
    for row, file_name in zip(rows.to_dict("records"), provenance["file_name"], strict=True):
        image_path = tmp_path / file_name
        # Ultralytics finds labels by this replacement.
        label_path = Path(str(image_path).replace("/images/", "/labels/")).with_suffix(".txt")
        assert image_path.parent.name == row["split"]
        height, width, _ = read_image(image_path).shape
        lines = [line.split() for line in label_path.read_text().splitlines()]
        assert {data["names"][int(line[0])] for line in lines} == ({row["label"]} - {"good"})
        assert all(len(line) >= 7 and len(line) % 2 for line in lines)  # class and at least three points
        outlines = [np.array(line[1:], dtype=float).reshape(-1, 2) for line in lines]
        assert all(((each >= 0) & (each <= 1)).all() for each in outlines)
        drawn = rasterise([each * [width, height] for each in outlines], (height, width))
        if row["label_index"]:
            assert iou(drawn, mask_of(row)) > 0.95
        else:
            assert not lines
    assert provenance["source"].tolist() == rows["source"].tolist()
    only_train = rows[rows["split"] == "train"]
    hand_over(only_train, tmp_path / "t", "yolo")
    assert (tmp_path / "t" / "data.yaml").read_text().startswith('# no split "val"')


def test_polygons_keep_points_lines_and_holes() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[2, 2] = mask[5, 3:9] = mask[8:14, 4] = True  # a point and two lines
    mask[20:36, 5:30] = True
    mask[22:25, 8:12] = mask[28:33, 15:25] = False  # two holes
    mask[30, 19] = True  # a piece within a hole
    for i in range(10):
        mask[5 + i, 35 + i] = True  # a diagonal line
    outlines = polygons(mask)
    assert len(outlines) == 6
    assert all(len(each) >= 3 and (np.ptp(each, axis=0) > 0).all() for each in outlines)
    assert iou(rasterise(outlines, (40, 60)), mask) > 0.95


def test_real_masks_survive_as_polygons() -> None:
    if not REAL.is_dir():
        pytest.skip(f"real masks are not at {REAL}")
    paths = [
        path
        for label in ("blowhole", "break", "crack", "fray", "uneven")
        for path in sorted((REAL / "ground_truth" / label).iterdir())[::6]
    ]
    worst = min(iou(rasterise(polygons(mask), mask.shape), mask) for mask in map(read_mask, paths))
    assert worst > 0.95


def test_parquet_is_read_by_datasets(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    hand_over(rows, tmp_path / "out", "huggingface")
    read = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(read) == {"train", "validation"}
    for split, name in (("train", "train"), ("val", "validation")):
        of_split = rows[rows["split"] == split].to_dict("records")
        assert len(read[name]) == len(of_split)
        features = read[name].features
        assert isinstance(features["image"], datasets.Image)
        assert features["label"].names == ["good", "ring", "spot"]
        for row, item in zip(of_split, read[name], strict=True):
            assert features["label"].int2str(item["label"]) == row["label"]
            expected = read_image(row["image_path"])
            np.testing.assert_array_equal(
                np.asarray(item["image"].convert("RGB")), np.round(expected * 255).astype(np.uint8)
            )
            if row["label_index"]:
                np.testing.assert_array_equal(np.asarray(item["mask"]) > 0, mask_of(row))
            else:
                assert item["mask"] is None
            assert item["source"] == row["source"]
            if row["source"] == "generated":
                assert (item["seed"], item["score"], item["run"]) == (2**53 + 1, 0.25, "run 1")
                assert item["index"] == row["index"]


def test_parquet_needs_no_library_of_its_own(rows: Rows, tmp_path: Path) -> None:
    hand_over(rows.drop(columns="split"), tmp_path, "huggingface")
    table = pd.read_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert len(table) == len(rows)
    content = Image.open(BytesIO(table["image"][0]["bytes"])).convert("RGB")
    np.testing.assert_array_equal(np.asarray(content), np.round(read_image(rows["image_path"][0]) * 255))


def test_rows_without_provenance_are_taken(squares: Squares, tmp_path: Path) -> None:
    one = training_set("real", squares.samples, squares.pairs)
    formats: tuple[HandoverFormat, ...] = get_args(HandoverFormat)
    for format in formats:
        if format == "coco":
            pytest.importorskip("pycocotools", reason="pycocotools is not installed")
        hand_over(one.train, tmp_path / format, format)
    with_images = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert set(with_images["images"][0]) == {
        "id", "file_name", "width", "height", "label", "source", "original",
    }  # fmt: skip


def test_unusable_rows_and_folders_are_refused(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(TrainingSetError, match=r"lack the columns \['source'\]"):
        hand_over(rows.drop(columns="source"), tmp_path, "mvtec")
    with pytest.raises(TrainingSetError, match="are empty"):
        hand_over(rows.iloc[:0], tmp_path, "mvtec")
    with pytest.raises(PictureError, match="has no mask"):
        hand_over(rows.assign(mask_path=""), tmp_path / "a", "mvtec")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old.png").touch()
    with pytest.raises(DownstreamError, match="holds files"):
        hand_over(rows, tmp_path / "b", "yolo")
