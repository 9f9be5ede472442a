//! Large pictures through the autoencoder in tiles that overlap: less memory at once, and sizes that a graph of one size
//! could not take.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::request::Plan;
use crate::{Error, Result};

/// Whether the autoencoder works in tiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Tiling {
    /// Where its graph has one size that is smaller than the picture, or where the whole picture would take more memory
    /// than there is.
    #[default]
    Auto,
    /// Never: what is then impossible is an error.
    Off,
    /// Tiles of so many pixels each way, for every picture that is larger.
    Pixels(usize),
}

/// As a target file says it: a word or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Pixels(usize),
    Word(String),
}

impl TryFrom<Written> for Tiling {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Pixels(pixels) => Ok(Self::Pixels(pixels)),
            Written::Word(word) => word.parse(),
        }
    }
}

impl FromStr for Tiling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            pixels => pixels.parse().map(Self::Pixels).map_err(|_| {
                Error::usage(format!("tile \"{text}\": expected auto, off or the pixels of a tile, such as 512"))
            }),
        }
    }
}

impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Pixels(pixels) => write!(f, "{pixels}"),
        }
    }
}

impl From<Tiling> for String {
    fn from(tiling: Tiling) -> Self {
        tiling.to_string()
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Tiling {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tiling".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "enum": ["auto", "off"] }, { "type": "integer", "minimum": 1 }] })
    }
}

/// Latent cells of the tiles that are chosen where nobody says it: 512 pixels of Stable Diffusion, as in diffusers.
pub(crate) const USUAL_CELLS: usize = 64;

/// Cells of the smallest tile: a quarter of it overlaps.
const LEAST_CELLS: usize = 4;

impl Tiling {
    /// Latent cells of a tile each way, where that is said.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) unless they are whole, and enough.
    pub(crate) fn cells(self, downscale: usize) -> Result<Option<usize>> {
        let Self::Pixels(pixels) = self else { return Ok(None) };
        let cells = pixels / downscale;
        if !pixels.is_multiple_of(downscale) || cells < LEAST_CELLS {
            let least = LEAST_CELLS * downscale;
            return Err(Error::usage(format!(
                "tile is {pixels} pixels, expected a multiple of {downscale} from {least}"
            )));
        }
        Ok(Some(cells))
    }
}

/// How one axis is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Cells of a tile.
    pub(crate) tile: usize,
    /// Whether the graph takes no other size, so that the last tile is moved back instead of being cut off.
    pub(crate) fixed: bool,
}

impl Cut {
    /// How an axis of `size` cells is cut for a graph that takes `fixed` cells, if any will not do, where tiles of
    /// `asked` cells are asked for.
    pub(crate) fn new(size: usize, fixed: Option<usize>, asked: Option<usize>) -> Self {
        match fixed {
            Some(tile) => Self { tile, fixed: true },
            None => Self { tile: asked.unwrap_or(size).min(size), fixed: false },
        }
    }

    /// The tiles of an axis of `size` cells. Neighbours overlap by a quarter of a tile, as diffusers' do; where a graph
    /// is fixed to one size, the last two by as much as is needed.
    fn spans(self, size: usize) -> Vec<Range<usize>> {
        let stride = self.tile - self.tile / 4;
        if size <= self.tile {
            return std::iter::once(0..size).collect();
        }
        if !self.fixed {
            return (0..size).step_by(stride).map(|start| start..(start + self.tile).min(size)).collect();
        }
        let starts = (0..size - self.tile).step_by(stride).chain([size - self.tile]);
        starts.map(|start| start..start + self.tile).collect()
    }
}

/// A plane of latent cells that is worked on in tiles.
pub(crate) struct Plane {
    /// Height and width in cells.
    pub(crate) size: (usize, usize),
    pub(crate) cut: (Cut, Cut),
    /// Channels of what comes out.
    pub(crate) channels: usize,
    /// Numbers that come out for a cell, each way.
    pub(crate) scale: usize,
}

impl Plane {
    /// How the latents of a request are cut for a graph that takes `fixed` rows and columns of cells, where any will not do,
    /// and gives `channels`, `scale` numbers a cell each way.
    pub(crate) fn new(plan: &Plan, fixed: [Option<usize>; 2], (channels, scale): (usize, usize)) -> Self {
        let (_, height, width) = plan.latent;
        let fixed = if plan.tiling == Tiling::Off { [None; 2] } else { fixed };
        let cut = (Cut::new(height, fixed[0], plan.tile), Cut::new(width, fixed[1], plan.tile));
        Self { size: (height, width), cut, channels, scale }
    }

    /// Whether the graph takes tiles of one size alone.
    pub(crate) fn is_fixed(&self) -> bool {
        self.cut.0.fixed || self.cut.1.fixed
    }

