//! The order in which images are made, and when it is enough: warm-up, headline pass, second pass.

use super::report::{Detailed, Images, OutputHash, Protocol, Scenario};
use super::{Executor, Look, Made, requests};
use crate::cancel::Cancel;
use crate::{Error, ErrorKind};

/// What of a case is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Images that do not count.
    WarmUp {
        /// How many are made.
        done: usize,
    },
    /// The headline pass.
    Headline {
        /// How many images are made.
        done: usize,
        /// How many there are to be, as far as it is known.
        of: usize,
        /// How many seconds it is still expected to take.
        seconds_left: f64,
    },
    /// The second pass, which looks at stages and steps.
    Detailed {
        /// How many images are made.
        done: usize,
        /// Of how many.
        of: usize,
    },
}

/// Images of one case, and how they ended.
#[derive(Debug, Default)]
pub struct Passes {
    /// Milliseconds of each image before those that count.
    pub warm_up_ms: Vec<f64>,
    /// Whether the last two of them took about as long.
    pub is_warm: bool,
    /// The headline pass.
    pub images: Images,
    /// The second pass.
    pub detailed: Vec<Detailed>,
    /// What ended it before its time; what was made until then is kept.
    pub error: Option<Error>,
}

/// What is done around the headline pass: sensors are read, other processes watched.
pub trait Around {
    /// The headline pass begins.
    fn begin(&mut self);

    /// It has ended.
    fn end(&mut self);
}

/// Most images that a headline pass of few seconds each keeps: a bound on memory and on the report's size.
pub const MOST_IMAGES: usize = 100_000;

/// Least images that a median stands on (MLPerf's bound for the 50th percentile at 99 % confidence is 11).
pub const LEAST_FOR_MEDIAN: usize = 11;

/// Seconds after which the second pass and the warm-up of slow devices end with few images.
const MOST_SECONDS_BESIDE: f64 = 60.0;

/// How often images are told of: an interruption is noticed as late, and as many are lost where one fails.
const BLOCK_SECONDS: f64 = 0.25;

/// Most images that are made before they are told of.
const MOST_IN_BLOCK: usize = 16;

/// Least images of the second pass on slow devices.
const LEAST_DETAILED: usize = 5;

impl Protocol {
    /// What is usual for a scenario.
    pub fn usual(scenario: Scenario) -> Self {
        let usual = Self {
            requests: requests::COUNT,
            requests_sha256: requests::sha256(),
            cold_processes: 3,
            warm_up_images: [3, 20],
            warm_up_tolerance: 0.05,
            least_images: 64,
            least_seconds: 60.0,
            most_seconds: 600.0,
            detailed_images: 20,
            compared_pictures: 4,
            readings_per_second: 10.0,
            most_contention: 0.05,
            most_drift: 0.05,
            start_celsius: None,
        };
        match scenario {
            Scenario::SingleStream | Scenario::Offline => usual,
            Scenario::Cold => Self { least_images: LEAST_FOR_MEDIAN, least_seconds: 0.0, ..usual },
            Scenario::Sustained => Self { least_seconds: 600.0, ..usual },
        }
    }

    /// The same with headline passes of so many seconds.
    pub fn lasting(self, seconds: f64) -> Self {
        Self { least_seconds: seconds, most_seconds: seconds, ..self }
    }

    /// The same for a first look: as few images as a median needs, one fresh process, one compared picture.
    pub fn quick(self) -> Self {
        let (least_images, detailed_images) = (LEAST_FOR_MEDIAN, LEAST_DETAILED);
        Self { cold_processes: 1, least_images, least_seconds: 0.0, detailed_images, compared_pictures: 1, ..self }
    }

    /// Whether a headline pass is long enough after `seconds` and `images`.
    fn is_enough(&self, images: usize, seconds: f64) -> bool {
        let full = images >= self.least_images && seconds >= self.least_seconds;
        let slow = images >= LEAST_FOR_MEDIAN.min(self.least_images) && seconds >= self.most_seconds;
        full || slow || images >= MOST_IMAGES
    }

