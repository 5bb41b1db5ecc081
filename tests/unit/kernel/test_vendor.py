"""Whose kernel a release string speaks of."""

from __future__ import annotations

import pytest

from harness.kernel.vendor import vendor_of


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("4.18.0-348.el8.x86_64", "Enterprise Linux"),
        ("5.14.0-427.13.1.el9_4.x86_64", "Enterprise Linux"),
        ("6.1.90-99.173.amzn2023.x86_64", "Amazon Linux"),
        ("5.15.0-200.131.27.el8uek.x86_64", "Enterprise Linux"),
        ("5.4.17-2136.331.7.uek.x86_64", "Oracle's UEK"),
        ("6.8.0-31-generic", "Ubuntu"),
        ("6.5.0-1018-azure", "Ubuntu"),
        ("5.15.0-1050-gke", "Ubuntu"),
        ("6.8.9-300.fc40.x86_64", "Fedora"),
        ("5.15.153.1-microsoft-standard-WSL2", "WSL"),
        ("6.4.0-150600.21-default", "SUSE"),
        ("6.8.0-1024-oem", "Ubuntu"),
        ("6.8.12-4-pve", "Proxmox"),
        ("5.3.18-57-preempt", "SUSE"),
        ("4.19.90-52.22.v2207.ky10.x86_64", "openEuler, Anolis, TencentOS or Kylin"),
        ("5.10.83-7.ph4", "Photon OS"),
        ("6.8.0-060800-generic", ""),
        ("6.9.0-060900rc1-generic", ""),
        ("6.1.0-57-cloud-amd64", ""),
        ("6.12.118+deb13-amd64", ""),
        ("6.6.9", ""),
        ("4.14.67-dirty", ""),
    ],
)
def test_whose_kernel_it_is(release: str, expected: str) -> None:
    assert vendor_of(release) == expected
