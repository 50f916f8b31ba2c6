"""From GGUF to llama.cpp's quantised types: checks what is asked for, and has it done by child processes.

Imports llama.cpp nowhere: what its library does is done in processes of their own (`quantizer.py`, `comparison.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from chatbridge import (
    Conversion,
    GgufHeader,
    GgufTensor,
    ModelLoadError,
    Options,
    check_space,
    default_threads,
    hashed,
    output_file,
)
from chatbridge_llama_cpp.ftypes import ftypes
from chatbridge_llama_cpp.job import run_job

GIB = 1 << 30


class QuantizeOptions(Options, defer_build=True):
    """What may be asked for besides the type; the keys of `Conversion.options`."""

    threads: Annotated[
        int | None, Field(gt=0, le=1024, description="Threads that compute; else one for each core.")
    ] = None
    leave_output: Annotated[bool, Field(description="Leave output.weight as it is (--leave-output-tensor).")] = False
    pure: Annotated[bool, Field(description="One type for all tensors, without a mixture (--pure).")] = False
    imatrix: Annotated[Path | None, Field(description="What llama-imatrix made of a text (--imatrix).")] = None
    requantize: Annotated[bool, Field(description="Take what is quantised already (--allow-requantize).")] = False
    dry_run: Annotated[bool, Field(description="Say what would be made, and make nothing (--dry-run).")] = False
    check: Annotated[bool, Field(description="Compare both files on a text when it is made.")] = False
    check_text: Annotated[Path | None, Field(description="That text, as a UTF-8 file; else a short one of ours.")] = (
        None
    )
    check_gib: Annotated[float, Field(gt=0, le=1024, description="Room on the disk for the comparison, in GiB.")] = 1.0


def check(work: Conversion) -> None:
    """Raise ModelLoadError for what can't work, by headers alone."""
    options = _options(work)
    files = _files(work)
    tensors = _tensors(files)
    _check_source(files, options)
    if options.leave_output and "output.weight" not in tensors:
        raise ModelLoadError(
            f"{work.source.path}: there is no output.weight to leave as it is: the embedding serves as output, too; "
            f"leave out --leave-output"
        )
    if options.imatrix is not None:
        from chatbridge_llama_cpp.imatrix import read_imatrix

        read_imatrix(options.imatrix)
    if options.check_text is not None:
        from chatbridge_llama_cpp.comparison import read_text

        read_text(options.check_text)
    if not options.dry_run and not work.output.absolute().parent.is_dir():
        raise ModelLoadError(f"{work.output.parent}: there is no such folder to put the output into; make it first")


def convert(work: Conversion) -> None:
    """Quantise, and compare where that is asked for. What is made, and what was found, stands in the report."""
    options, files = _options(work), _files(work)
    job = {
        "sources": [str(file.path.absolute()) for file in files],
        "ftype": ftypes()[work.target.lower()],
        "threads": options.threads or default_threads().count,
        "leave_output": options.leave_output,
        "pure": options.pure,
        "requantize": options.requantize,
        "imatrix": str(options.imatrix.absolute()) if options.imatrix else None,
        "alignment": files[0].metadata.get("general.alignment", 32),
    }
    work.progress.begin("planning", 0)
    planned = run_job("chatbridge_llama_cpp.quantizer:plan", job, work.progress)
    facts = _judge(work, options, _tensors(files), planned)
    work.report.step("plan", **facts)
    if options.dry_run:
        return
    check_space(work.output, planned["size"])  # before anything long begins
    read = [file.path for file in files] + ([options.imatrix] if options.imatrix else [])
    work.report.sources += hashed(read, work.progress)
    began = time.monotonic()
    _make(work, planned, job)
    work.report.step("quantise", bytes=planned["size"], seconds=round(time.monotonic() - began, 1))
    work.report.write(work.output, _PACKAGES)
    if options.check:
        work.report.step("check", **_compare(work, options, files))
        work.report.write(work.output, _PACKAGES)


_PACKAGES = ("chatbridge-llama-cpp", "llama_cpp_python", "gguf", "numpy")


