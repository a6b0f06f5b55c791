"""Make the README's pictures of doctor, compare and probe from a demo.

python make.py DEMO reads the folder of a finished `llava-vista demo`, in the environment that made it, and writes
doctor.png, compare.png and probe.png beside this file. Each is what the command gives: its output or its figure.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llava_vista.tools.kit.plots import new_figure, save

HERE = Path(__file__).parent
#: Inches of a letter of the terminal's font, and of a line.
LETTER, LINE = 0.068, 0.155


def command(*words: str | Path) -> str:
    """Run a command of llava-vista, and return its output. Exit code 1 is a report of a problem."""
    done = subprocess.run([sys.executable, "-m", "llava_vista.cli", *map(str, words)], capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    return done.stdout


def draw_terminal(text: str, path: Path) -> None:
    """Draw the output of a command as a picture."""
    lines = text.rstrip().split("\n")
    with new_figure(LETTER * (max(map(len, lines)) + 4), LINE * (len(lines) + 2)) as figure:
        figure.set_layout_engine("none")
        figure.text(2 * LETTER / figure.get_figwidth(), 1 - LINE / figure.get_figheight(), "\n".join(lines), va="top",
                    family="monospace", fontsize=8, linespacing=1.2, parse_math=False)  # fmt: skip
        save(figure, [path])


def shrink(path: Path, width: int = 800) -> None:
    """Store a picture with few colours and at most so wide: it is in the repository."""
    from PIL import Image

    with Image.open(path) as picture:
        height = round(picture.height * min(1.0, width / picture.width))
        small = picture.convert("RGB").resize((min(width, picture.width), height), Image.Resampling.LANCZOS)
    small.quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)


def main(demo: Path) -> None:
    baseline, vista = (demo / arm / "finetune" for arm in ("baseline", "vista"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        text = command("doctor", vista)
        draw_terminal(f"$ llava-vista doctor {vista.name}\n{text.replace(str(vista.resolve()), vista.name)}",
                      target / "doctor.png")  # fmt: skip
        command("compare", baseline, vista, "-o", target / "compare.png")
        data = ("--data", demo / "data/heldout.json", "--images", demo / "data/images")
        command("probe", baseline, vista, *data, "--output", target)
        for name in ("doctor", "compare", "probe"):
            shrink(target / f"{name}.png")
            shutil.copy(target / f"{name}.png", HERE)
            print(f"{HERE / name}.png: {(HERE / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