    /// Has `run` make each tile, given its rows and columns in cells, and joins them to `[channels, height·scale,
    /// width·scale]`. Where two overlap, the later one is faded in linearly, downwards first: `tiled_decode` of diffusers'
    /// `AutoencoderKL`.
    pub(crate) fn tiled(
        &self,
        mut run: impl FnMut(Range<usize>, Range<usize>) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let Self { size, cut, channels, scale } = *self;
        let (rows, columns) = (cut.0.spans(size.0), cut.1.spans(size.1));
        let mut whole = Block::new(channels, size.0 * scale, size.1 * scale);
        let mut above: Vec<Option<Block>> = columns.iter().map(|_| None).collect();
        for (i, row) in rows.iter().enumerate() {
            let mut before: Option<Block> = None;
            for (j, column) in columns.iter().enumerate() {
                let (height, width) = (row.len() * scale, column.len() * scale);
                let mut tile = Block { values: run(row.clone(), column.clone())?, channels, height, width };
                if let Some(above) = above[j].take() {
                    tile.fade_down_from(&above);
                }
                if let Some(before) = &before {
                    tile.fade_right_from(before);
                }
                // What lies under the next tiles is kept as this one has it: they may overwrite it in the whole.
                above[j] = rows.get(i + 1).map(|next| tile.rows_from((next.start - row.start) * scale));
                before = columns.get(j + 1).map(|next| tile.columns_from((next.start - column.start) * scale));
                whole.place(&tile, row.start * scale, column.start * scale);
            }
        }
        Ok(whole.values)
    }

    /// How many tiles there are.
    pub(crate) fn tiles(&self) -> usize {
        self.cut.0.spans(self.size.0).len() * self.cut.1.spans(self.size.1).len()
    }
}

/// `[channels, height, width]` numbers.
struct Block {
    values: Vec<f32>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Block {
    fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { values: vec![0.0; channels * height * width], channels, height, width }
    }

    fn row(&self, channel: usize, y: usize) -> &[f32] {
        let start = (channel * self.height + y) * self.width;
        &self.values[start..start + self.width]
    }

    fn row_mut(&mut self, channel: usize, y: usize) -> &mut [f32] {
        let start = (channel * self.height + y) * self.width;
        &mut self.values[start..start + self.width]
    }

    /// Fades into this block, over its first rows, from another one's.
    fn fade_down_from(&mut self, other: &Self) {
        for channel in 0..self.channels {
            for y in 0..other.height {
                let share = y as f32 / other.height as f32;
                let from = other.row(channel, y);
                self.row_mut(channel, y).iter_mut().zip(from).for_each(|(to, from)| *to = fade(*from, *to, share));
            }
        }
    }

    /// Fades into this block, over its first columns, from another one's.
    fn fade_right_from(&mut self, other: &Self) {
        for channel in 0..self.channels {
            for y in 0..self.height {
                let from = other.row(channel, y);
                for (x, (to, from)) in self.row_mut(channel, y).iter_mut().zip(from).enumerate() {
                    *to = fade(*from, *to, x as f32 / other.width as f32);
                }
            }
        }
    }

    fn rows_from(&self, first: usize) -> Self {
        let mut rows = Self::new(self.channels, self.height - first, self.width);
        for channel in 0..self.channels {
            for y in first..self.height {
                rows.row_mut(channel, y - first).copy_from_slice(self.row(channel, y));
            }
        }
        rows
    }

    fn columns_from(&self, first: usize) -> Self {
        let mut columns = Self::new(self.channels, self.height, self.width - first);
        for channel in 0..self.channels {
            for y in 0..self.height {
                columns.row_mut(channel, y).copy_from_slice(&self.row(channel, y)[first..]);
            }
        }
        columns
    }

    fn place(&mut self, tile: &Self, top: usize, left: usize) {
        for channel in 0..tile.channels {
            for y in 0..tile.height {
                self.row_mut(channel, top + y)[left..left + tile.width].copy_from_slice(tile.row(channel, y));
            }
        }
    }
}