def _options(work: Conversion) -> QuantizeOptions:
    try:
        return QuantizeOptions.model_validate(dict(work.options))
    except ValidationError as error:
        first = error.errors()[0]
        option = "-".join(map(str, first["loc"])).replace("_", "-")
        raise ModelLoadError(f"--{option}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def _files(work: Conversion) -> tuple[GgufHeader, ...]:
    """The source, in one part or several."""
    from chatbridge_llama_cpp.files import find_model
    from chatbridge_llama_cpp.options import LlamaOptions

    return find_model(LlamaOptions.model_validate({"path": work.source.path.absolute()}), lambda share, doing: None)


def _tensors(files: Sequence[GgufHeader]) -> dict[str, GgufTensor]:
    return {name: tensor for file in files for name, tensor in file.tensors.items()}


def _check_source(files: Sequence[GgufHeader], options: QuantizeOptions) -> None:
    for file in files:
        for name, tensor in file.tensors.items():
            if _quantised(tensor.kind) and not options.requantize:
                raise ModelLoadError(
                    f"{file.path}: {name} is quantised already, as {tensor.kind}; quantising it again loses more than "
                    f"doing it once: give the f32, f16 or bf16 file, or allow it (--requantize)"
                )


def _quantised(kind: str) -> bool:
    """Whether a type packs several numbers together."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    return kind not in GGMLQuantizationType.__members__ or GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] > 1


def _judge(
    work: Conversion, options: QuantizeOptions, tensors: Mapping[str, GgufTensor], planned: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan for the report. Raises ModelLoadError where nothing would change, or importance is lacking."""
    types: Mapping[str, str] = planned["types"]
    changed = {name: kind for name, kind in types.items() if kind != tensors[name].kind}
    if not changed:
        why = f"its tensors are what {work.target} makes of them"
        if planned["fallbacks"]:
            why = f"its rows are no multiple of what {work.target} packs together, 32 numbers and more"
        raise ModelLoadError(f"{work.source.path}: nothing would change: {why}")
    lacking: list[str] = []
    if options.imatrix is not None:
        from chatbridge_llama_cpp.imatrix import check_imatrix, read_imatrix

        lacking = check_imatrix(read_imatrix(options.imatrix), tensors, changed)
    elif planned["needs_imatrix"] and not options.dry_run:
        raise ModelLoadError(
            f"{work.target} is useless without an importance matrix: make one with llama-imatrix from "
            f"{work.source.path.name} and a text, and give it as --imatrix"
        )
    return {
        "type": work.target.lower(),
        "source_bytes": work.source.nbytes or sum(tensor.nbytes for tensor in tensors.values()),
        "bytes": planned["size"],
        "tensors": dict(Counter(types.values()).most_common()),
        "fallbacks": planned["fallbacks"],
        "requantised": sum(_quantised(tensors[name].kind) for name in changed),
        "needs_imatrix": planned["needs_imatrix"],
        "imatrix": options.imatrix.name if options.imatrix else None,
        "without_importance": lacking,
    }


def _make(work: Conversion, planned: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Have the file made, and see that it is what was planned."""
    size, types = planned["size"], planned["types"]
    with output_file(work.output) as partial:
        run_job(
            "chatbridge_llama_cpp.quantizer:quantize",
            {**job, "output": str(partial.absolute()), "size": size},
            work.progress,
        )
        made = GgufHeader(partial, reader="llama.cpp")
        kinds = {name: tensor.kind for name, tensor in made.tensors.items() if not tensor.kind.startswith("type ")}
        if made.size != size or made.tensors.keys() != types.keys() or not kinds.items() <= types.items():
            raise ModelLoadError(
                f"{work.output}: llama.cpp made {made.size:,} bytes where {size:,} were planned, or other types, "
                f"and it was deleted; run it again"
            )
        work.report.check_sources()


def _compare(work: Conversion, options: QuantizeOptions, files: Sequence[GgufHeader]) -> dict[str, Any]:
    """How far what was made is from the source. Raises ModelLoadError."""
    room = int(options.check_gib * GIB)
    job = {
        "source": str(files[0].path.absolute()),
        "made": str(work.output.absolute()),
        "text": str(options.check_text.absolute()) if options.check_text else None,
        "folder": str(work.output.absolute().parent),
        "bytes": room,
        "threads": options.threads,
    }
    try:
        return run_job("chatbridge_llama_cpp.comparison:compare", job, work.progress)
    except ModelLoadError as error:
        raise ModelLoadError(f"{work.output} is made, and could not be compared: {error}") from error
