"""Kernels of distributors that take changes from later versions: their version says little of what they do.

Debian's and plain stable kernels are not among them: they follow the releases that they are called after.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

_MARKS: Final = (
    (r"\.el\d+", "Enterprise Linux"),
    (r"\.(amzn|al)\d+", "Amazon Linux"),
    (r"uek", "Oracle's UEK"),
    (r"\.fc\d+", "Fedora"),
    (r"-cloudflare|-fly\b", "a hoster"),
    (r"-(azure|aws|gcp|gke|gkeop|oracle|ibm|kvm|lowlatency|nvidia|raspi|oem|intel)\b", "Ubuntu"),
    (r"-\d+-generic", "Ubuntu"),
    (r"-microsoft-standard|-WSL2", "WSL"),
    (r"\.(cm|azl)\d+", "Azure Linux"),
    (r"-pve\b", "Proxmox"),
    (r"-(default|preempt)\b", "SUSE"),
    (r"-android\d+", "Android"),
    (r"\.(oe|an|tl|ks|ky)\d+", "openEuler, Anolis, TencentOS or Kylin"),
    (r"\.ph\d+", "Photon OS"),
    (r"-cos\b|-google", "Container-Optimized OS"),
)

_UBUNTU_MAINLINE: Final = re.compile(r"-\d{6}(rc\d+)?(daily\d+)?-generic")
"""Ubuntu's builds of unchanged mainline releases, such as 6.8.0-060800-generic."""


def vendor_of(release: str) -> str:
    """Return whose kernel this is; "" for one that is what its version says.

    Args:
        release: What `uname -r` prints, such as "4.18.0-348.el8.x86_64".
    """
    if _UBUNTU_MAINLINE.search(release):
        return ""
    return next((name for mark, name in _MARKS if re.search(mark, release)), "")
