"""Training sets as files for other tools: MVTec layout, COCO, YOLO-seg, Hugging Face; each with provenance.

Every function takes rows as training_set gives them (image_path, mask_path, label, label_index, source, and the
PROVENANCE columns where present); a column split ("train", "val", "test") is kept apart, without it all is train.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy import ndimage, spatial

from downstream.delivery.delivered import mask_png, pictures, provenance, provenance_columns
from downstream.errors import DownstreamError, TrainingSetError
from downstream.training_sets import COLUMNS

HandoverFormat = Literal["mvtec", "coco", "yolo", "huggingface"]


def hand_over(rows: pd.DataFrame, out: Path, format: HandoverFormat) -> None:
    """Write the rows into the new folder `out` in one tool's format.

    Raises: TrainingSetError for rows without the columns, DownstreamError if `out` holds files, PictureError.
    """
    match format:
        case "mvtec":
            write_mvtec(rows, out)
        case "coco":
            write_coco(rows, out)
        case "yolo":
            write_yolo_seg(rows, out)
        case "huggingface":
            write_huggingface(rows, out)


def write_mvtec(rows: pd.DataFrame, out: Path) -> None:
    """`out` as one category in the MVTec AD layout, with provenance.csv.

    Normals of split "train" go to train/good, others to test/good; defects, which the layout knows in its test
    folder alone, to test/LABEL and ground_truth/LABEL, also those to train on. All as PNG, since readers
    of the layout list nothing else.
    """
    _begin(rows, out)
    files = []
    for picture in pictures(rows):
        normal = picture.mask is None
        folder = f"{'train' if normal and picture.split == 'train' else 'test'}/{picture.label}"
        files.append(f"{folder}/{picture.name}.png")
        _write(out / files[-1], picture.encoded(as_png=True)[0])
        if picture.mask is not None:
            mask_path = out / "ground_truth" / picture.label / f"{picture.name}_mask.png"
            _write(mask_path, mask_png(picture.mask))
    _write_provenance(rows, files, out)


def write_coco(rows: pd.DataFrame, out: Path) -> None:
    """images/SPLIT and annotations/instances_SPLIT.json for pycocotools and what builds on it.

    One annotation for each connected piece of a mask, as compressed RLE with iscrowd 0: the pieces of a
    picture together are its mask, pixel by pixel. Provenance lies in the entries of "images".
    """
    from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

    _begin(rows, out)
    names, annotation_ids = _defect_types(rows), count(1)
    files: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for image_id, picture in enumerate(pictures(rows), start=1):
        into = files.setdefault(picture.split, {"images": [], "annotations": []})
        content, suffix = picture.encoded()
        file_name = f"{picture.name}{suffix}"
        _write(out / "images" / picture.split / file_name, content)
        height, width = picture.size
        entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        into["images"].append({**entry, "label": picture.label, **picture.provenance})
        for piece in _pieces(picture.mask):
            rle = coco_mask.encode(np.asfortranarray(piece.astype(np.uint8)))
            into["annotations"].append(
                {
                    "id": next(annotation_ids),
                    "image_id": image_id,
                    "category_id": 1 + names.index(picture.label),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "area": int(piece.sum()),
                    "bbox": [float(x) for x in coco_mask.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
    (out / "annotations").mkdir()
    categories = [{"id": i, "name": name, "supercategory": "defect"} for i, name in enumerate(names, start=1)]
    for split, annotated in files.items():
        text = json.dumps({"info": {"description": "anodiff"}, "categories": categories, **annotated})
        (out / "annotations" / f"instances_{split}.json").write_text(text)


def write_yolo_seg(rows: pd.DataFrame, out: Path) -> None:
    """images/SPLIT, labels/SPLIT and data.yaml for Ultralytics' segmentation models, with provenance.csv.

    One polygon for each connected piece (normals: an empty file). The format has no holes: a hole's outline
    is joined to the outer one by a cut of no width, which Ultralytics' rasteriser (cv2.fillPoly) draws as a
    line of one pixel and leaves open otherwise.
    """
    _begin(rows, out)
    names, files = _defect_types(rows), []
    for picture in pictures(rows):
        content, suffix = picture.encoded()
        files.append(f"images/{picture.split}/{picture.name}{suffix}")
        _write(out / files[-1], content)
        scale = np.array(picture.size[::-1])
        lines = [
            f"{names.index(picture.label)} " + " ".join(f"{value:.6f}" for value in (polygon / scale).ravel())
            for polygon in ([] if picture.mask is None else polygons(picture.mask))
        ]
        label_path = out / "labels" / picture.split / f"{picture.name}.txt"
        label_path.parent.mkdir(parents=True, exist_ok=True)
        label_path.write_text("".join(f"{line}\n" for line in lines))
    _write_provenance(rows, files, out)
    # Ultralytics looks beside the file where it names no path, and refuses one without "val".
    found = sorted(path.name for path in (out / "images").iterdir())
    places = {"train": "images/train", "val": "images/train", **{name: f"images/{name}" for name in found}}
    note = "" if "val" in found else '# no split "val" was handed over: val repeats the training pictures\n'
    (out / "data.yaml").write_text(
        note + yaml.safe_dump({**places, "names": dict(enumerate(names))}, sort_keys=False)
    )


def write_huggingface(rows: pd.DataFrame, out: Path) -> None:
    """data/SPLIT-00000-of-00001.parquet, which `datasets.load_dataset(out)` opens as pictures.

    Columns: image and mask (file bytes; no mask: None), label (ClassLabel, 0 is "good"), and provenance.
    """
    import pyarrow as pa
    from pyarrow import parquet

    _begin(rows, out)
    (out / "data").mkdir()
    names = ["good", *_defect_types(rows)]
    picture_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = {"image": picture_type, "mask": picture_type, "label": pa.int64()}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    features["label"] = {"_type": "ClassLabel", "names": names}
    kinds = {"i": "int64", "u": "int64", "f": "float64"}
    for name in ("source", "original", *provenance_columns(rows)):
        kind = kinds.get(rows[name].dtype.kind, "string") if name in rows else "string"
        fields[name] = pa.type_for_alias(kind)
        features[name] = {"_type": "Value", "dtype": kind}
    schema = pa.schema(
        list(fields.items()), metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )
    writers: dict[str, Any] = {}
    for picture in pictures(rows):
        split = "validation" if picture.split == "val" else picture.split
        if split not in writers:
            path = out / "data" / f"{split}-00000-of-00001.parquet"
            writers[split] = parquet.ParquetWriter(path, schema)
        mask = None if picture.mask is None else mask_png(picture.mask)
        content, suffix = picture.encoded()
        row = {
            "image": {"bytes": content, "path": f"{picture.name}{suffix}"},
            "mask": None if mask is None else {"bytes": mask, "path": f"{picture.name}_mask.png"},
            "label": names.index(picture.label),
            **picture.provenance,
        }
        # A row group for each picture: readers fetch whole groups to show one, and memory stays small.
        writers[split].write_table(pa.Table.from_pylist([row], schema))
    for writer in writers.values():
        writer.close()


def polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """One closed outline for each 8-connected piece, holes joined on; rasterised with cv2.fillPoly it is the piece.

    Points are pixel centres (x + 0.5), which fall on the same pixel whether rounded down or scaled.
    Shape: (h, w) → list of (n ≥ 3, 2). Units: px, x then y.
    """
    import cv2

    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = []
    for i, contour in enumerate(found):
        if tree[0][i][3] >= 0:  # a hole: taken with its piece
            continue
        holes = [found[k][:, 0] for k in range(len(found)) if tree[0][k][3] == i]
        # Epsilon 0 drops points within a straight line, which a piece with holes needs for a short cut.
        outline = contour[:, 0] if holes else cv2.approxPolyDP(contour, 0, True)[:, 0]
        for hole in holes:
            outline = _join(outline, hole)
        low, high = outline.min(0), outline.max(0)
        if (low == high).any():
            # A line or point has no area, and readers drop boxes without any: a rectangle within its pixels.
            (left, top), (right, bottom) = low + 0.1, high + 0.9
            outlines.append(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
            continue
        padding = [outline[-1:]] * max(0, 3 - len(outline))
        outlines.append(np.concatenate([outline, *padding]) + 0.5)
    return outlines


def _join(outline: NDArray[Any], hole: NDArray[Any]) -> NDArray[Any]:
    """Walk the outline, cross to the hole where it is nearest, walk round it, cross back and go on."""
    distance, nearest = spatial.cKDTree(outline).query(hole)
    k = int(np.argmin(distance))
    at = int(np.asarray(nearest)[k])
    return np.concatenate([outline[: at + 1], hole[k:], hole[: k + 1], outline[at:]])


def _pieces(mask: NDArray[np.bool_] | None) -> Iterator[NDArray[np.bool_]]:
    if mask is not None:
        labelled, pieces = ndimage.label(mask, structure=np.ones((3, 3)))
        for number in range(1, pieces + 1):
            yield labelled == number


def _write_provenance(rows: pd.DataFrame, files: list[str], out: Path) -> None:
    table = provenance(rows)
    table.insert(0, "file_name", files)
    table.to_csv(out / "provenance.csv", index=False)


def _defect_types(rows: pd.DataFrame) -> list[str]:
    """Class names, sorted: the same numbers in every format."""
    return sorted(rows.loc[rows["label_index"] == 1, "label"].unique())


def _begin(rows: pd.DataFrame, out: Path) -> None:
    """Refuse unusable rows and a used folder before anything is written."""
    missing = [name for name in COLUMNS if name not in rows]
    if missing or rows.empty:
        fault = f"lack the columns {missing}" if missing else "are empty"
        raise TrainingSetError(f"rows to hand over {fault}: pass those of a training set.")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise DownstreamError(
            f"{out}: holds files, which would mix with this training set. Name a new folder."
        )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
