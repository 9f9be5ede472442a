"""The command: `python -m safelight_export SPEC --weights … --out …`."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from .fault import Fault, unknown
from .spec import PRECISIONS, SPECS, STAGES, open_spec

EXAMPLES = """examples:
  python -m safelight_export sd15-lcm --weights ~/checkpoints/lcm --out models/lcm --precisions int8,fp16
  python -m safelight_export sd15 --weights model.safetensors --tokenizer ~/clip --out models/photo
  python -m safelight_export sd-turbo --weights ~/turbo --decoder taesd=~/taesd --out models/turbo
  python -m safelight_export sdxl-turbo --weights ~/xl --out models/xl --static 512x512 --only int8:unet --again

What did not change is not made again; graphs on the way lie in OUT.work, which may be removed afterwards.
"""


def main():
    arguments = parser().parse_args()
    try:
        found = export(arguments)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{arguments.out}: written")


def parser():
    parser = argparse.ArgumentParser(
        prog="python -m safelight_export",
        description="From a trained checkpoint to a folder of ONNX graphs that safelight runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    specs = ", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))
    parser.add_argument("spec", help=f"a YAML file, or one of: {specs}")
    parser.add_argument("--weights", required=True, metavar="PATH", help="a diffusers folder, or a .safetensors file")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the model goes")
    parser.add_argument(
        "--precisions",
        type=precisions,
        default=["int8", "fp16"],
        metavar="LIST",
        help="of int8, fp16, fp32; default int8,fp16",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="tensors recorded along real trajectories: safelight generate --record-calibration",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="vocab.json and merges.txt, for a single file, which has none"
    )
    parser.add_argument(
        "--decoder", metavar="SPEC=PATH", help="decoder and encoder of another spec, such as taesd=FOLDER"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PART", help="leave out components, such as vae_encoder"
    )
    parser.add_argument(
        "--static", type=size, metavar="WxH", help="fix every axis, for accelerators: one picture of this size"
    )
    parser.add_argument("--licence", metavar="SPDX", help="the checkpoint's own, where it is not the family's")
    parser.add_argument("--plain", action="store_true", help="leave graphs as they were traced")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="STEP", help="run these steps, such as int8 or int8:unet"
    )
    parser.add_argument("--again", action="store_true", help="run steps although nothing has changed")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser


def precisions(text):
    names = text.split(",")
    for name in names:
        if name not in PRECISIONS:
            raise argparse.ArgumentTypeError(f'unknown precision "{name}", expected some of: {", ".join(PRECISIONS)}')
    return names


def size(text):
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f'size is "{text}", expected such as 512x512')
    return int(height), int(width)


def export(arguments):
    # Late, because torch takes seconds, and a mistyped argument should not.
    from .checkpoint import open_checkpoint
    from .export import Export

    spec = open_spec(arguments.spec)
    if arguments.calibration and not arguments.calibration.is_dir():
        raise Fault(f"calibration {arguments.calibration}: is not a folder; make one by generate --record-calibration")
    if arguments.licence:
        spec = replace(spec, licence=arguments.licence)
    spec = without(spec, arguments.without)
    weights = open_checkpoint(arguments.weights, spec, arguments.tokenizer)
    sources = dict.fromkeys(spec.components, weights)
    if arguments.decoder:
        spec, sources = with_decoder(spec, sources, arguments.decoder)
    run = Export(
        spec,
        sources,
        arguments.out.resolve(),
        arguments.precisions,
        static=arguments.static,
        plain=arguments.plain,
        calibration=arguments.calibration,
    )
    return run.run(arguments.again, arguments.only)


def without(spec, parts):
    for part in parts:
        if part not in spec.components:
            raise Fault(f"--without: {unknown('component', part, spec.components)}")
    kept = {folder: part for folder, part in spec.components.items() if folder not in parts}
    stages = {STAGES[folder] for folder in kept}
    return replace(
        spec, components=kept, recipe={stage: part for stage, part in spec.recipe.items() if stage in stages}
    )


def with_decoder(spec, sources, text):
    """Takes decoder and encoder from another spec and other weights."""
    from .checkpoint import open_checkpoint

    name, equals, path = text.partition("=")
    if not equals:
        raise Fault(f"--decoder {text}: expected SPEC=PATH, such as taesd=FOLDER")
    other = open_spec(name)
    parts = {folder: part for folder, part in other.components.items() if folder.startswith("vae_")}
    if not parts:
        raise Fault(f"--decoder {name}: the spec has no vae_decoder")
    weights = open_checkpoint(path, other)
    kept = {folder: part for folder, part in spec.components.items() if not folder.startswith("vae_")}
    recipe = {stage: part for stage, part in spec.recipe.items() if stage not in ("decoder", "encoder")}
    spec = replace(spec, components=kept | parts, recipe=recipe | other.recipe)
    return spec, {folder: sources[folder] for folder in kept} | dict.fromkeys(parts, weights)


if __name__ == "__main__":
    main()
