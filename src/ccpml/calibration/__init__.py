"""What a run promises about classes that it has never seen, with a stated confidence.

`Certificate` reads what ``ccpml calibrate`` has written; neither it nor the statistics import torch.
"""

from ccpml.calibration.certificate import Certificate, CertificateError

__all__ = ["Certificate", "CertificateError"]
