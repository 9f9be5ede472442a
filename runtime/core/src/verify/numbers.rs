//! The numbers of one picture: read from a golden, or recorded while a pipeline makes it.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;
use ndarray::{Array, Array3, Array4, Axis, Dimension, Ix4, Ix5};
use ndarray_npy::{NpzReader, ReadableElement};

use crate::guard::{all_finite, is_constant};
use crate::model::{Golden, Model};
use crate::pipeline::{Event, Observer, Pipeline};
use crate::request::Request;
use crate::sampler::Latent;
use crate::{Error, ErrorKind, Result};

/// The numbers of one picture, from its noise to its pixels.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// The noise that it began with, before any scaling, `[1, channels, height, width]`.
    pub noise: Latent,
    /// The denoised estimate of each step, of the same shape.
    pub estimates: Vec<Latent>,
    /// The latent that was decoded, `[channels, height, width]`.
    pub latent: Array3<f32>,
    /// The picture.
    pub pixels: RgbImage,
}

impl Numbers {
    /// Reads a golden, once its hash and the sizes of all that it holds are what they should be.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the file: it cannot be read, its hash differs from the manifest's, it is no
    /// uncompressed NumPy archive, an array is missing or has another type or shape than this model's, or holds
    /// NaN or nothing but one number.
    pub fn read(golden: &Golden, model: &Model) -> Result<Self> {
        let bytes = golden.numbers.read()?;
        read(&bytes, &Shapes::of(golden, model)).map_err(|e| e.context(golden.numbers.path.display()))
    }

    /// Makes the one picture of a request, writing down its numbers; also returns what was told as warnings. The
    /// pipeline's observer is told as ever.
    ///
    /// # Errors
    /// As [`Pipeline::generate`]; [`ErrorKind::Usage`] for a request of several pictures.
    pub fn record(pipeline: &mut Pipeline, request: &Request) -> Result<(Self, Vec<String>)> {
        if request.count != 1 {
            let told = format!("a comparison of {} pictures, expected a request of one", request.count);
            return Err(Error::new(ErrorKind::Usage, told));
        }
        let usual = pipeline.replace_observer(Box::new(|_| ()));
        let recorder = Arc::new(Mutex::new(Recorder { usual, latents: Vec::new() }));
        let sink = Arc::clone(&recorder);
        pipeline.on_event(move |event| sink.lock().unwrap_or_else(PoisonError::into_inner).hear(event));
        let made = pipeline.generate(request);
        // The observer is dropped here, so that the recorder is this function's alone.
        drop(pipeline.replace_observer(Box::new(|_| ())));
        let unshared = Arc::into_inner(recorder).expect("the only other reference was the observer's");
        let Recorder { usual, latents } = unshared.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(pipeline.replace_observer(usual));
        let mut made = made?;
        let (mut latents, picture) = (latents.into_iter(), made.pictures.pop());
        let (Some(noise), Some(picture)) = (latents.next(), picture) else {
            return Err(Error::new(ErrorKind::Internal, "a generation told no noise or made no picture"));
        };
        let numbers = Self { noise, estimates: latents.collect(), latent: picture.latent, pixels: picture.pixels };
        Ok((numbers, made.warnings))
    }

    /// Checks that `found` can be compared with these number by number.
    pub(super) fn check_alike(&self, found: &Self) -> Result<()> {
        let (steps, taken) = (self.estimates.len(), found.estimates.len());
        if steps != taken {
            return Err(Error::model(format!("{taken} steps were taken, but numbers of {steps} are known")));
        }
        let shapes = |of: &Self| (of.noise.dim(), of.latent.dim(), of.pixels.dimensions());
        let (expected, found) = (shapes(self), shapes(found));
        if expected != found {
            return Err(Error::model(format!(
                "noise, latent and picture are {found:?}, but numbers of {expected:?} are known"
            )));
        }
        Ok(())
    }
}

/// Hears what a pipeline tells, and passes it on.
struct Recorder {
    usual: Observer,
    /// Noise, then the estimate of each step.
    latents: Vec<Latent>,
}

impl Recorder {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Noise { latent, .. } => self.latents.push((*latent).clone()),
            Event::Step { denoised, .. } => self.latents.push((*denoised).clone()),
            _ => (),
        }
        (self.usual)(event);
    }
}

/// What a golden's arrays must be.
struct Shapes {
    latent: [usize; 4],
    steps: [usize; 5],
    picture: [usize; 4],
}

