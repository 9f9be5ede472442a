//! A step allocates nothing that could be allocated before it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use safelight::{Model, Pipeline, Request, Sampling, Target};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn during(pipeline: &mut Pipeline, steps: usize, sampler: &str) -> (usize, usize) {
    let request = Request {
        prompt: "a red apple".into(),
        sampling: Sampling {
            steps: Some(steps),
            sampler: Some(sampler.into()),
            schedule: Some("trailing".into()),
            ..Sampling::default()
        },
        ..Request::default()
    };
    pipeline.generate(&request).unwrap();
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    pipeline.generate(&request).unwrap();
    (ALLOCATIONS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

#[test]
fn steps_allocate_no_tensors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap().with_threads(1);
    let model = Model::open(&root.join("models/emoji")).unwrap();
    let mut pipeline = Pipeline::open(&target, &model).unwrap();
    let latent_bytes = 24 * 8 * 8 * 4;
    for sampler in ["lcm", "ddim", "euler"] {
        let (few, few_bytes) = during(&mut pipeline, 2, sampler);
        let (many, many_bytes) = during(&mut pipeline, 8, sampler);
        let (a_step, bytes_a_step) = ((many - few) as f64 / 6.0, (many_bytes - few_bytes) as f64 / 6.0);
        println!("{sampler}: {a_step} allocations of {bytes_a_step} bytes a step");
        // What is left are a few small ones of the binding, which names inputs and wraps the output anew.
        assert!(bytes_a_step < latent_bytes as f64 / 4.0, "{sampler}: {bytes_a_step} bytes a step");
        assert!(a_step < 12.0, "{sampler}: {a_step} allocations a step");
    }
}
