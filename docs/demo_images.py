"""Write the embedded demo images as a folder of PNG files: a folder for each class, and in it one for each patient.

    python docs/demo_images.py my-images        1,200 images of 600 patients, 64×64

The images are drawn by the program itself (parties/sources/phantom.py): they show nobody.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from parties.sources.phantom import Phantom


def write_images(folder: Path, count: int = 1200, size: int = 64) -> None:
    """Write `count` gray images of four classes, two of each patient."""
    source = Phantom(size, 1, count, 0, "train")
    written = dict.fromkeys(source.classes, 0)
    for row in range(count):
        name = source.classes[source.labels[row]]
        number, image = divmod(written[name], 2)
        patient = number * len(written) + int(source.labels[row])
        path = folder / name / f"patient-{patient:03d}" / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
        written[name] += 1


def main() -> None:
    """Write the images into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write 1,200 small images that show nobody as PNG files.")
    parser.add_argument("folder", type=Path, help="the folder to write, such as my-images")
    folder = parser.parse_args().folder
    try:
        write_images(folder)
    except OSError as error:
        parser.error(f"cannot write the images into {folder}: {error.strerror}")


if __name__ == "__main__":
    main()