impl Shapes {
    fn of(golden: &Golden, model: &Model) -> Self {
        let (width, height) = (model.picture.width, model.picture.height);
        let (channels, downscale) = (model.latent.channels, model.latent.downscale);
        let latent = [1, channels, height / downscale, width / downscale];
        let [batch, channels, rows, columns] = latent;
        Self { latent, steps: [golden.steps, batch, channels, rows, columns], picture: [1, height, width, 3] }
    }

    /// The descriptions that NumPy writes before such arrays, without their spaces.
    fn headers(&self) -> [String; 3] {
        let header = |element: &str, shape: &[usize]| {
            let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
            format!("{{'descr':'{element}','fortran_order':False,'shape':({})}}", sizes.join(","))
        };
        [header("<f4", &self.latent), header("<f4", &self.steps), header("|u1", &self.picture)]
    }
}

fn read(bytes: &[u8], shapes: &Shapes) -> Result<Numbers> {
    check_headers(bytes, &shapes.headers())?;
    let mut archive = NpzReader::new(Cursor::new(bytes)).map_err(|e| Error::model(format!("{NOT_NPZ}: {e}")))?;
    let noise: Array4<f32> = array::<_, Ix4>(&mut archive, "initial", &shapes.latent)?;
    let steps: Array<f32, Ix5> = array(&mut archive, "steps", &shapes.steps)?;
    let latents: Array4<f32> = array::<_, Ix4>(&mut archive, "latents", &shapes.latent)?;
    let images: Array4<u8> = array::<_, Ix4>(&mut archive, "images", &shapes.picture)?;
    let estimates: Vec<_> = steps.axis_iter(Axis(0)).map(|step| step.to_owned()).collect();
    for (name, numbers) in [("initial", &noise), ("latents", &latents)] {
        check_numbers(name, numbers)?;
    }
    estimates.iter().try_for_each(|step| check_numbers("steps", step))?;
    let [_, height, width, _] = shapes.picture;
    let pixels = RgbImage::from_raw(width as u32, height as u32, images.into_iter().collect());
    let pixels = pixels.ok_or_else(|| Error::new(ErrorKind::Internal, "a golden's bytes do not match its size"))?;
    Ok(Numbers { noise, estimates, latent: latents.remove_axis(Axis(0)), pixels })
}

const NOT_NPZ: &str = "is not an uncompressed NumPy archive, as numpy.savez writes it";

/// Checks the description of every array before the reader sees it: the reader would make room for whatever they
/// promise, and follow their brackets as deep as they go. Uncompressed, they stand in the file as they are.
fn check_headers(bytes: &[u8], expected: &[String]) -> Result<()> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let starts = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    let mut found = 0;
    for (start, _) in starts {
        let told = header(&bytes[start + MAGIC.len()..]);
        let told = told.ok_or_else(|| Error::model("an array is cut short or not of NumPy's format 1.0"))?;
        if !expected.contains(&told) {
            return Err(Error::model(format!(
                "holds an array of {}, but this model's golden has {}",
                told.chars().take(200).collect::<String>(),
                expected.join(", ")
            )));
        }
        found += 1;
    }
    if found == 0 { Err(Error::model(NOT_NPZ)) } else { Ok(()) }
}

/// The description that follows NumPy's magic bytes: version, its length in two bytes, itself. Spaces and the comma
/// that not all writers put at its end are left out.
fn header(bytes: &[u8]) -> Option<String> {
    let [1, 0, low, high, rest @ ..] = bytes else { return None };
    let text = rest.get(..usize::from(u16::from_le_bytes([*low, *high])))?;
    let text = text.strip_suffix(b"\n")?.iter().filter(|byte| **byte != b' ');
    let text: String = text.map(|&byte| char::from(byte)).collect();
    Some(text.replace(",}", "}"))
}

fn array<T: ReadableElement, D: Dimension>(
    archive: &mut NpzReader<Cursor<&[u8]>>,
    name: &str,
    shape: &[usize],
) -> Result<Array<T, D>> {
    let array: Array<T, D> =
        archive.by_name(name).map_err(|e| Error::model(format!("array \"{name}\" cannot be read: {e}")))?;
    if array.shape() != shape {
        return Err(Error::model(format!("array \"{name}\" is {:?}, expected {shape:?}", array.shape())));
    }
    Ok(array)
}

