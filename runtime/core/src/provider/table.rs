//! The one table of execution providers: what users type, what ONNX Runtime calls it, which options it takes.
//!
//! Option names and words: ONNX Runtime's documentation of each provider, and the strings in its shipped libraries.
//! Streams and allocators of the caller are left out: a file cannot hold a pointer. Not in the table: Azure, which sends
//! inputs to a server; ROCm, TVM and Arm NN, which ONNX Runtime has given up; WASM and WebNN, which run in browsers.

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _, ExecutionProviderDispatch};
use ort::memory::AllocationDevice;

use super::Provider;
use super::keeps::{Keeps, Setting};
use super::option::Kind::{self, Flag, Json, Shapes, Text, TrueOrFalse, Whole, Word};

/// One provider.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) onnxruntime_name: &'static str,
    pub(super) options: &'static [(&'static str, Kind)],
    pub(super) keeps: Keeps,
    pub(super) build: fn(&Provider) -> ExecutionProviderDispatch,
}

/// The option that has a provider record runs and replay them.
pub(super) const REPLAYS: &str = "enable_cuda_graph";

/// Where the tensors are of a provider whose recorded runs can be replayed.
pub(super) fn replayed_on(provider: &str) -> Option<AllocationDevice<'static>> {
    (provider == "cuda").then_some(AllocationDevice::CUDA)
}

/// Builds a provider that takes any option by its ONNX Runtime name.
macro_rules! with_options {
    ($provider:ident) => {
        |settings| {
            let options = settings.texts().into_iter();
            let provider = options
                .fold(ep::$provider::default(), |provider, (key, value)| provider.with_arbitrary_config(key, value));
            provider.build()
        }
    };
}

const COUNT: Kind = Kind::COUNT;
const ARENA: Kind = Word(&["kNextPowerOfTwo", "kSameAsRequested"]);
const BUFFER_CACHE: Kind = Word(&["bucket", "disabled", "lazyRelease", "simple"]);

