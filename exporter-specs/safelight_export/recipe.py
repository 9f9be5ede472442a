"""What a spec may say about precisions, with defaults. A spec's `recipe` has a map a stage, with a map a section.

    recipe:
      denoiser:
        optimise: { attention: fused, gates: halves }
        int8: { budget: 0.05, float: [time_embedding, conv_in, conv_out] }
"""

from .fault import Fault, unknown

# Names in `float` are regular expressions, searched for in names of nodes and of weights.
SECTIONS = {
    "optimise": {
        # fused: one MultiHeadAttention of ONNX Runtime's; plain: as exported.
        "attention": "fused",
        # halves: the two halves of a gated layer (GEGLU) become two layers; whole: as exported.
        "gates": "halves",
        # gemm: linear layers with a bias become Gemm, which runs in INT8 with its bias; matmul: as exported.
        "linears": "gemm",
        # A layer after a layer whose tensors take more bytes than this is run in parts of its rows, where sizes are fixed.
        "rows_bytes": 12_000_000,
        # Sizes of free axes for the proof, by axis name; others are small.
        "sizes": {},
        # Largest relative L2 between the graphs before and after.
        "bound": 1e-5,
    },
    "fp16": {
        # Operators that stay in float32 whatever their values.
        "float_operators": ["LayerNormalization", "InstanceNormalization", "GroupNorm", "Softmax", "ReduceMean", "Pow"],
        "float": [],
        # A node whose values come this close to 65504, the greatest number of FP16, stays in float32.
        "headroom": 0.5,
        # Largest relative L2 of the output to float32; nodes are brought back to float32 until it is met.
        "budget": 0.01,
        "samples": 8,
    },
    "int8": {
        # What may be quantised. Add, Relu, Clip and Resize are, where all that they take is quantised anyway.
        "operators": ["Conv", "Gemm", "MatMul", "Gather"],
        # u8 for x86 CPUs; s8, symmetric, for TensorRT and the dot product of ARM.
        "activations": "u8",
        # 7 for x86 CPUs without VNNI, which overflow 16-bit sums of U8S8 products.
        "weight_bits": 8,
        "float": [],
        # Largest relative L2 of the output to float32 over held-out samples; the layers that do most harm stay in float
        # until it is met.
        "budget": 0.1,
        # Of the layers, how many are tried one by one in the search: those that round most coarsely.
        "tries": 64,
        "samples": 16,
        "held_out": 2,
    },
}


def checked(section, given):
    """A section with defaults filled in. Raises Fault on names that are not known."""
    known = SECTIONS[section]
    for name in given or {}:
        if name not in known:
            raise Fault(unknown(f"key of the recipe's {section}", name, known))
    return {**known, **(given or {})}
