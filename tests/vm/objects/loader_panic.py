from pathlib import Path

Path("/proc/sysrq-trigger").write_text("c")
