"""What an exported model says about itself: the facts that are needed to embed with it, and where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from ccpml.data.transforms import EvalTransform
from ccpml.files import DESCRIPTION_FORMAT

__all__ = ["DESCRIPTION_KEY", "Description", "DescriptionError"]

DESCRIPTION_KEY: Final = "ccpml"
"""Name of the description in the metadata of a file."""


class DescriptionError(ValueError):
    """The description of an exported model is missing, damaged, or of a newer version."""


@dataclass(frozen=True)
class Description:
    """Facts of an exported model, written as JSON into the metadata of its file.

    The model takes images as uint8, (B, C, size, size), RGB or gray, already cropped and resized as `transform` does,
    and returns φ-normalized embeddings, float32 (B, d). Everything after the crop is inside the model.

    Attributes:
        fingerprint: That of the run, SHA-256 of weights and preprocessing; an index of the run takes the model too.
        embedding_dim: Dimensions d of an embedding.
        channels: Channels C of an image: 1 or 3.
        size: Side of the cropped image.
        resize: Shorter side of the image before the crop, as in `EvalTransform`.
        network: Arguments of [`create_model`][ccpml.create_model] that build the network of the run.
        split_of_class: The split of the run, train, validation or test, in which a class of that name was.
        certificate: Content of the run's ``certificate.json``; None without one.
        card: What else is known about the model: data, scores with intervals, limits, versions, license.
        content_sha256: SHA-256 of what the model computes: of an ONNX file, see `content_digest`; empty: not known.
    """

    fingerprint: str
    embedding_dim: int
    channels: int
    size: int
    resize: int
    network: Mapping[str, Any] = field(default_factory=dict, repr=False)
    split_of_class: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Mapping[str, Any] | None = field(default=None, repr=False)
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_sha256: str = ""

    @property
    def transform(self) -> EvalTransform:
        """The crop of the run's evaluation."""
        return EvalTransform(self.size, resize=self.resize)

    def to_json(self) -> str:
        """Return the description as JSON; bytes of names that are not UTF-8 are escaped, and read back as they are."""
        text = json.dumps({"format": DESCRIPTION_FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str, name: str) -> Self:
        """Read a description.

        Args:
            text: JSON, as `to_json` writes it.
            name: Name of the file, for errors.

        Raises:
            DescriptionError: If it is damaged or of a newer version.
        """
        way_out = "export the run again"
        try:
            content = json.loads(text)
            version = content.pop("format")
            if isinstance(version, int) and version > DESCRIPTION_FORMAT:
                raise DescriptionError(f"{name}: written by a newer version of ccpml; update ccpml")
            found = cls(**content)
            EvalTransform(found.size, found.resize)  # checks both
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, DescriptionError):
                raise
            raise DescriptionError(
                f"{name}: expected a model that ccpml exported, got another file; {way_out}"
            ) from error
        return found
