"""The data set ``groceries``: photographs of fruit, vegetables and packages, taken with a phone in shops.

A part of the GroceryStore data set by M. Klasson, C. Zhang and H. Kjellström, "A Hierarchical Grocery Store Image
Dataset with Visual and Semantic Labels", WACV 2019; MIT license, see ``groceries.LICENSE.txt`` beside this file. All 81
classes, 24 images of each, the shorter side 144 pixels, WebP of quality 75. ``tools/make_groceries.py`` made
``groceries.zip``, and describes how images were chosen.

Fruit and juice (38 classes) are for training and validation; dairy, which includes oat and soy, and vegetables (43
classes) for testing. So the test classes are goods of other kinds, natural ones and packages in both parts. The order
of the classes makes four contiguous folds of 10, 10, 9 and 9 classes with related fruit and the juices of one brand.
"""

from pathlib import Path
from typing import Final

import numpy as np

from ccpml.data.images.archived import list_archive
from ccpml.data.sources.source import Source, SplitName
from ccpml.data.table import ImageTable

__all__ = ["load_groceries"]

_ARCHIVE: Final = Path(__file__).with_name("groceries.zip")
#: Split of the classes of each kind; the training classes are cut into folds for validation.
_SPLIT_OF_KIND: Final[dict[str, SplitName]] = {
    "Fruit": "train",
    "Juice": "train",
    "Dairy": "test",
    "Vegetables": "test",
}


def load_groceries() -> Source:
    """Load the groceries; class names are like ``"Fruit/Granny Smith"``.

    Images are read from the archive in the package, and not unpacked.

    Raises:
        ValueError: If the archive is missing or damaged.

    Example:
        >>> table = load_groceries().table
        >>> len(table), table.num_classes, table.name_of(0)
        (1944, 81, 'groceries/Fruit/Lemon/test_003.webp')
    """
    try:
        images = list_archive(_ARCHIVE)
    except ValueError as error:
        raise ValueError(f"groceries: {error}; reinstall ccpml") from error
    classes = [image.name.rpartition("/")[0] for image in images]
    names = tuple(dict.fromkeys(classes))
    labels = np.array([names.index(name) for name in classes], dtype=np.int64)
    table = ImageTable(tuple(images), labels, names, name="groceries")
    return Source(table, {name: _SPLIT_OF_KIND[name.partition("/")[0]] for name in names})
