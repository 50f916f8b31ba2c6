"""Makes the guide anew, all steps in one: vocabulary, training, export, evaluation, manifest.

    python examples/train_guide/run.py --minutes 60

Run again after an interruption, it goes on where it stopped; `--minutes 0` trains no further. Where the file is to be
shipped, add `--ship`: it replaces chatbridge/bundled/guide.gguf, manifest.json records what it was made from, and the
README's table tells how well it does. The blind set is asked only with `--blind`: its questions are worth something
as long as nobody acts on them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUNDLED = HERE.parents[1] / "chatbridge" / "bundled" / "guide.gguf"
MADE_FROM = ("data/*.yaml", "data/*.txt", "eval/*.jsonl")
"""What decides what the guide says, and by what it is judged. The manifest holds the hash of each."""


BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"


def sha256(path: Path) -> str:
    """Of a text file with Unix line ends, or of a GGUF file as it is."""
    content = path.read_bytes()
    return hashlib.sha256(content if path.suffix == ".gguf" else content.replace(b"\r\n", b"\n")).hexdigest()


def sources() -> dict[str, str]:
    """The hash of every file that the guide is made from, by its name."""
    paths = sorted(path for pattern in MADE_FROM for path in HERE.glob(pattern))
    return {path.relative_to(HERE).as_posix(): sha256(path) for path in paths}


def train(out: Path, minutes: float, more: list[str]) -> None:
    begun = ["--resume"] if (out / "checkpoint.pt").exists() else []
    command = [sys.executable, str(HERE / "train.py"), "--out", str(out), "--minutes", str(minutes), *begun, *more]
    if subprocess.run(command, check=False).returncode:  # a process of its own: it sets its allocator at the start
        raise SystemExit("The training stopped with an error; run again to go on from its last checkpoint.")


def manifest(out: Path, file: Path, sets: list[str]) -> dict[str, Any]:
    """What was made, from what, and how well it does."""
    import torch
    from evaluate import evaluate

    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    evaluation = {}
    for name, earlier in (*((name, 0) for name in sets), ("dev", 3)):
        title = f"{name}, after {earlier} other questions" if earlier else name
        evaluation[title], _ = evaluate(file, name, earlier)
        for language, counts in evaluation[title].items():
            print(f"{title}, {language}: {counts['share_right']:.1%} of {counts['questions']} right")
    return {
        "model": {"file": file.name, "sha256": sha256(file), "bytes": file.stat().st_size},
        "training": {
            "parameters": sum(tensor.numel() for tensor in saved["model"].values()),
            "shape": saved["shape"],
            "minutes": round(saved["spent"] / 60, 1),
            "loss": round(sum(loss for _, loss in saved["history"][-10:]) / len(saved["history"][-10:]), 4),
        },
        "evaluation": evaluation,
        "sources": sources(),
    }


def table(evaluation: dict[str, Any]) -> str:
    """The results as the README shows them, in Markdown."""
    rows = ["| questions | language | asked | right | beyond it, and declined |", "|---|---|---|---|---|"]
    for title, languages in evaluation.items():
        for language, counts in languages.items():
            declined = f"{counts['beyond it and declined']} of {counts['beyond it']}"
            rows.append(f"| {title} | {language} | {counts['questions']} | {counts['share_right']:.1%} | {declined} |")
    return "\n".join(rows)


def tell(readme: Path, evaluation: dict[str, Any]) -> None:
    """Put the results between the README's marks."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(evaluation)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "guide", help="folder for checkpoint and file")
    parser.add_argument("--minutes", type=float, default=60, help="how long to train, in minutes of computing")
    parser.add_argument("--blind", action="store_true", help="ask the blind set as well")
    parser.add_argument("--ship", action="store_true", help="put the file into the package and write manifest.json")
    parser.add_argument("train_options", nargs="*", help="for train.py, after --, as `-- --compile`")
    options = parser.parse_args()
    sets = ["dev", "validation", *(["blind"] if options.blind else [])]
    file = options.out / "guide.gguf"

    print("1/3 vocabulary and training", flush=True)
    train(options.out, options.minutes, options.train_options)
    print("2/3 export", flush=True)
    from export import export

    export(options.out, file)
    print("3/3 evaluation", flush=True)
    record = manifest(options.out, file, sets)
    target = HERE if options.ship else options.out
    (target / "manifest.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.ship:
        shutil.copyfile(file, BUNDLED)
        shutil.copyfile(options.out / "loss.png", HERE / "loss.png")
        tell(HERE / "README.md", record["evaluation"])
    print(f"{target / 'manifest.json'} says how well it does.")


if __name__ == "__main__":
    main()
