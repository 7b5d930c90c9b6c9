import pytest

import ccpml


def test_every_public_name_is_there():
    for name in ccpml.__all__:
        assert getattr(ccpml, name).__doc__
        assert name in dir(ccpml)


def test_an_unknown_name_is_named():
    with pytest.raises(AttributeError, match="module 'ccpml' has no attribute 'Nonsense'"):
        _ = ccpml.Nonsense
