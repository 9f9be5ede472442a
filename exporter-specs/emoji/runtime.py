"""Pictures by safelight itself, many prompts in one process."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate(prompts, folder, steps, seed, precision):
    """One PNG a prompt, all of the same seed; their paths in the order of the prompts."""
    listed = folder / "prompts.txt"
    listed.write_text("\n".join(prompts))
    command = [ROOT / "run", "generate", "--model", "emoji", "--prompts", listed, "--out", f"{folder}/", "--json"]
    command += ["--steps", str(steps), "--seed", str(seed), "--precision", precision, "--threads", "1"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [Path(report["pictures"][0]["path"]) for report in json.loads(made)]
