import pytest

from ccpml.serving.qdrant.address import Address, is_address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("qdrant://localhost/shop", "qdrant://localhost:6333/shop"),
        ("qdrants://Search.Example.org:443/my-shop_2.0", "qdrants://search.example.org:443/my-shop_2.0"),
        ("qdrant://[::1]:7000/größe/", "qdrant://[::1]:7000/größe"),
    ],
)
def test_an_address_is_written_as_it_is_read(text, canonical):
    assert is_address(text)
    assert str(Address.parse(text)) == canonical
    assert Address.parse(canonical) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "qdrant:shop",
        "qdrant://host:6333",
        "qdrant://host:6333/",
        "qdrant://host/a/b",
        "qdrant://host/..",
        "qdrant://host:x/shop",
        "qdrant://host:99999/shop",
        "qdrant:///shop",
        "http://host/shop",
    ],
)
def test_what_is_no_address_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match=r"^store: expected qdrant://host:6333/collection.*got "):
        Address.parse(text)


@pytest.mark.parametrize("text", ["qdrant://secret@host/shop", "qdrant://host/shop?api-key=secret"])
def test_a_key_in_an_address_is_not_repeated(text):
    with pytest.raises(ValueError, match="CCPML_QDRANT_API_KEY") as error:
        Address.parse(text)
    assert "secret" not in str(error.value)


def test_loopback():
    hosts = ["localhost", "127.0.0.2", "::1", "10.0.0.1", "search.example.org"]
    assert [Address(host, "c").is_loopback for host in hosts] == [True, True, True, False, False]
    assert not is_address("folder/qdrant.index")
