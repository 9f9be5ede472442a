//! Image-to-image over camera frames: the newest frame wins, and every picture tells how old its frame is.
//!
//! ```sh
//! cargo run --example camera                   # frames that are drawn: a fruit that ripens
//! cargo run --example camera -- out/ frames/   # frames that are pictures of a folder, in the order of their names
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use safelight::image::{Rgb, RgbImage};
use safelight::{Error, ErrorKind, Format, InputPicture, Model, Pipeline, Request, Result, Sampling, Target, save};

/// Time between two frames of the camera.
const INTERVAL: Duration = Duration::from_millis(33);
const FRAMES: usize = 24;

struct Frame {
    number: usize,
    taken: Instant,
    picture: InputPicture,
}

/// Room for one frame, or for why there is none. A newer one takes the place of the one that nobody has fetched: a queue
/// would only make every picture later and later.
#[derive(Default)]
struct Newest(Mutex<Option<Result<Frame>>>, Condvar);

impl Newest {
    fn put(&self, frame: Result<Frame>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
        self.1.notify_one();
    }

    fn take(&self) -> Result<Frame> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match place.take() {
                Some(frame) => return frame,
                None => place = self.1.wait(place).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Stands for a camera's driver: frame `number`, read from a file or drawn.
fn capture(number: usize, files: &[PathBuf], target: &Target) -> Result<InputPicture> {
    if !files.is_empty() {
        return InputPicture::open(&files[number % files.len()], &target.limits);
    }
    let ripe = (255 * number / FRAMES) as u8;
    let is_fruit = |x: u32, y: u32| (f64::from(x) - 64.0).hypot(f64::from(y) - 70.0) < 48.0;
    let colour = |x, y| if is_fruit(x, y) { Rgb([ripe, 200 - ripe / 2, 40]) } else { Rgb([255; 3]) };
    Ok(RgbImage::from_fn(128, 128, colour).into())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (out, folder) = (arguments.next().unwrap_or("camera".into()), arguments.next());
    let cannot = |e: std::io::Error| Error::new(ErrorKind::Io, e.to_string());
    std::fs::create_dir_all(&out).map_err(cannot)?;
    let mut files = Vec::new();
    if let Some(folder) = folder {
        let listed = std::fs::read_dir(folder).map_err(cannot)?;
        files = listed.map(|file| Ok(file.map_err(cannot)?.path())).collect::<Result<_>>()?;
        files.sort();
    }

    let target = Target::open(Path::new("targets/generic-cpu.yaml"))?;
    let mut request = Request {
        prompt: "an apple".into(),
        // One seed for all frames: what does not move in front of the camera does not flicker.
        seed: 7,
        sampling: Sampling { strength: Some(0.5), ..Sampling::in_steps(4) },
        image: Some(Arc::new(capture(0, &files, &target)?)),
        ..Request::default()
    };
    // Opened for such requests, so that the encoder is there before the first frame.
    let mut pipeline = Pipeline::open_for(&target, &Model::open(Path::new("models/emoji"))?, &request)?;

    let newest = Newest::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FRAMES {
                let taken = Instant::now();
                newest.put(capture(number, &files, &target).map(|picture| Frame { number, taken, picture }));
                std::thread::sleep(INTERVAL);
            }
        });
        let mut next = 0;
        while next < FRAMES {
            let Frame { number, taken, picture } = newest.take()?;
            let dropped = number - next;
            next = number + 1;
            request.image = Some(Arc::new(picture));
            for picture in pipeline.generate(&request)?.pictures {
                let milliseconds = taken.elapsed().as_secs_f64() * 1000.0;
                println!("frame {number}: its picture is {milliseconds:.0} ms late, {dropped} dropped before it");
                save(&out.join(format!("frame-{number:04}.png")), &picture.encode(Format::Png)?)?;
            }
        }
        Ok(())
    })
}