/// Every provider that a target can name.
#[rustfmt::skip]
pub(super) const PROVIDERS: &[Row] = &[
    Row {
        name: "tensorrt",
        onnxruntime_name: ep::TensorRT::NAME,
        options: &[
            ("device_id", COUNT), ("trt_auxiliary_streams", Whole(-1, 1024)), ("trt_bf16_enable", Flag),
            ("trt_build_heuristics_enable", Flag), ("trt_builder_optimization_level", Whole(0, 5)),
            ("trt_context_memory_sharing_enable", Flag), ("trt_cuda_graph_enable", Flag),
            ("trt_detailed_build_log", Flag), ("trt_dla_core", COUNT), ("trt_dla_enable", Flag),
            ("trt_dump_ep_context_model", Flag), ("trt_dump_subgraphs", Flag), ("trt_engine_cache_enable", Flag),
            ("trt_engine_cache_path", Text), ("trt_engine_cache_prefix", Text), ("trt_engine_hw_compatible", Flag),
            ("trt_ep_context_embed_mode", Flag), ("trt_ep_context_file_path", Text),
            ("trt_extra_plugin_lib_paths", Text), ("trt_force_sequential_engine_build", Flag),
            ("trt_force_timing_cache", Flag), ("trt_fp16_enable", Flag), ("trt_int8_calibration_table_name", Text),
            ("trt_int8_enable", Flag), ("trt_int8_use_native_calibration_table", Flag),
            ("trt_layer_norm_fp32_fallback", Flag), ("trt_load_user_initializer", Flag),
            ("trt_max_partition_iterations", Whole(1, i32::MAX as i64)), ("trt_max_workspace_size", COUNT),
            ("trt_min_subgraph_size", Whole(1, i32::MAX as i64)), ("trt_op_types_to_exclude", Text),
            ("trt_preview_features", Text), ("trt_profile_max_shapes", Shapes), ("trt_profile_min_shapes", Shapes),
            ("trt_profile_opt_shapes", Shapes), ("trt_sparsity_enable", Flag), ("trt_tactic_sources", Text),
            ("trt_timing_cache_enable", Flag), ("trt_timing_cache_path", Text),
            ("trt_weight_stripped_engine_enable", Flag),
        ],
        keeps: Keeps::Folder(&[
            ("trt_engine_cache_enable", Setting::On), ("trt_engine_cache_path", Setting::Folder),
            ("trt_timing_cache_enable", Setting::On), ("trt_timing_cache_path", Setting::Folder),
        ]),
        build: with_options!(TensorRT),
    },
    Row {
        name: "nvrtx",
        onnxruntime_name: ep::NVRTX::NAME,
        options: &[
            ("device_id", COUNT), ("enable_cuda_graph", Flag), ("nv_cuda_graph_enable", Flag),
            ("nv_detailed_build_log", Flag), ("nv_dump_subgraphs", Flag), ("nv_max_shared_mem_size", COUNT),
            ("nv_max_workspace_size", COUNT), ("nv_multi_profile_enable", Flag), ("nv_profile_max_shapes", Shapes),
            ("nv_profile_min_shapes", Shapes), ("nv_profile_opt_shapes", Shapes), ("nv_runtime_cache_path", Text),
        ],
        keeps: Keeps::Folder(&[("nv_runtime_cache_path", Setting::Folder)]),
        build: with_options!(NVRTX),
    },
    Row {
        name: "cuda",
        onnxruntime_name: ep::CUDA::NAME,
        options: &[
            ("arena_extend_strategy", ARENA), ("cudnn_conv1d_pad_to_nc1d", Flag),
            ("cudnn_conv_algo_search", Word(&["DEFAULT", "EXHAUSTIVE", "HEURISTIC"])),
            ("cudnn_conv_use_max_workspace", Flag), ("device_id", COUNT), ("do_copy_in_default_stream", Flag),
            ("enable_cuda_graph", Flag), ("enable_skip_layer_norm_strict_mode", Flag), ("fuse_conv_bias", Flag),
            ("gpu_mem_limit", Whole(1, i64::MAX)), ("prefer_nhwc", Flag), ("sdpa_kernel", COUNT),
            ("tunable_op_enable", Flag), ("tunable_op_max_tuning_duration_ms", COUNT),
            ("tunable_op_tuning_enable", Flag), ("use_ep_level_unified_stream", Flag), ("use_tf32", Flag),
        ],
        keeps: Keeps::Nothing,
        build: with_options!(CUDA),
    },
    Row {
        name: "migraphx",
        onnxruntime_name: ep::MIGraphX::NAME,
        options: &[
            ("device_id", Whole(0, i32::MAX as i64)), ("exhaustive_tune", Flag), ("fp16", Flag), ("fp8", Flag),
            ("int8", Flag),
        ],
        keeps: Keeps::Nothing,
        build: |settings| {
            let provider = ep::MIGraphX::default()
                .with_device_id(settings.number("device_id").unwrap_or(0))
                .with_exhaustive_tune(settings.is_set("exhaustive_tune"))
                .with_fp16(settings.is_set("fp16"))
                .with_fp8(settings.is_set("fp8"))
                .with_int8(settings.is_set("int8"));
            provider.build()
        },
    },
    Row {
        name: "cann",
        onnxruntime_name: ep::CANN::NAME,
        options: &[
            ("arena_extend_strategy", ARENA), ("device_id", COUNT), ("enable_cann_graph", Flag),
            ("npu_mem_limit", Whole(1, i64::MAX)), ("op_select_impl_mode", Word(&["high_performance", "high_precision"])),
            ("optypelist_for_implmode", Text),
            ("precision_mode", Word(&[
                "allow_fp32_to_fp16", "allow_mix_precision", "force_fp16", "force_fp32", "must_keep_origin_dtype",
            ])),
        ],
        keeps: Keeps::Nothing,
        build: with_options!(CANN),
    },
    Row {
        name: "coreml",
        onnxruntime_name: ep::CoreML::NAME,
        options: &[
            ("AllowLowPrecisionAccumulationOnGPU", Flag), ("EnableOnSubgraphs", Flag),
            ("MLComputeUnits", Word(&["ALL", "CPUAndGPU", "CPUAndNeuralEngine", "CPUOnly"])),
            ("ModelCacheDirectory", Text), ("ModelFormat", Word(&["MLProgram", "NeuralNetwork"])),
            ("ProfileComputePlan", Flag), ("RequireStaticInputShapes", Flag),
            ("SpecializationStrategy", Word(&["Default", "FastPrediction"])),
        ],
        keeps: Keeps::Folder(&[("ModelCacheDirectory", Setting::Folder)]),
        build: with_options!(CoreML),
    },
    Row {
        name: "xnnpack",
        onnxruntime_name: ep::XNNPACK::NAME,
        options: &[("intra_op_num_threads", Whole(0, 1024))],
        keeps: Keeps::Nothing,
        build: with_options!(XNNPACK),
    },
    Row {
        name: "openvino",
        onnxruntime_name: ep::OpenVINO::NAME,
        options: &[
            ("cache_dir", Text), ("device_id", Text), ("device_type", Text), ("disable_dynamic_shapes", TrueOrFalse),
            ("enable_causallm", TrueOrFalse), ("enable_opencl_throttling", TrueOrFalse),
            ("enable_qdq_optimizer", TrueOrFalse), ("layout", Text), ("load_config", Json),
            ("model_priority", Word(&["DEFAULT", "HIGH", "LOW", "MEDIUM"])), ("num_of_threads", Whole(1, 1024)),
            ("num_streams", Whole(1, 1024)), ("precision", Word(&["ACCURACY", "FP16", "FP32"])),
            ("reshape_input", Text),
        ],
        // The plug-in passes over cache_dir in silence, the provider in the library takes both.
        keeps: Keeps::Folder(&[("cache_dir", Setting::Folder), ("load_config", Setting::Property("CACHE_DIR"))]),
        build: with_options!(OpenVINO),
    },
    Row {
        name: "qnn",
        onnxruntime_name: ep::QNN::NAME,
        options: &[
            ("backend_path", Text), ("backend_type", Word(&["cpu", "gpu", "htp", "ir", "saver"])), ("device_id", COUNT),
            ("enable_htp_fp16_precision", Flag), ("enable_htp_shared_memory_allocator", Flag),
            ("enable_htp_weight_sharing", Flag), ("htp_arch", COUNT),
            ("htp_graph_finalization_optimization_mode", Whole(0, 3)),
            ("htp_performance_mode", Word(&[
                "balanced", "burst", "default", "extreme_power_saver", "high_performance", "high_power_saver",
                "low_balanced", "low_power_saver", "power_saver", "sustained_high_performance",
            ])),
            ("offload_graph_io_quantization", Flag), ("profiling_file_path", Text),
            ("profiling_level", Word(&["basic", "detailed", "off"])),
            ("qnn_context_priority", Word(&["high", "low", "normal", "normal_high"])), ("rpc_control_latency", COUNT),
            ("soc_model", COUNT), ("vtcm_mb", COUNT),
        ],
        keeps: Keeps::Context,
        build: with_options!(QNN),
    },
    Row {
        name: "directml",
        onnxruntime_name: ep::DirectML::NAME,
        options: &[
            ("device_filter", Word(&["any", "gpu", "npu"])), ("device_id", Whole(0, i32::MAX as i64)),
            ("performance_preference", Word(&["default", "high_performance", "minimum_power"])),
        ],
        keeps: Keeps::Nothing,
        build: |settings| {
            use ep::directml::{DeviceFilter, PerformancePreference};
            let provider = ep::DirectML::default()
                .with_device_filter(match settings.text("device_filter").as_deref() {
                    Some("any") => DeviceFilter::Any,
                    Some("npu") => DeviceFilter::Npu,
                    _ => DeviceFilter::Gpu,
                })
                .with_performance_preference(match settings.text("performance_preference").as_deref() {
                    Some("high_performance") => PerformancePreference::HighPerformance,
                    Some("minimum_power") => PerformancePreference::MinimumPower,
                    _ => PerformancePreference::Default,
                });
            match settings.number("device_id") {
                Some(device) => provider.with_device_id(device).build(),
                None => provider.build(),
            }
        },
    },
    Row {
        name: "webgpu",
        onnxruntime_name: ep::WebGPU::NAME,
        options: &[
            ("dawnBackendType", Word(&["D3D12", "Vulkan"])), ("defaultBufferCacheMode", BUFFER_CACHE),
            ("deviceId", COUNT), ("enableGraphCapture", Flag), ("enableInt64", Flag), ("enablePIXCapture", Flag),
            ("forceCpuNodeNames", Text), ("maxNumPendingDispatches", COUNT), ("maxStorageBufferBindingSize", COUNT),
            ("powerPreference", Word(&["high-performance", "low-power"])), ("preferredLayout", Word(&["NCHW", "NHWC"])),
            ("preserveDevice", Flag), ("queryResolveBufferCacheMode", BUFFER_CACHE),
            ("storageBufferCacheMode", BUFFER_CACHE), ("uniformBufferCacheMode", BUFFER_CACHE),
            ("validationMode", Word(&["basic", "disabled", "full", "wgpuOnly"])),
        ],
        keeps: Keeps::Nothing,
        build: with_options!(WebGPU),
    },
    Row {
        name: "nnapi",
        onnxruntime_name: ep::NNAPI::NAME,
        options: &[("cpu_only", Flag), ("disable_cpu", Flag), ("fp16", Flag), ("nchw", Flag)],
        keeps: Keeps::Nothing,
        build: |settings| {
            let provider = ep::NNAPI::default()
                .with_cpu_only(settings.is_set("cpu_only"))
                .with_disable_cpu(settings.is_set("disable_cpu"))
                .with_fp16(settings.is_set("fp16"))
                .with_nchw(settings.is_set("nchw"));
            provider.build()
        },
    },
    Row {
        name: "acl",
        onnxruntime_name: ep::ACL::NAME,
        options: &[("fast_math", Flag)],
        keeps: Keeps::Nothing,
        build: |settings| ep::ACL::default().with_fast_math(settings.is_set("fast_math")).build(),
    },
    Row {
        name: "onednn",
        onnxruntime_name: ep::OneDNN::NAME,
        options: &[("use_arena", Flag)],
        keeps: Keeps::Nothing,
        build: with_options!(OneDNN),
    },
    Row {
        name: "vitis",
        onnxruntime_name: ep::Vitis::NAME,
        options: &[
            ("cache_dir", Text), ("cache_key", Text), ("config_file", Text), ("enable_cache_file_io_in_mem", Flag),
            ("opt_level", Word(&["0", "1", "2", "3", "65536"])), ("target", Text), ("xclbin", Text),
        ],
        keeps: Keeps::Nothing,
        build: with_options!(Vitis),
    },
    Row {
        name: "rknpu",
        onnxruntime_name: ep::RKNPU::NAME,
        options: &[],
        keeps: Keeps::Nothing,
        build: |_| ep::RKNPU::default().build(),
    },
    Row {
        name: "vsinpu",
        onnxruntime_name: ep::VSINPU::NAME,
        options: &[],
        keeps: Keeps::Nothing,
        build: |_| ep::VSINPU.build(),
    },
    Row {
        name: "cpu",
        onnxruntime_name: ep::CPU::NAME,
        options: &[],
        keeps: Keeps::Nothing,
        build: |_| ep::CPU::default().with_arena_allocator(true).build(),
    },
];