fn fade(from: f32, to: f32, share: f32) -> f32 {
    from * (1.0 - share) + to * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(size: usize, tile: usize, fixed: bool) -> Vec<(usize, usize)> {
        Cut { tile, fixed }.spans(size).into_iter().map(|span| (span.start, span.end)).collect()
    }

    #[test]
    fn tiles_overlap_by_a_quarter() {
        assert_eq!(spans(8, 8, false), [(0, 8)]);
        assert_eq!(spans(5, 8, false), [(0, 5)]);
        // As `range(0, 20, 6)` has it, with slices that end where the plane does.
        assert_eq!(spans(20, 8, false), [(0, 8), (6, 14), (12, 20), (18, 20)]);
        assert_eq!(spans(20, 8, true), [(0, 8), (6, 14), (12, 20)]);
        assert_eq!(spans(15, 8, true), [(0, 8), (6, 14), (7, 15)]);
        assert_eq!(spans(9, 8, true), [(0, 8), (1, 9)]);
    }

    #[test]
    fn every_cell_is_covered_and_neighbours_overlap() {
        for tile in 4..20 {
            for size in 1..100 {
                for fixed in [false, true] {
                    let spans = Cut { tile, fixed }.spans(size);
                    assert_eq!((spans[0].start, spans[spans.len() - 1].end), (0, size));
                    assert!(spans.windows(2).all(|pair| pair[0].start < pair[1].start && pair[1].start < pair[0].end));
                    assert!(!fixed || size < tile || spans.iter().all(|span| span.len() == tile));
                }
            }
        }
    }

    /// A picture that every tile sees the same way comes together as it was.
    #[test]
    fn tiles_that_agree_make_the_whole() {
        let (height, width, scale) = (13, 22, 2);
        let at = |channel: usize, y: usize, x: usize| (channel * 7919 + y * 104_729 + x * 1299) as f32 % 251.0;
        for fixed in [false, true] {
            let cut = Cut { tile: 8, fixed };
            let plane = Plane { size: (height, width), cut: (cut, cut), channels: 3, scale };
            let whole = plane.tiled(|rows, columns| {
                let mut tile = Vec::new();
                for channel in 0..3 {
                    for y in rows.start * scale..rows.end * scale {
                        tile.extend((columns.start * scale..columns.end * scale).map(|x| at(channel, y, x)));
                    }
                }
                Ok(tile)
            });
            for (i, value) in whole.unwrap().into_iter().enumerate() {
                let (channel, rest) = (i / (26 * 44), i % (26 * 44));
                assert!((value - at(channel, rest / 44, rest % 44)).abs() < 1e-4, "{i}: {value}");
            }
        }
    }

    /// A smooth picture whose tiles are brighter or darker than their neighbours, as statistics over a tile make them: the
    /// difference is spread over the whole overlap.
    #[test]
    fn a_seam_of_a_smooth_picture_is_spread_over_the_overlap() {
        const BRIGHTER: f32 = 0.2;
        let (size, scale) = (20, 8);
        for fixed in [false, true] {
            let cut = Cut { tile: 8, fixed };
            let plane = Plane { size: (8, size), cut: (cut, cut), channels: 1, scale };
            let mut count = 0;
            let whole = plane.tiled(|rows, columns| {
                count += 1;
                let offset = if count % 2 == 0 { BRIGHTER } else { 0.0 };
                let row = (columns.start * scale..columns.end * scale).map(|x| x as f32 / 160.0 + offset);
                let row: Vec<_> = row.collect();
                Ok(row.repeat(rows.len() * scale))
            });
            let whole = whole.unwrap();
            let steps = whole[..size * scale].windows(2).map(|pair| (pair[1] - pair[0]).abs());
            // A quarter of a tile overlaps: 16 pixels.
            let (slope, widest) = (1.0 / 160.0, steps.fold(0.0, f32::max));
            assert!(widest < slope + BRIGHTER / 16.0 + 1e-5, "{widest}");
        }
    }

    #[test]
    fn tilings_are_written_as_they_are_read() {
        for (text, tiling) in [("auto", Tiling::Auto), ("off", Tiling::Off), ("512", Tiling::Pixels(512))] {
            assert_eq!(text.parse::<Tiling>().unwrap(), tiling);
            assert_eq!(tiling.to_string(), text);
            assert_eq!(serde_yaml::from_str::<Tiling>(text).unwrap(), tiling);
        }
        assert!("on".parse::<Tiling>().unwrap_err().to_string().contains("expected auto, off or the pixels"));
        assert!(Tiling::Pixels(500).cells(8).unwrap_err().to_string().contains("a multiple of 8 from 32"));
        assert_eq!(Tiling::Pixels(512).cells(8).unwrap(), Some(64));
    }

    /// Tiles that see nothing of each other, each with the number of its first cell, as `AutoencoderKL.tiled_decode` of
    /// diffusers 0.39.0 joins them: 11×15 cells in tiles of 8, 2×2 pixels each.
    #[test]
    fn tiles_are_joined_as_diffusers_joins_them() {
        let cut = Cut { tile: 8, fixed: false };
        let plane = Plane { size: (11, 15), cut: (cut, cut), channels: 1, scale: 2 };
        let first_cell =
            |rows: &Range<usize>, columns: &Range<usize>| ((rows.start * 15 + columns.start) * 37 % 101) as f32;
        let whole = plane.tiled(|rows, columns| Ok(vec![first_cell(&rows, &columns); 4 * rows.len() * columns.len()]));
        let whole = whole.unwrap();
        let expected = [
            ((0, 0), 0.0),
            ((5, 11), 0.0),
            ((12, 12), 0.0),
            ((13, 13), 20.375),
            ((14, 15), 24.25),
            ((12, 14), 5.0),
            ((15, 23), 17.75),
            ((13, 25), 21.437_5),
            ((21, 29), 37.0),
            ((14, 12), 49.0),
            ((15, 26), 26.5),
            ((20, 27), 32.0),
        ];
        for ((y, x), expected) in expected {
            let got: f32 = whole[y * 30 + x];
            assert!((got - expected).abs() < 1e-4, "{y}, {x}: {got}, expected {expected}");
        }
    }
}
