//! Generation on a worker thread, progress and pictures through a channel to the thread that draws, and a cancel button.
//!
//! No toolkit is needed to show it: this "window" is the terminal. In a real one, `draw` is what the toolkit calls a
//! redraw, and `Worker::ask` and `Cancel::cancel` are what its buttons do.
//!
//! ```sh
//! cargo run --example gui_progress            # writes what was drawn into window/
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use safelight::image::RgbImage;
use safelight::{
    Cancel, Error, ErrorKind, Event, Format, Model, Output, Pipeline, Request, Result, Sampling, Target, save,
};

/// What the worker tells the window.
enum Message {
    Progress { step: usize, steps: usize },
    Preview(RgbImage),
    Finished(Box<Result<Output>>),
}

/// The thread that owns the pipeline: the models are opened there, too, so that the window is there at once.
struct Worker {
    requests: Sender<Request>,
    messages: Receiver<Message>,
}

impl Worker {
    fn start(target: PathBuf, model: PathBuf) -> Self {
        let ((requests, asked), (tell, messages)) = (mpsc::channel::<Request>(), mpsc::channel());
        std::thread::spawn(move || {
            let opened = Target::open(&target).and_then(|target| Pipeline::open(&target, &Model::open(&model)?));
            let mut pipeline = match opened {
                Ok(pipeline) => pipeline,
                // A window that has been closed does not listen any more, here and below.
                Err(error) => return drop(tell.send(Message::Finished(Box::new(Err(error))))),
            };
            let progress = tell.clone();
            pipeline.on_event(move |event| {
                let message = match *event {
                    Event::Step { step, steps: Some(steps), .. } => Message::Progress { step: step + 1, steps },
                    Event::Preview { pixels, .. } => Message::Preview(pixels.clone()),
                    _ => return,
                };
                let _ = progress.send(message);
            });
            // Ends when the window drops its end.
            for request in asked {
                let _ = tell.send(Message::Finished(Box::new(pipeline.generate(&request))));
            }
        });
        Self { requests, messages }
    }

    /// Asks for a picture and returns at once with what the cancel button needs.
    fn ask(&self, prompt: &str, steps: usize) -> Cancel {
        let request = Request {
            prompt: prompt.into(),
            seed: 7,
            sampling: Sampling::in_steps(steps),
            preview_every: 2,
            ..Request::default()
        };
        let cancel = request.cancel.clone();
        let _ = self.requests.send(request);
        cancel
    }
}

/// The window's loop until a picture is there: sixty times a second it looks whether there is something to draw. `press`
/// is asked after each step whether the user presses cancel.
fn draw(worker: &Worker, cancel: &Cancel, out: &Path, press: impl Fn(usize) -> bool) -> Result<Output> {
    loop {
        match worker.messages.recv_timeout(Duration::from_millis(16)) {
            Ok(Message::Progress { step, steps }) => {
                println!("[{}{}] step {step} of {steps}", "#".repeat(step), ".".repeat(steps - step));
                if press(step) {
                    cancel.cancel();
                }
            }
            Ok(Message::Preview(pixels)) => pixels.save(out.join("preview.png")).map_err(cannot)?,
            Ok(Message::Finished(made)) => return *made,
            Err(RecvTimeoutError::Timeout) => (), // a real window animates its spinner here
            Err(RecvTimeoutError::Disconnected) => return Err(Error::new(ErrorKind::Internal, "the worker is gone")),
        }
    }
}

fn cannot(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, error.to_string())
}

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("window".into()));
    std::fs::create_dir_all(&out).map_err(cannot)?;
    let worker = Worker::start("targets/generic-cpu.yaml".into(), "models/emoji".into());

    // Pressed after the first step of fifty: what runs is stopped between two nodes of its graph.
    let cancel = worker.ask("a red apple", 50);
    match draw(&worker, &cancel, &out, |_| true) {
        Err(error) if error.kind() == ErrorKind::Cancelled => println!("cancelled, and nothing is left of it"),
        other => return other.map(drop),
    }
    let cancel = worker.ask("a red apple", 8);
    for picture in draw(&worker, &cancel, &out, |_| false)?.pictures {
        save(Path::new(&out.join("apple.png")), &picture.encode(Format::Png)?)?;
    }
    Ok(())
}
