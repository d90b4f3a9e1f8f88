"""Which files of a folder are pictures."""

from pathlib import Path

from tasks.data.pictures import picture_files


def test_only_pictures_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt", "c.jpeg"):
        (tmp_path / name).touch()
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpg", "b.PNG", "c.jpeg"]
