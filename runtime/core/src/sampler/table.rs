//! The one table of samplers, which help texts, manifests, errors and docs read.

use super::{
    Bh, Ending, Form, Method, Multistep, Second, Steps, adaptive, exponential, first_order, linear_multistep,
    multistep, predictor_corrector, runge_kutta, singlestep, unipc,
};
use crate::options::Opt;
use crate::schedule::Grid;

const NOISE: (Opt, f64) = (Opt::NoiseScale, 1.0);
const ANCESTRAL: &[(Opt, f64)] = &[(Opt::Eta, 1.0), NOISE];
const CHURN: &[(Opt, f64)] = &[(Opt::Churn, 0.0), (Opt::ChurnMin, 0.0), (Opt::ChurnMax, 1e6), NOISE];
const ADAPTIVE: &[(Opt, f64)] = &[(Opt::Rtol, 0.05), (Opt::Atol, 0.0078), (Opt::MaxEvaluations, 300.0)];
const DPM_ADAPTIVE: &[(Opt, f64)] =
    &[(Opt::Order, 3.0), (Opt::Rtol, 0.05), (Opt::Atol, 0.0078), (Opt::MaxEvaluations, 300.0)];

/// A row says where it differs.
const PLAIN: Method = Method::PLAIN;

/// Every sampler that a request or a manifest can name.
pub const SAMPLERS: &[Method] = &[
    Method {
        name: "ddim",
        about: "the first fast sampler; eta adds noise",
        source: "Song et al. 2021, arXiv:2010.02502",
        suits: "all diffusion models",
        grid: Grid::Timesteps,
        sample: first_order::ddim,
        options: &[(Opt::Eta, 0.0), NOISE],
        cfg_pp: true,
        ..PLAIN
    },
    Method {
        name: "ddpm",
        about: "ancestral sampling as in training",
        source: "Ho et al. 2020, arXiv:2006.11239",
        grid: Grid::TimestepsToClean,
        options: ANCESTRAL,
        cfg_pp: true,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "pndm",
        about: "PLMS after three pseudo Runge–Kutta steps",
        source: "Liu et al. 2022, arXiv:2202.09778",
        sample: linear_multistep::pndm,
        grid: Grid::Timesteps,
        order: Some(2),
        evaluations: |n| n + 3 * 3.min(n - 1),
        ..PLAIN
    },
    Method {
        name: "plms",
        about: "linear multistep of the noise",
        source: "Liu et al. 2022, arXiv:2202.09778",
        sample: linear_multistep::plms,
        grid: Grid::Timesteps,
        order: Some(2),
        evaluations: |n| n + usize::from(n > 1),
        ..PLAIN
    },
    Method {
        name: "euler",
        about: "first-order ODE solver, with churn if asked; flow matching's own",
        source: "Karras et al. 2022, arXiv:2206.00364",
        suits: "all models, distilled ones without consistency, flow matching",
        options: CHURN,
        cfg_pp: true,
        ..PLAIN
    },
    Method {
        name: "euler_ancestral",
        about: "euler with fresh noise each step",
        source: "Song et al. 2021; k-diffusion",
        suits: "all models, SD-Turbo and SDXL-Turbo",
        options: ANCESTRAL,
        cfg_pp: true,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "heun",
        about: "second order by a second look, with churn if asked",
        source: "Karras et al. 2022, arXiv:2206.00364",
        sample: runge_kutta::heun,
        options: CHURN,
        order: Some(2),
        evaluations: |n| 2 * n - 1,
        from_pure_noise: false,
        ..PLAIN
    },
    Method {
        name: "dpm2",
        about: "second order by a look at the geometric middle",
        source: "Karras et al. 2022; k-diffusion",
        sample: runge_kutta::dpm2,
        options: CHURN,
        order: Some(2),
        evaluations: |n| 2 * n - 1,
        ..PLAIN
    },
    Method {
        name: "dpm2_ancestral",
        about: "dpm2 with fresh noise each step",
        source: "k-diffusion",
        sample: runge_kutta::dpm2,
        options: ANCESTRAL,
        order: Some(2),
        evaluations: |n| 2 * n - 1,
        from_pure_noise: false,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "rk2",
        about: "explicit midpoint method",
        source: "Runge 1895",
        sample: runge_kutta::rk2,
        order: Some(2),
        evaluations: |n| 2 * n,
        ..PLAIN
    },
    Method {
        name: "rk3",
        about: "Heun's third-order method",
        source: "Heun 1900",
        sample: runge_kutta::rk3,
        order: Some(3),
        evaluations: |n| 3 * n,
        ..PLAIN
    },
    Method {
        name: "rk4",
        about: "the classical Runge–Kutta method",
        source: "Kutta 1901",
        sample: runge_kutta::rk4,
        order: Some(4),
        evaluations: |n| 4 * n - 1,
        from_pure_noise: false,
        ..PLAIN
    },
    Method {
        name: "lms",
        about: "linear multistep in sigma",
        source: "k-diffusion",
        sample: linear_multistep::lms,
        options: &[(Opt::Order, 4.0)],
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "ipndm",
        about: "linear multistep with the weights of equal steps",
        source: "Zhang & Chen 2023, arXiv:2204.13902",
        sample: linear_multistep::ipndm,
        options: &[(Opt::Order, 4.0)],
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpm_1",
        about: "DPM-Solver, first order",
        source: "Lu et al. 2022, arXiv:2206.00927",
        sample: |d, x, run| multistep(d, x, run, dpm(1, Form::Noise)),
        grid: Grid::LogSnr,
        ..PLAIN
    },
    Method {
        name: "dpm_2m",
        about: "DPM-Solver, second order, multistep",
        source: "Lu et al. 2022, arXiv:2206.00927",
        sample: |d, x, run| multistep(d, x, run, dpm(2, Form::Noise)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpm_3m",
        about: "DPM-Solver, third order, multistep",
        source: "Lu et al. 2022, arXiv:2206.00927",
        sample: |d, x, run| multistep(d, x, run, dpm(3, Form::Noise)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpm_2s",
        about: "DPM-Solver, second order, singlestep",
        source: "Lu et al. 2022, arXiv:2206.00927",
        sample: |d, x, run| singlestep(d, x, run, (2, Form::Noise)),
        grid: Grid::LogSnr,
        order: Some(2),
        from_pure_noise: false,
        ..PLAIN
    },
    Method {
        name: "dpm_3s",
        about: "DPM-Solver, third order, singlestep",
        source: "Lu et al. 2022, arXiv:2206.00927",
        sample: |d, x, run| singlestep(d, x, run, (3, Form::Noise)),
        grid: Grid::LogSnr,
        order: Some(2),
        from_pure_noise: false,
        ..PLAIN
    },
    Method {
        name: "dpm_1_sde",
        about: "DPM-Solver for the reverse SDE, first order",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(1, Form::NoiseSde)),
        grid: Grid::LogSnr,
        options: &[NOISE],
        from_pure_noise: false,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpm_2m_sde",
        about: "DPM-Solver for the reverse SDE, second order, multistep",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(2, Form::NoiseSde)),
        grid: Grid::LogSnr,
        options: &[NOISE],
        from_pure_noise: false,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_1",
        about: "DPM-Solver++, first order",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(1, Form::Data)),
        grid: Grid::LogSnr,
        ..PLAIN
    },
    Method {
        name: "dpmpp_2m",
        about: "DPM-Solver++(2M), the field's usual choice for 10 to 30 steps",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(2, Form::Data)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpmpp_2m_heun",
        about: "DPM-Solver++(2M) with the other second-order correction",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, Multistep { second: Second::Heun, ..dpm(2, Form::Data) }),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpmpp_3m",
        about: "DPM-Solver++, third order, multistep",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(3, Form::Data)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpmpp_2s",
        about: "DPM-Solver++, second order, singlestep",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| singlestep(d, x, run, (2, Form::Data)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpmpp_3s",
        about: "DPM-Solver++, third order, singlestep",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| singlestep(d, x, run, (3, Form::Data)),
        grid: Grid::LogSnr,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "dpmpp_2s_sde",
        about: "DPM-Solver++(2S) for the reverse SDE",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| singlestep(d, x, run, (2, Form::Data)),
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_3s_sde",
        about: "DPM-Solver++(3S) for the reverse SDE",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| singlestep(d, x, run, (3, Form::Data)),
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_2s_ancestral",
        about: "DPM-Solver++(2S) with fresh noise each step",
        source: "k-diffusion",
        sample: exponential::dpmpp_2s_ancestral,
        options: ANCESTRAL,
        order: Some(2),
        evaluations: |n| 2 * n - 1,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_sde",
        about: "DPM-Solver++ for the reverse SDE, singlestep",
        source: "k-diffusion",
        sample: exponential::dpmpp_sde,
        options: ANCESTRAL,
        order: Some(2),
        evaluations: |n| 2 * n - 1,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_1_sde",
        about: "DPM-Solver++ for the reverse SDE, first order",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(1, Form::Data)),
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_2m_sde",
        about: "DPM-Solver++(2M) for the reverse SDE",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, dpm(2, Form::Data)),
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_2m_sde_heun",
        about: "DPM-Solver++(2M) for the reverse SDE with the other correction",
        source: "Lu et al. 2022, arXiv:2211.01095",
        sample: |d, x, run| multistep(d, x, run, Multistep { second: Second::Heun, ..dpm(2, Form::Data) }),
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "dpmpp_3m_sde",
        about: "DPM-Solver++(3M) for the reverse SDE",
        source: "k-diffusion",
        sample: |d, x, run| {
            let method = Multistep { second: Second::Heun, ending: Ending::Kept, ..dpm(3, Form::Data) };
            multistep(d, x, run, method)
        },
        grid: Grid::LogSnr,
        options: ANCESTRAL,
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "deis",
        about: "the noise as a polynomial in log-SNR, integrated exactly",
        source: "Zhang & Chen 2023, arXiv:2204.13902",
        sample: exponential::deis,
        grid: Grid::LogSnr,
        options: &[(Opt::Order, 2.0)],
        orders: 1..=3,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "unipc",
        about: "multistep with a free corrector, B(h) = e^h − 1",
        source: "Zhao et al. 2023, arXiv:2302.04867",
        sample: |d, x, run| unipc(d, x, run, Bh::Two),
        grid: Grid::LogSnr,
        options: &[(Opt::Order, 2.0)],
        orders: 1..=3,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "unipc_bh1",
        about: "multistep with a free corrector, B(h) = h",
        source: "Zhao et al. 2023, arXiv:2302.04867",
        sample: |d, x, run| unipc(d, x, run, Bh::One),
        grid: Grid::LogSnr,
        options: &[(Opt::Order, 2.0)],
        orders: 1..=3,
        order: Some(2),
        ..PLAIN
    },
    Method {
        name: "sa",
        about: "SA-Solver: stochastic Adams predictor and corrector",
        source: "Xue et al. 2023, arXiv:2309.05019",
        sample: predictor_corrector::sa,
        grid: Grid::LogSnr,
        options: &[
            (Opt::Predictor, 2.0),
            (Opt::Corrector, 2.0),
            (Opt::Tau, 1.0),
            (Opt::TauMin, 0.2),
            (Opt::TauMax, 0.8),
        ],
        order: Some(2),
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "lcm",
        about: "latent consistency, 1 to 8 steps, distilled models",
        source: "Luo et al. 2023, arXiv:2310.04378",
        suits: "LCM and LCM-LoRA models",
        sample: first_order::lcm,
        grid: Grid::TimestepsToClean,
        schedule: Some("lcm"),
        order: None,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "tcd",
        about: "trajectory consistency, gamma of it fresh noise, distilled models",
        source: "Zheng et al. 2024, arXiv:2402.19159",
        suits: "TCD and Hyper-SD models, LCM models",
        sample: first_order::tcd,
        grid: Grid::Timesteps,
        schedule: Some("lcm"),
        options: &[(Opt::Gamma, 0.3), NOISE],
        order: None,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "consistency",
        about: "multistep consistency models conditioned on sigma",
        source: "Song et al. 2023, arXiv:2303.01469",
        suits: "consistency models",
        sample: first_order::consistency,
        schedule: Some("consistency"),
        options: &[NOISE],
        order: None,
        stochastic: true,
        ..PLAIN
    },
    Method {
        name: "one_step",
        about: "the estimate itself",
        source: "Sauer et al. 2023, arXiv:2311.17042",
        suits: "SD-Turbo, SDXS and other models distilled to one step",
        sample: first_order::one_step,
        schedule: Some("trailing"),
        steps: Steps::One,
        order: None,
        ..PLAIN
    },
    Method {
        name: "dpm_adaptive",
        about: "DPM-Solver-12 or -23 with steps as long as the tolerance allows",
        source: "Lu et al. 2022, arXiv:2206.00927; k-diffusion",
        sample: adaptive::dpm_adaptive,
        steps: Steps::Adaptive,
        options: DPM_ADAPTIVE,
        orders: 2..=3,
        order: Some(3),
        evaluations: |_| 0,
        ..PLAIN
    },
    Method {
        name: "rk_adaptive",
        about: "Bogacki–Shampine 3(2) in sigma with steps as long as the tolerance allows",
        source: "Bogacki & Shampine 1989; Söderlind 2003",
        sample: adaptive::rk_adaptive,
        steps: Steps::Adaptive,
        options: ADAPTIVE,
        order: Some(3),
        evaluations: |_| 0,
        ..PLAIN
    },
];

const fn dpm(order: usize, form: Form) -> Multistep {
    Multistep { order, form, second: Second::Midpoint, ending: Ending::Lowered }
}
