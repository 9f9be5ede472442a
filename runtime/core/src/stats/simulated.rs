//! Images on a machine that is shared: what intervals and verdicts are tried on.

use rand_mt::Mt;

/// What disturbs the machine.
#[derive(Clone, Copy)]
pub(super) struct Noise {
    /// Standard deviation of what it wanders, as a share.
    pub(super) wander: f64,
    /// Seconds after which it has mostly forgotten where it was.
    pub(super) memory_s: f64,
}

/// A machine that makes images of about 200 ms. Their times wander slowly (an Ornstein–Uhlenbeck process), come in bursts
/// of contention of about 7 s that slow images down by up to 10 %, vary by 3 % each, and every fiftieth has a long tail.
/// Their coefficient of variation is 5 to 7 %.
pub(super) struct Shared {
    random: Mt,
    noise: Noise,
    wandered: f64,
    in_burst: bool,
}

impl Shared {
    pub(super) fn new(seed: u32, noise: Noise) -> Self {
        let mut machine = Self { random: Mt::new(seed), noise, wandered: 0.0, in_burst: false };
        machine.wandered = noise.wander * machine.normal();
        machine
    }

    /// Milliseconds of the next image; 1.05 is the slower one of a comparison.
    pub(super) fn image(&mut self, slower: f64) -> f64 {
        self.pass(0.2 * slower);
        let switch = if self.in_burst { 0.03 } else { 0.004 };
        self.in_burst ^= self.uniform() < switch;
        let burst = if self.in_burst { 0.1 * self.uniform() } else { 0.0 };
        let tail = if self.uniform() < 0.02 { -0.2 * self.uniform().ln() } else { 0.0 };
        200.0 * slower * (self.wandered + burst + 0.03 * self.normal() + tail).exp()
    }

    /// Images in a row.
    pub(super) fn images(&mut self, count: usize, slower: f64) -> Vec<f64> {
        (0..count).map(|_| self.image(slower)).collect()
    }

    /// Time passes.
    pub(super) fn pass(&mut self, seconds: f64) {
        let kept = (-seconds / self.noise.memory_s).exp();
        self.wandered = kept * self.wandered + (1.0 - kept * kept).sqrt() * self.noise.wander * self.normal();
    }

    /// Above 0, below 1.
    pub(super) fn uniform(&mut self) -> f64 {
        (f64::from(self.random.next_u32()) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }

    /// Box & Muller 1958.
    pub(super) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