/// A golden that is itself broken would make every device look wrong, or right.
fn check_numbers(name: &str, numbers: &Latent) -> Result<()> {
    let numbers: Vec<f32> = numbers.iter().copied().collect();
    if all_finite(&numbers) && !is_constant(&numbers) {
        return Ok(());
    }
    Err(Error::model(format!("array \"{name}\" holds NaN, infinite numbers or nothing but one number")))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayD, IxDyn};
    use ndarray_npy::NpzWriter;

    use super::*;

    const SHAPES: Shapes = Shapes { latent: [1, 2, 2, 2], steps: [3, 1, 2, 2, 2], picture: [1, 4, 4, 3] };

    fn ramp(shape: &[usize]) -> ArrayD<f32> {
        Array::from_iter((0..shape.iter().product()).map(|i: usize| i as f32)).into_shape_with_order(shape).unwrap()
    }

    /// An archive of these arrays and a picture; not all of them are needed in every test.
    fn archive(arrays: &[(&str, ArrayD<f32>)]) -> Vec<u8> {
        let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
        for (name, array) in arrays {
            writer.add_array(*name, array).unwrap();
        }
        writer.add_array("images", &Array4::<u8>::from_elem(SHAPES.picture, 9)).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn whole() -> [(&'static str, ArrayD<f32>); 3] {
        let (latent, steps) = (ramp(&SHAPES.latent), ramp(&SHAPES.steps));
        [("initial", latent.clone()), ("steps", steps), ("latents", latent)]
    }

    #[track_caller]
    fn refused(bytes: &[u8], telling: &str) {
        let error = read(bytes, &SHAPES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains(telling), "{telling}: {error}");
    }

    #[test]
    fn an_archive_becomes_numbers() {
        let numbers = read(&archive(&whole()), &SHAPES).unwrap();
        assert_eq!(numbers.noise.dim(), (1, 2, 2, 2));
        assert_eq!((numbers.estimates.len(), numbers.estimates[2][[0, 1, 1, 1]]), (3, 23.0));
        assert_eq!(numbers.latent.dim(), (2, 2, 2));
        assert_eq!((numbers.pixels.dimensions(), numbers.pixels.as_raw()[0]), ((4, 4), 9));
    }

    #[test]
    fn what_is_no_golden_of_the_model_is_refused() {
        let with = |index: usize, array| {
            let mut arrays = whole();
            arrays[index].1 = array;
            archive(&arrays)
        };
        let latent = ramp(&SHAPES.latent);
        let nan = latent.mapv(|x| if x == 3.0 { f32::NAN } else { x });
        refused(b"", "is not an uncompressed NumPy archive");
        refused(b"PK\x03\x04 and so on", "is not an uncompressed NumPy archive");
        refused(&archive(&whole()[..2]), "array \"latents\" cannot be read");
        refused(
            &with(0, ramp(&[1, 2, 2, 3])),
            "holds an array of {'descr':'<f4','fortran_order':False,'shape':(1,2,2,3)}",
        );
        refused(&with(0, ramp(&SHAPES.steps)), "array \"initial\" cannot be read");
        refused(
            &with(1, ArrayD::zeros(IxDyn(&SHAPES.steps))),
            "array \"steps\" holds NaN, infinite numbers or nothing",
        );
        refused(&with(2, nan), "array \"latents\" holds NaN");
    }

    #[test]
    fn damaged_archives_are_refused() {
        let good = archive(&whole());
        for length in [100, good.len() / 2, good.len() - 10] {
            assert_eq!(read(&good[..length], &SHAPES).unwrap_err().kind(), ErrorKind::Model, "{length}");
        }
        let mut flipped = good.clone();
        let data = good.windows(4).position(|bytes| bytes == 7.0_f32.to_le_bytes()).unwrap();
        flipped[data] ^= 1;
        refused(&flipped, "cannot be read");
    }

    /// Headers that promise terabytes or nest their brackets deeper than a stack is: none reaches the reader.
    #[test]
    fn no_header_costs_memory_or_stack() {
        let good = archive(&whole());
        let start = good.windows(6).position(|bytes| bytes == b"\x93NUMPY").unwrap();
        let header = |text: &str| {
            let mut bytes = good.clone();
            bytes[start + 10..start + 10 + text.len()].copy_from_slice(text.as_bytes());
            bytes
        };
        refused(
            &header("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9999999, 9999999), }"),
            "holds an array of",
        );
        refused(&header(&"(".repeat(64)), "holds an array of ((((");
        let mut format = good.clone();
        format[start + 6] = 2;
        refused(&format, "not of NumPy's format 1.0");
        let mut long = good.clone();
        long[start + 8..start + 10].copy_from_slice(&[255, 255]);
        refused(&long, "cut short or not of NumPy's format");
        let mut two = NpzWriter::new(Cursor::new(Vec::new()));
        two.add_array("initial", &Array2::<f64>::zeros((2, 2))).unwrap();
        refused(&two.finish().unwrap().into_inner(), "holds an array of {'descr':'<f8'");
    }
}
