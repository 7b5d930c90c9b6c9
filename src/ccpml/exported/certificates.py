"""The certificate of a model, whether that is a run or an exported model."""

from pathlib import Path

from ccpml.calibration import Certificate, CertificateError
from ccpml.calibration.certificate import CERTIFICATE_FILE
from ccpml.exported.description import DescriptionError
from ccpml.exported.onnx_file import is_onnx, read_description
from ccpml.system_errors import raise_shortage, unreadable

__all__ = ["find_certificate"]


def find_certificate(model: Path, fingerprint: str) -> Certificate | None:
    """Return the certificate of a run directory, or that which an exported model carries; None if there is none.

    Args:
        model: The run directory or the ONNX file.
        fingerprint: That of the weights in use.

    Raises:
        CertificateError: If it is damaged, or of other weights.
    """
    found = _read_exported(model) if is_onnx(model) else _read(model / CERTIFICATE_FILE)
    if found is not None:
        found.check(fingerprint, str(model if is_onnx(model) else model / CERTIFICATE_FILE))
    return found


def _read(file: Path) -> Certificate | None:
    return Certificate.read(file) if file.exists() else None


def _read_exported(model: Path) -> Certificate | None:
    if not model.is_file():
        return None
    try:
        content = read_description(model).certificate
    except DescriptionError as error:
        raise CertificateError(str(error)) from error
    except OSError as error:
        raise_shortage(error)
        raise CertificateError(unreadable(model, error, "export the run again")) from error
    return None if content is None else Certificate.from_content(content, str(model))
