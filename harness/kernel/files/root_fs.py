"""Whether a kernel can run on the host's own root file system, which virtme-ng exports to it over 9p."""

from __future__ import annotations

from harness.errors import SelectorError
from harness.kernel.files import modules
from harness.kernel.types import Kernel

# Each driver's module, and its configuration option.
_NEEDED = (
    ("9p", "CONFIG_9P_FS"),
    ("9pnet_virtio", "CONFIG_NET_9P_VIRTIO"),
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
    ("overlay", "CONFIG_OVERLAY_FS"),
)


def lacks(kernel: Kernel) -> list[str]:
    """Return the options that the kernel lacks and needs; none when its configuration is unknown."""
    if kernel.config is not None:
        lines = kernel.config.read_text(errors="replace").splitlines()
        values = dict(line.split("=", 1) for line in lines if line.startswith("CONFIG_") and "=" in line)
        return [
            option
            for module, option in _NEEDED
            if values.get(option) != "y" and not (values.get(option) == "m" and _has(kernel, module))
        ]
    if kernel.modules is not None:
        return [option for module, option in _NEEDED if not _has(kernel, module)]
    return []


def _has(kernel: Kernel, module: str) -> bool:
    if kernel.modules is None:
        return False
    try:
        modules.find(kernel.modules, [module])
    except SelectorError:
        return False
    return True
