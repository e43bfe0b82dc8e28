"""Limit the instructions that torch and its libraries use, to compare as if on an older processor.

Three parts choose by themselves: torch's own kernels, and the matrix products of oneDNN and of MKL. Each has
a variable of its own: `ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA` (oneDNN's "CPU Dispatcher Control") and
`MKL_ENABLE_INSTRUCTIONS` (oneMKL's "Instruction Set-Specific Dispatching"). The values of oneDNN and MKL are
the highest that a level allows; a processor that has less uses what it has.

MKL heeds its variable on Intel's processors alone, and this package's `MKL_CBWR=AUTO` does not replace it:
AUTO fixes how MKL divides its work, and leaves the instructions to the same choice.
"""

from dataclasses import dataclass

from common.errors import InputError


@dataclass(frozen=True)
class _Level:
    """A level of instructions.

    Attributes:
        flags: what Linux calls those that a processor has to have, in /proc/cpuinfo.
        variables: the environment that allows these and none above.
    """

    flags: tuple[str, ...]
    variables: dict[str, str]


LEVELS = {
    "avx2": _Level(
        ("avx2", "fma"),
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    ),
    # With bfloat16 and float16 where the processor has them, but without tiles.
    "avx512": _Level(
        ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
        {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512_E3",
        },
    ),
    # torch has no kernels of its own for tiles.
    "amx": _Level(
        ("amx_tile", "amx_bf16", "amx_int8"),
        {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX_FP16",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512_E4",
        },
    ),
}


def limit_of(isa: str | None) -> dict[str, str]:
    """Return the environment variables of a level of instructions; none for None, what the processor has."""
    return {} if isa is None else LEVELS[isa].variables


def check_level(isa: str | None, flags: list[str]) -> None:
    """Check that a processor has the instructions of a level.

    Args:
        flags: the processor's, as Linux tells them.

    Raises:
        InputError: it has not, or nobody knows.
    """
    if isa is None:
        return
    if not flags:
        raise InputError(
            f"isa: this system has no /proc/cpuinfo, which would tell whether the processor has {isa}: "
            "leave --isa out"
        )
    missing = [flag for flag in LEVELS[isa].flags if flag not in flags]
    if missing:
        had = [level for level, of in LEVELS.items() if set(of.flags) <= set(flags)]
        remedy = f"give {' or '.join(had)}, or leave --isa out" if had else "leave --isa out"
        raise InputError(f"isa is {isa!r}, and the processor lacks {' '.join(missing)}: {remedy}")
