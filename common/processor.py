"""Name the processor and its instructions."""

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def read_processor() -> tuple[str, list[str]]:
    """Return the processor's name and its flags, which Linux tells; no flags elsewhere."""
    if not _CPU_INFO.exists():
        return platform.processor(), []
    lines = _CPU_INFO.read_text().splitlines()
    # "model name\t: AMD EPYC"; ARM has "Features" in place of "flags".
    values = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    flags = values.get("flags", values.get("Features", "")).split()
    return values.get("model name", platform.processor()), flags


__all__ = ["read_processor"]
