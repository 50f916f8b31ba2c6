"""Which conversion this plugin offers; imports torch only to do it. Knows words; leaves the work to `conversion.py`."""

from __future__ import annotations

from chatbridge import Conversion, Converter


def _check(work: Conversion) -> None:
    from chatbridge_rwkv import conversion

    conversion.check(work)


def _convert(work: Conversion) -> None:
    from chatbridge_rwkv import conversion

    conversion.convert(work)


CONVERTERS = (
    Converter(
        "rwkv-strategy",
        "RWKV-4 to 6 as the rwkv package converts them for a strategy, so that they load faster",
        takes=("rwkv",),
        makes=("cpu *", "cuda *", "cuda:*", "mps *", "dml *"),
        spoken=("a strategy of the rwkv package, as 'cuda fp16' or 'cuda fp16i8 *20 -> cpu fp32'",),
        convert=_convert,
        check=_check,
    ),
)
