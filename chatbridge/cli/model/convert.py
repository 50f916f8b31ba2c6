"""`chatbridge model convert`: finds the converter for what lies at a path, and shows how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.model.making import PLACE, carried_template, command_line, next_step, stoppable, template_option
from chatbridge.cli.output import echo
from chatbridge.errors import ModelLoadError
from chatbridge.plugins.packages import FIRST_PARTY, install_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from chatbridge.model_files.description import ModelDescription
    from chatbridge.model_tools.converter import Converter


@click.command("convert")
@click.argument("source", type=PLACE)
@click.option("-o", "--output", type=PLACE, required=True, help="The file or folder to make.")
@click.option("-t", "--to", "target", required=True, metavar="FORM", help="What to make: f16, q8_0, hf, meta, int4, …")
@click.option("--parts", type=click.IntRange(1, 64), help="Tensor-parallel parts of Meta's form; 1 unless given.")
@click.option(
    "--base", type=PLACE,
    help="The model that an adapter was trained on, where the adapter does not lead to it.",
)  # fmt: skip
@template_option
def command(source: Path, output: Path, target: str, template: str, **options: object) -> None:
    """Make another form of the model or adapter at SOURCE.

    GGUF of type f32, f16, bf16 or q8_0; gguf of files from before it, block by block; hf and meta for those forms; and
    what plugins make. The output is whole or not there; a run that was killed is gone on with by the same command.
    Exits 1 where it can't be made.
    """
    given = {name: value for name, value in options.items() if value is not None}
    made = convert(source, output, target, given, template)
    echo(f"{made} is made. {next_step(made)}")


def convert(source: Path, output: Path, target: str, options: Mapping[str, object], template: str = "") -> Path:
    """Convert by whatever converter fits. `template`: what the result is talked to by. Raises ModelLoadError."""
    from chatbridge.cli.progress import ProgressBar
    from chatbridge.model_files.inspect import sound_model
    from chatbridge.model_tools.converter import Conversion
    from chatbridge.model_tools.output import check_output
    from chatbridge.model_tools.report import NOTE, Report
    from chatbridge.operations.printable import in_one_line
    from chatbridge.plugins.manager import Plugins

    found = sound_model(source)
    converter = _chosen(found, target, Plugins().converters.values())
    check_output(output)
    if surplus := sorted(options.keys() - set(converter.options)):
        raise ModelLoadError(f"--{surplus[0]} is not for making {target!r} of this ({found.path}); leave it out")
    with stoppable(output), ProgressBar() as progress:
        report = Report(command_line(), template=carried_template(found, template))
        work = Conversion(found, target, output, options, progress, report)
        if converter.check is not None:
            converter.check(work)
        converter.convert(work)
    for step in work.report.steps:
        if step["step"] == NOTE:
            echo(f"note: {in_one_line(str(step[NOTE]), 1000)}", err=True)
    return output


def _chosen(found: ModelDescription, target: str, known: Iterable[Converter]) -> Converter:
    """The first that makes it. Raises ModelLoadError, with what can be made of it."""
    fitting = [converter for converter in known if converter.reads(found)]
    for converter in fitting:
        if converter.writes(target):
            return converter
    what = f"{found.path}: this is {found.family or found.format or 'a model'} ({found.layout})"
    if not fitting:
        installs = {name: install_command("backend", name) for name in FIRST_PARTY["backend"]}
        other = ELSEWHERE.get(found.layout, "`chatbridge model inspect` says what runs it").format_map(installs)
        raise ModelLoadError(f"{what}, which nothing here converts; {other}")
    words = ", ".join(dict.fromkeys(word for converter in fitting for word in converter.spoken or converter.makes))
    packed = ""
    if "f16" in words and "q4_k_m" not in words:
        packed = "; to pack it, make f16 first, and `chatbridge model quantize` that"
    raise ModelLoadError(f"{what}, of which no {target!r} is made; give one of: {words}{packed}")


ELSEWHERE = {
    "huggingface": "llama.cpp's convert_hf_to_gguf.py may make a GGUF file of it",
    "chatglm2": "llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it",
    "chatglm": "the plugin does: {glm}",
    "glm-130b": "the plugin does: {glm}",
    "gguf": "the plugin packs it in other types: {llama_cpp}",
    "rwkv": "the plugin does, for the rwkv package: {rwkv}; for GGUF, give the model in Hugging "
    "Face's form to llama.cpp's convert_hf_to_gguf.py",
    "xor": "decrypt it first: `chatbridge model decrypt`",
    "safetensors": "give the folder with its config.json and tokenizer",
}
"""Who converts forms that nothing here does, with what installs a plugin in place of its name."""
