"""A service over a small index of toy images."""

import io
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ccpml.serving import Index, Picture
from ccpml.serving.service import ServiceSettings, create_app
from tests.serving.embedders import ColorEmbedder
from tests.toy import toy_images

LOCAL = "http://127.0.0.1:8000"


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="session")
def toy_pictures(tmp_path_factory):
    """Files of 4 classes with 5 pictures each, with metadata."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = []
    for label, images in enumerate(toy_images(4, 5)):
        for number, pixels in enumerate(images):
            file = folder / f"{label}-{number}.png"
            file.write_bytes(encoded(pixels))
            pictures.append(Picture(file, f"class{label}", {"price": 10.0 * label + number}))
    return pictures


@pytest.fixture(scope="session")
def toy_index(tmp_path_factory, toy_pictures):
    """The directory of an index of the toy pictures."""
    path = tmp_path_factory.mktemp("index") / "toy.index"
    with Index.create(path, ColorEmbedder()) as index:
        index.add(toy_pictures)
    return path


@pytest.fixture
def index(tmp_path, toy_index):
    """A copy of the index for one test."""
    with Index.open(shutil.copytree(toy_index, tmp_path / "toy.index"), ColorEmbedder()) as index:
        yield index


@pytest.fixture
def connect(index):
    """Return a client of a service with the given settings."""
    clients = []

    def start(**settings):
        client = TestClient(create_app(index, ColorEmbedder(), ServiceSettings(**settings)), base_url=LOCAL)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
