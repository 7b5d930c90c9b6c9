"""Make ``src/ccpml/data/sources/groceries.zip`` from the GroceryStore data set.

Usage: ``python tools/make_groceries.py grocery81``. The argument is a folder of the natural images of GroceryStore
(M. Klasson et al., WACV 2019) as ``<number>.<class>/<split>_<class>_<number>.jpg``, the shorter side 144 pixels. The
same images and the same versions of Pillow and libwebp give the same file.

Of each class, 24 images are kept. Many were taken one after another of the same shelf, which makes the nearest neighbor
easy to find, so they are chosen farthest first: the image nearest the mean of the class, then each time the image that
differs most from those already chosen. Images are compared by their reductions to 16 × 16 pixels, so that no network
has a part in the choice. They are encoded again as WebP to half the size of the JPEG files.
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

OUTPUT: Final = Path(__file__).parents[1] / "src" / "ccpml" / "data" / "sources" / "groceries.zip"
IMAGES_PER_CLASS: Final = 24
QUALITY: Final = 75
THUMBNAIL: Final = 16

# Kinds and classes in the order of the labels. The four groups of fruit and juice are the four folds of the training
# classes: related fruit and the juices of one brand are in the same fold.
CLASSES: Final = (
    ("Fruit", "Lemon Lime Orange Red-Grapefruit Satsumas Pomegranate"),
    ("Juice", "Tropicana-Apple-Juice Tropicana-Golden-Grapefruit Tropicana-Juice-Smooth Tropicana-Mandarin-Morning"),
    ("Fruit", "Golden-Delicious Granny-Smith Pink-Lady Red-Delicious Royal-Gala Anjou Conference Kaiser"),
    ("Juice", "Bravo-Apple-Juice Bravo-Orange-Juice"),
    ("Fruit", "Cantaloupe Galia-Melon Honeydew-Melon Watermelon Pineapple"),
    ("Juice", "God-Morgon-Apple-Juice God-Morgon-Orange-Juice God-Morgon-Orange-Red-Grapefruit-Juice"),
    ("Juice", "God-Morgon-Red-Grapefruit-Juice"),
    ("Fruit", "Nectarine Peach Plum Avocado Banana Kiwi Mango Papaya Passion-Fruit"),
    ("Dairy", "Arla-Ecological-Medium-Fat-Milk Arla-Lactose-Medium-Fat-Milk Arla-Medium-Fat-Milk Arla-Standard-Milk"),
    ("Dairy", "Garant-Ecological-Medium-Fat-Milk Garant-Ecological-Standard-Milk Oatly-Natural-Oatghurt"),
    ("Dairy", "Oatly-Oat-Milk Arla-Ecological-Sour-Cream Arla-Sour-Cream Arla-Sour-Milk Alpro-Blueberry-Soyghurt"),
    ("Dairy", "Alpro-Vanilla-Soyghurt Alpro-Fresh-Soy-Milk Alpro-Shelf-Soy-Milk Arla-Mild-Vanilla-Yoghurt"),
    ("Dairy", "Arla-Natural-Mild-Low-Fat-Yoghurt Arla-Natural-Yoghurt Valio-Vanilla-Yoghurt Yoggi-Strawberry-Yoghurt"),
    ("Dairy", "Yoggi-Vanilla-Yoghurt"),
    ("Vegetables", "Asparagus Aubergine Cabbage Carrots Cucumber Garlic Ginger Leek Brown-Cap-Mushroom Yellow-Onion"),
    ("Vegetables", "Green-Bell-Pepper Orange-Bell-Pepper Red-Bell-Pepper Yellow-Bell-Pepper Floury-Potato"),
    ("Vegetables", "Solid-Potato Sweet-Potato Red-Beet Beef-Tomato Regular-Tomato Vine-Tomato Zucchini"),
)


def main() -> None:
    """Write the file."""
    [folder] = map(Path, sys.argv[1:])
    with zipfile.ZipFile(OUTPUT, "w", zipfile.ZIP_STORED) as archive:
        for kind, names in CLASSES:
            for name in names.split():
                [place] = folder.glob(f"[0-9][0-9].{name}")
                for path in farthest_first(sorted(place.glob("*.jpg"))):
                    member = f"{kind}/{name.replace('-', ' ')}/{path.stem.replace(f'_{name}', '')}.webp"
                    archive.writestr(zipfile.ZipInfo(member), encoded(path))  # dated 1980
    print(f"{OUTPUT}: {OUTPUT.stat().st_size:,} bytes")


def farthest_first(paths: list[Path]) -> list[Path]:
    """Choose images that differ from each other; return them in the order of ``paths``."""
    small = np.array(
        [np.array(Image.open(path).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)) for path in paths]
    )
    pixels = small.reshape(len(paths), -1).astype(np.int64)
    chosen = [int(np.square(pixels * len(paths) - pixels.sum(0)).sum(1).argmin())]
    distances = np.square(pixels - pixels[chosen[0]]).sum(1)
    while len(chosen) < IMAGES_PER_CLASS:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.square(pixels - pixels[chosen[-1]]).sum(1))
    return [paths[row] for row in sorted(chosen)]


def encoded(path: Path) -> bytes:
    """Encode an image as WebP."""
    file = io.BytesIO()
    Image.open(path).save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()


if __name__ == "__main__":
    main()
