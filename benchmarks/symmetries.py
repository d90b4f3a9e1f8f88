"""What categories bear, and by which distances: `python -m benchmarks.symmetries [CATEGORY_FOLDER ...]`.

For each change the factor by which it puts held-back normals further from the others. Without folders: the demo's.
`dual_anodiff.objects.symmetries.FACTOR` was chosen between what is to be borne and what is not.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from dual_anodiff.demo_data import write_demo_data
from dual_anodiff.objects.symmetries import CHANGES, FACTOR, find_symmetries, load_normals
from dual_anodiff.quality.features import Features
from tasks.data.pictures import picture_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)

    features = Features()
    print(f"{'':16}" + "".join(f"{name:>16}" for name in CHANGES) + "   seconds; * borne, up to", FACTOR)
    with tempfile.TemporaryDirectory() as place:
        folders = args.folders or write_demo_data(Path(place), num_test_good=1, num_defects=1)
        for folder in folders:
            start = time.process_time()
            normals = load_normals(list(picture_files(folder / "train" / "good")))
            found = find_symmetries(features, normals)
            figures = "".join(
                f"{ratio:15.2f}{'*' if ratio <= FACTOR else ' '}" for ratio in found.ratios.values()
            )
            print(f"{folder.name:16}{figures}   {time.process_time() - start:.1f}")


if __name__ == "__main__":
    main()
