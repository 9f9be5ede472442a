//! The operators that a graph may hold: those that compute tensors from tensors, the same ones each time, in a time that
//! its sizes tell. The list is closed, so that a graph cannot ask for what nobody has thought of.

/// Newest version of ONNX's own operators that is known here.
pub(super) const NEWEST_OPSET: u64 = 28;

/// Of ONNX itself, by its own name or none.
#[rustfmt::skip]
const ONNX: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "AffineGrid", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "Attention", "AveragePool", "BatchNormalization", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
    "BitwiseXor", "BlackmanWindow", "Cast", "CastLike", "CausalConvWithState", "Ceil", "Celu", "CenterCropPad",
    "Clip", "Col2Im", "Compress", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose",
    "Cos", "Cosh", "CumProd", "CumSum", "DFT", "DeformConv", "DepthToSpace", "DequantizeLinear", "Det", "Div",
    "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HammingWindow", "HannWindow",
    "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LinearAttention", "Log", "LogSoftmax",
    "LpNormalization", "LpPool", "MatMul", "MatMulInteger", "Max", "MaxPool", "MaxUnpool", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad",
    "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "RNN", "Range", "Reciprocal",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign", "RotaryEmbedding",
    "Round", "STFT", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin",
    "Sinh", "Size", "Slice", "Softmax", "SoftmaxCrossEntropyLoss", "Softplus", "Softsign", "SpaceToDepth", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "TensorScatter", "ThresholdedRelu", "Tile", "TopK",
    "Transpose", "Trilu", "Unique", "Unsqueeze", "Upsample", "Where", "Xor",
    // Lists of tensors, which PyTorch writes where it cuts an axis of free size into parts.
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SplitToSequence",
    // What they were before they were ONNX's; torch and ONNX Runtime still write them.
    "Affine", "Crop", "ImageScaler", "ParametricSoftplus", "ScaledTanh", "SimplifiedLayerNormalization",
];

/// Of ONNX Runtime, which optimisers and quantisers write.
#[rustfmt::skip]
const MICROSOFT: &[&str] = &[
    "Attention", "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu",
    "ComplexMul", "ComplexMulConj", "ConvTransposeWithDynamicPads", "CropAndResize", "DecoderAttention",
    "DequantizeBFP", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "DynamicTimeWarping",
    "EmbedLayerNormalization", "ExpandDims", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul",
    "FusedMatMulActivation", "GatedRelativePositionBias", "GatherBlockQuantized", "GatherND", "Gelu", "GemmFastGelu",
    "GemmFloat8", "GemmaRotaryEmbedding", "GridSample", "GroupNorm", "GroupQueryAttention", "Inverse", "Irfft",
    "MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MaxpoolWithMask", "MoE",
    "MulInteger", "MultiHeadAttention", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "PackedAttention",
    "PackedMultiHeadAttention", "PackingMode", "Pad", "PagedAttention", "QAttention", "QEmbedLayerNormalization",
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QMoE",
    "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedMatMul", "QuantizeBFP",
    "QuantizeLinear", "QuickGelu", "Range", "ReduceSumInteger", "RelativePositionBias", "RemovePadding",
    "RestorePadding", "Rfft", "RotaryEmbedding", "SkipGroupNorm", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "SparseAttention", "SparseToDenseMatMul", "TransposeMatMul", "Trilu",
    "UnfoldTensor", "Unique",
];

/// Of ONNX Runtime, for tensors whose channels come in blocks.
const NCHWC: &[&str] = &[
    "AveragePool",
    "Conv",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MaxPool",
    "ReorderInput",
    "ReorderOutput",
    "Upsample",
];

/// Of ONNX Runtime, for tensors whose channels come last.
#[rustfmt::skip]
const NHWC: &[&str] = &[
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalMaxPool", "GridSample", "InstanceNormalization", "LRN", "MaxPool", "QLinearAveragePool", "QLinearConv",
    "QLinearConvTranspose", "QLinearGlobalAveragePool", "Resize", "SpaceToDepth",
];

/// Every domain whose operators are known.
const DOMAINS: &[(&str, &[&str])] =
    &[("ai.onnx", ONNX), ("com.microsoft", MICROSOFT), ("com.microsoft.nchwc", NCHWC), ("com.ms.internal.nhwc", NHWC)];

/// A domain by the name under which it is told: ONNX's own has an empty name in files.
pub(crate) fn domain_name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// The operators of a domain; nothing where it is not known.
pub(super) fn of_domain(domain: &str) -> Option<&'static [&'static str]> {
    DOMAINS.iter().find(|(name, _)| *name == domain_name(domain)).map(|(_, operators)| *operators)
}

/// Names of the domains, for errors.
pub(super) fn domains() -> String {
    DOMAINS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Operators that run other nodes as often as their tensors say, which may be for ever.
pub(super) const LOOPS: &[&str] = &["Loop", "Scan", "SequenceMap"];

/// Operators that draw random numbers of their own.
pub(super) const RANDOM: &[&str] =
    &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];