    /// Seconds that a headline pass is still expected to take.
    fn seconds_left(&self, images: usize, seconds: f64) -> f64 {
        let each = seconds / images.max(1) as f64;
        let full = (self.least_seconds - seconds).max(self.least_images.saturating_sub(images) as f64 * each);
        let few = LEAST_FOR_MEDIAN.min(self.least_images).saturating_sub(images) as f64 * each;
        full.min((self.most_seconds - seconds).max(few)).max(0.0)
    }
}

/// Makes the images of a case: first those that do not count, then the headline pass, then the second pass.
///
/// The executor's clock is the only one. Whatever ends it early is kept in [`Passes::error`], with all that was made.
pub fn run(
    executor: &mut dyn Executor,
    protocol: &Protocol,
    around: &mut dyn Around,
    (cancel, tell): (&Cancel, &mut dyn FnMut(Phase)),
) -> Passes {
    let mut passes = Passes::default();
    let mut course = Course { executor, protocol, cancel, tell, next: 0 };
    let done = course.warm_up(&mut passes).and_then(|()| {
        around.begin();
        let done = course.headline(&mut passes.images, passes.warm_up_ms.last().copied());
        around.end();
        done?;
        course.detailed(&mut passes.detailed)
    });
    passes.error = done.err();
    passes
}

struct Course<'a> {
    executor: &'a mut dyn Executor,
    protocol: &'a Protocol,
    cancel: &'a Cancel,
    tell: &'a mut dyn FnMut(Phase),
    /// The request that is next.
    next: usize,
}

impl Course<'_> {
    fn warm_up(&mut self, passes: &mut Passes) -> crate::Result<()> {
        let [least, most] = self.protocol.warm_up_images;
        let start = self.executor.seconds();
        while passes.warm_up_ms.len() < most {
            (self.tell)(Phase::WarmUp { done: passes.warm_up_ms.len() });
            passes.warm_up_ms.push(self.make(Look::Image)?.ms);
            passes.is_warm = is_warm(&passes.warm_up_ms, self.protocol.warm_up_tolerance);
            let enough = passes.warm_up_ms.len() >= least;
            if enough && (passes.is_warm || self.executor.seconds() - start > MOST_SECONDS_BESIDE) {
                break;
            }
        }
        Ok(())
    }

    fn headline(&mut self, images: &mut Images, last_ms: Option<f64>) -> crate::Result<()> {
        // Every run begins with the same request, however long the warm-up was.
        self.next = 0;
        let protocol = self.protocol;
        let (mut start, mut elapsed, mut last_ms) = (None, 0.0, last_ms.unwrap_or(f64::INFINITY));
        while !protocol.is_enough(images.ms.len(), elapsed) {
            self.cancel.check()?;
            let count = block(last_ms, protocol.least_images.saturating_sub(images.ms.len()));
            let requests: Vec<_> = (self.next..self.next + count).map(|request| request % requests::COUNT).collect();
            self.next += count;
            let made = self.executor.make_each(&requests, Look::Image).inspect_err(|e| {
                images.non_finite += usize::from(e.kind() == ErrorKind::Numeric);
            })?;
            for (request, made) in requests.into_iter().zip(made) {
                let begun_s = made.begun_s - *start.get_or_insert(made.begun_s);
                images.start_s.push((begun_s * 1e6).round() / 1e6);
                images.ms.push(made.ms);
                note(&mut images.outputs, request, made.sha256);
                (elapsed, last_ms) = (begun_s + made.ms / 1000.0, made.ms);
            }
            let (done, seconds_left) = (images.ms.len(), protocol.seconds_left(images.ms.len(), elapsed));
            let of = done + (seconds_left / elapsed * done as f64).ceil() as usize;
            (self.tell)(Phase::Headline { done, of: of.max(done), seconds_left });
        }
        Ok(())
    }

    fn detailed(&mut self, detailed: &mut Vec<Detailed>) -> crate::Result<()> {
        let (start, of) = (self.executor.seconds(), self.protocol.detailed_images);
        while detailed.len() < of {
            (self.tell)(Phase::Detailed { done: detailed.len(), of });
            detailed.extend(self.make(Look::StagesAndSteps)?.detailed);
            let slow = self.executor.seconds() - start > MOST_SECONDS_BESIDE;
            if slow && detailed.len() >= LEAST_DETAILED.min(of) {
                break;
            }
        }
        Ok(())
    }

    fn make(&mut self, look: Look) -> crate::Result<Made> {
        self.cancel.check()?;
        let made = self.executor.make(self.next % requests::COUNT, look);
        self.next += 1;
        made
    }
}

/// Images that are made before the next is told of: telling wakes this process, which takes time from what is measured.
/// While a number of images is still to be made, no more than those.
fn block(last_ms: f64, missing: usize) -> usize {
    let most = (1000.0 * BLOCK_SECONDS / last_ms) as usize;
    most.min(MOST_IN_BLOCK).min(if missing > 0 { missing } else { usize::MAX }).max(1)
}

/// Whether the last two images took about as long.
fn is_warm(ms: &[f64], tolerance: f64) -> bool {
    let [.., before, last] = ms else { return false };
    (last - before).abs() <= tolerance * before
}

/// Counts what came out of a request.
fn note(outputs: &mut Vec<OutputHash>, request: usize, sha256: String) {
    match outputs.iter_mut().find(|output| output.request == request && output.sha256 == sha256) {
        Some(output) => output.count += 1,
        None => outputs.push(OutputHash { request, sha256, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mock::Mock;

    /// Counts how often a headline pass began and ended.
    #[derive(Default)]
    struct Counted(usize, usize);

    impl Around for Counted {
        fn begin(&mut self) {
            self.0 += 1;
        }

        fn end(&mut self) {
            self.1 += 1;
        }
    }

    fn run_with(mock: &mut dyn Executor, protocol: &Protocol) -> (Passes, Vec<Phase>) {
        let (mut phases, mut around) = (Vec::new(), Counted::default());
        let passes = run(mock, protocol, &mut around, (&Cancel::new(), &mut |phase| phases.push(phase)));
        assert_eq!((around.0, around.1), if phases.iter().any(is_headline) { (1, 1) } else { (around.0, around.0) });
        (passes, phases)
    }

    fn is_headline(phase: &Phase) -> bool {
        matches!(phase, Phase::Headline { .. })
    }

    /// How long an image takes → images of warm-up, headline and second pass, and seconds of the headline.
    #[test]
    fn a_pass_lasts_as_long_as_its_numbers_need() {
        let single = Protocol::usual(Scenario::SingleStream);
        let cases = [
            // Fast: the minute decides.
            (100.0, single.clone(), (3, 600, 20)),
            // A second each: 64 images decide.
            (1_000.0, single.clone(), (3, 64, 20)),
            // 20 s each: ten minutes decide; of the second pass, least images after a minute.
            (20_000.0, single.clone(), (3, 30, 5)),
            // 100 s each: a median needs eleven.
            (100_000.0, single.clone(), (3, 11, 5)),
            (1_000.0, single.clone().lasting(30.0), (3, 30, 20)),
            (1_000.0, Protocol::usual(Scenario::Sustained), (3, 600, 20)),
            (1_000.0, Protocol::usual(Scenario::Cold), (3, 11, 20)),
            (10.0, Protocol { least_images: 2, least_seconds: 0.0, ..single.clone() }, (3, 2, 20)),
        ];
        for (ms, protocol, expected) in cases {
            let (passes, _) = run_with(&mut Mock::new(|_| ms), &protocol);
            assert!(passes.error.is_none(), "{ms}");
            let counts = (passes.warm_up_ms.len(), passes.images.ms.len(), passes.detailed.len());
            // The block in which it is enough is made to its end.
            let over = counts.1.abs_diff(expected.1);
            assert!(over <= block(ms, 0), "{ms}: {counts:?}, expected {expected:?}");
            assert_eq!((counts.0, counts.2), (expected.0, expected.2), "{ms}");
        }
    }

    #[test]
    fn warm_up_ends_when_two_images_in_a_row_take_as_long() {
        let protocol = Protocol { least_seconds: 0.0, ..Protocol::usual(Scenario::SingleStream) };
        // 1,600 ms, and half as much again each time, down to 100 ms.
        let (passes, _) = run_with(&mut Mock::new(|i| (1_600.0 / f64::from(1 << i.min(4))).max(100.0)), &protocol);
        assert_eq!(passes.warm_up_ms, [1_600.0, 800.0, 400.0, 200.0, 100.0, 100.0]);
        assert!(passes.is_warm);
        // It never settles: it is told, and measured nevertheless.
        let (passes, _) = run_with(&mut Mock::new(|i| if i % 2 == 0 { 100.0 } else { 150.0 }), &protocol);
        assert_eq!((passes.warm_up_ms.len(), passes.is_warm, passes.images.ms.len()), (20, false, 64));
    }

    #[test]
    fn the_headline_pass_looks_at_whole_images_and_begins_with_the_first_request() {
        let mut mock = Mock::new(|_| 1_000.0);
        let (passes, phases) = run_with(&mut mock, &Protocol::usual(Scenario::SingleStream));
        let looks: Vec<_> = mock.made.iter().map(|(_, look)| *look).collect();
        assert!(looks[..67].iter().all(|look| *look == Look::Image));
        assert!(looks[67..].iter().all(|look| *look == Look::StagesAndSteps));
        let requests: Vec<_> = mock.made[3..67].iter().map(|(request, _)| *request).collect();
        assert_eq!(requests, (0..64).map(|i| i % requests::COUNT).collect::<Vec<_>>());
        let starts = &passes.images.start_s;
        assert!((starts[0], starts[63]) == (0.0, 63.0), "{starts:?}");
        let counts: Vec<_> = passes.images.outputs.iter().map(|output| (output.request, output.count)).collect();
        assert_eq!(counts[..2], [(0, 4), (1, 4)]);
        assert_eq!((counts.len(), counts[19]), (requests::COUNT, (19, 3)));
        let left = phases.iter().filter_map(|phase| match phase {
            Phase::Headline { done, seconds_left, .. } => Some((*done, seconds_left.round() as usize)),
            _ => None,
        });
        assert_eq!(left.collect::<Vec<_>>(), (1..=64).map(|done| (done, 64 - done)).collect::<Vec<_>>());
    }

    #[test]
    fn what_an_interruption_leaves_is_kept() {
        let (cancel, mut mock) = (Cancel::new(), Mock::new(|_| 1_000.0));
        let mut stop = |phase: Phase| {
            if matches!(phase, Phase::Headline { done: 7, .. }) {
                cancel.cancel();
            }
        };
        let mut around = Counted::default();
        let protocol = Protocol::usual(Scenario::SingleStream);
        let passes = run(&mut mock, &protocol, &mut around, (&cancel, &mut stop));
        assert_eq!(passes.error.map(|e| e.kind()), Some(ErrorKind::Cancelled));
        assert_eq!((passes.images.ms.len(), passes.detailed.len(), around.0, around.1), (7, 0, 1, 1));
    }

    #[test]
    fn numbers_that_are_not_finite_end_a_case_and_are_counted() {
        let mut mock = Mock::new(|_| 1_000.0);
        mock.fault = Some((5, ErrorKind::Numeric));
        let (passes, _) = run_with(&mut mock, &Protocol::usual(Scenario::SingleStream));
        assert_eq!((passes.images.ms.len(), passes.images.non_finite), (2, 1));
        assert_eq!(passes.error.map(|e| e.to_string()), Some("the mock fails".to_owned()));
    }
}
