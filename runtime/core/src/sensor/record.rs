//! Readings over time → a timeline of bounded length, energy, throttling. No clock and no thread: all comes in.

use std::collections::BTreeSet;

use super::{Energy, Quantity, Source, Throttling, Timeline};

/// Seconds of a row at first.
const ROW_SECONDS: f64 = 1.0;

/// Most rows; a longer stretch has longer rows.
const MOST_ROWS: usize = 2_000;

/// Between two readings of a power more may not pass: what happened in between is not known.
const MOST_GAP_SECONDS: f64 = 1.0;

/// Sensors whose power adds up to what is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summed {
    /// Where they are among all sensors.
    pub(super) columns: Vec<usize>,
    /// What they cover together.
    pub(super) covers: String,
}

/// What sensors told over a stretch of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// About one row a second; the rows of a long stretch are longer, so that there are at most 2,000.
    pub timeline: Timeline,
    /// Energy of the whole stretch; absent where nothing measures it, or not all the time.
    pub energy: Option<Energy>,
    /// Why energy is absent.
    pub energy_absent: Option<String>,
    /// Whether the device was slowed down.
    pub throttling: Throttling,
    /// The most memory of accelerators that was in use, of all of them together, in bytes.
    pub device_bytes: Option<u64>,
}

/// Readings that are being taken in.
pub(super) struct Record {
    columns: Vec<Column>,
    summed: Result<Summed, String>,
    seconds: Vec<f64>,
    row_seconds: f64,
    row: Row,
    begin_s: f64,
    most_bytes: Option<f64>,
    evidence: BTreeSet<String>,
}

/// The row that is being filled.
#[derive(Default)]
struct Row {
    begin_s: f64,
    seconds: f64,
    readings: usize,
}

struct Column {
    name: String,
    quantity: Quantity,
    sum: f64,
    readings: usize,
    /// Of a counter: when it was last read before this row, and what it told.
    counted: Option<(f64, f64)>,
    last: Option<(f64, f64)>,
    integral: Integral,
    all_readings: usize,
    slow_readings: usize,
    rows: Vec<Option<f64>>,
}

impl Record {
    /// Begins at a moment, in seconds of any clock that only grows.
    pub(super) fn begin(sources: &[Source], summed: Result<Summed, String>, seconds: f64) -> Self {
        let column = |source: &Source| Column::new(source, seconds);
        Self {
            columns: sources.iter().map(column).collect(),
            summed,
            seconds: Vec::new(),
            row_seconds: ROW_SECONDS,
            row: Row { begin_s: seconds, ..Row::default() },
            begin_s: seconds,
            most_bytes: None,
            evidence: BTreeSet::new(),
        }
    }

    /// Takes in one reading of every sensor.
    pub(super) fn add(&mut self, seconds: f64, values: &[Option<f64>]) {
        if seconds - self.row.begin_s >= self.row_seconds {
            self.end_row(seconds);
        }
        self.row.seconds += seconds;
        self.row.readings += 1;
        let mut bytes = None;
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.add(seconds, *value);
            if column.quantity == Quantity::Bytes {
                bytes = value.map(|value| value + bytes.unwrap_or(0.0)).or(bytes);
            }
        }
        self.most_bytes = self.most_bytes.into_iter().chain(bytes).reduce(f64::max);
    }

    /// Takes in what a sensor says in words about a device that is slowed down.
    pub(super) fn tell(&mut self, column: usize, told: &str) {
        let name = &self.columns[column].name;
        if !self.evidence.iter().any(|line| line.strip_prefix(name.as_str()).is_some_and(|rest| rest[2..] == *told)) {
            self.evidence.insert(format!("{name}: {told}"));
        }
    }

    /// What all of it adds up to.
    pub(super) fn end(mut self, seconds: f64) -> Recorded {
        self.end_row(seconds);
        let (energy, energy_absent) = match self.energy(seconds) {
            Ok(energy) => (Some(energy), None),
            Err(reason) => (None, Some(reason)),
        };
        let throttling = self.throttling();
        let values = self.columns.into_iter().map(|column| (column.name, column.rows)).collect();
        Recorded {
            timeline: Timeline { seconds: self.seconds, values },
            energy,
            energy_absent,
            throttling,
            device_bytes: self.most_bytes.map(|bytes| bytes as u64),
        }
    }

    fn end_row(&mut self, seconds: f64) {
        let Row { readings, seconds: sum, .. } = std::mem::take(&mut self.row);
        self.row.begin_s = seconds;
        if readings == 0 {
            return;
        }
        self.seconds.push(sum / readings as f64 - self.begin_s);
        self.columns.iter_mut().for_each(Column::end_row);
        if self.seconds.len() >= MOST_ROWS {
            halve(&mut self.seconds, |a, b| (a + b) / 2.0);
            for column in &mut self.columns {
                halve(&mut column.rows, |a, b| a.zip(b).map(|(a, b)| (a + b) / 2.0).or(a).or(b));
            }
            self.row_seconds *= 2.0;
        }
    }

    fn energy(&self, seconds: f64) -> Result<Energy, String> {
        let Summed { columns, covers } = self.summed.as_ref().map_err(Clone::clone)?;
        let columns = || columns.iter().map(|column| &self.columns[*column]);
        let mut joules = 0.0;
        for column in columns() {
            joules += column.integral.joules(seconds).map_err(|reason| format!("{}: {reason}", column.name))?;
        }
        let seconds = seconds - self.begin_s;
        Ok(Energy {
            sources: columns().map(|column| column.name.clone()).collect(),
            covers: covers.clone(),
            joules,
            seconds,
            watts: joules / seconds,
            idle_watts: None,
        })
    }

    fn throttling(&self) -> Throttling {
        let tellers = self.columns.iter().filter(|column| column.quantity == Quantity::Throttled);
        let tellers: Vec<_> = tellers.filter(|column| column.all_readings > 0).collect();
        let seen = tellers.iter().map(|column| column.slow_readings > 0).reduce(|a, b| a || b);
        let counts = tellers.iter().map(|column| {
            format!("{}: slowed down in {} of {} readings", column.name, column.slow_readings, column.all_readings)
        });
        Throttling { seen, evidence: counts.chain(self.evidence.iter().cloned()).collect() }
    }
}

impl Column {
    fn new(source: &Source, seconds: f64) -> Self {
        Self {
            name: source.name.clone(),
            quantity: source.quantity,
            sum: 0.0,
            readings: 0,
            counted: None,
            last: None,
            integral: Integral::begin(source.quantity, seconds),
            all_readings: 0,
            slow_readings: 0,
            rows: Vec::new(),
        }
    }

    fn add(&mut self, seconds: f64, value: Option<f64>) {
        let Some(value) = value else { return };
        self.integral.add(seconds, value);
        self.sum += value;
        self.readings += 1;
        self.all_readings += 1;
        self.slow_readings += usize::from(value > 0.0);
        self.counted = self.counted.or(Some((seconds, value)));
        self.last = Some((seconds, value));
    }

    /// Of a counter of energy a row tells the mean power, of all else the mean.
    fn end_row(&mut self) {
        let mean = (self.readings > 0).then(|| self.sum / self.readings as f64);
        let value = match (self.quantity, self.counted, self.last) {
            (Quantity::Joules, Some((begin_s, begin)), Some((end_s, end))) => {
                (end_s > begin_s).then(|| (end - begin) / (end_s - begin_s))
            }
            _ => mean,
        };
        self.rows.push(value);
        self.counted = self.last;
        (self.sum, self.readings) = (0.0, 0);
    }
}

/// Energy by one sensor: of a power by the trapezoid rule over the times of its readings, of a counter by difference.
#[derive(Debug, Clone)]
struct Integral {
    is_counter: bool,
    begin_s: f64,
    first: Option<(f64, f64)>,
    last: Option<(f64, f64)>,
    joules: f64,
    longest_gap_s: f64,
}

impl Integral {
    fn begin(quantity: Quantity, seconds: f64) -> Self {
        let is_counter = quantity == Quantity::Joules;
        Self { is_counter, begin_s: seconds, first: None, last: None, joules: 0.0, longest_gap_s: 0.0 }
    }

    fn add(&mut self, seconds: f64, value: f64) {
        if let Some((before_s, before)) = self.last {
            let passed = seconds - before_s;
            self.joules += if self.is_counter { value - before } else { (before + value) / 2.0 * passed };
            // A counter counts on while nobody reads it.
            self.longest_gap_s = if self.is_counter { 0.0 } else { self.longest_gap_s.max(passed) };
        }
        self.first = self.first.or(Some((seconds, value)));
        self.last = Some((seconds, value));
    }

    /// Energy from the beginning to `seconds`. What lies before the first and after the last reading is taken as the
    /// nearest power that is known; where that is more than a second, or there is such a gap, nothing is told.
    fn joules(&self, seconds: f64) -> Result<f64, String> {
        let (Some((first_s, first)), Some((last_s, last))) = (self.first, self.last) else {
            return Err("it could not be read once while this was measured".into());
        };
        let (before_s, after_s) = (first_s - self.begin_s, seconds - last_s);
        let gap_s = self.longest_gap_s.max(before_s).max(after_s);
        if gap_s > MOST_GAP_SECONDS {
            return Err(format!("it could not be read for {gap_s:.1} s while this was measured"));
        }
        if !self.is_counter {
            return Ok(self.joules + first * before_s + last * after_s);
        }
        let counted_s = last_s - first_s;
        if counted_s <= 0.0 {
            return Err("it was read once only while this was measured".into());
        }
        Ok(self.joules * (seconds - self.begin_s) / counted_s)
    }
}

/// Puts each two neighbours together; an odd one at the end stays.
fn halve<T: Copy>(values: &mut Vec<T>, together: impl Fn(T, T) -> T) {
    let halved = values.chunks(2).map(|pair| pair.iter().copied().reduce(&together).unwrap_or(pair[0])).collect();
    *values = halved;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, quantity: Quantity) -> Source {
        Source { name: name.into(), quantity, covers: name.into(), absent: None }
    }

    fn summed(columns: &[usize]) -> Result<Summed, String> {
        Ok(Summed { columns: columns.to_vec(), covers: "all".into() })
    }

    /// Records one sensor from 100 s on to `end`, whose value at each of these seconds is a function's.
    fn recorded(quantity: Quantity, times: &[f64], value: impl Fn(f64) -> Option<f64>, end: f64) -> Recorded {
        let mut record = Record::begin(&[source("s", quantity)], summed(&[0]), 100.0);
        for seconds in times {
            record.add(100.0 + seconds, &[value(*seconds)]);
        }
        record.end(100.0 + end)
    }

    /// What a sensor tells at a second.
    type Value<'a> = &'a dyn Fn(f64) -> Option<f64>;

    /// A name, what is told at which seconds, the end and the energy.
    type Case<'a> = (&'a str, Quantity, &'a [f64], Value<'a>, f64, f64);

    fn tenths(count: usize) -> Vec<f64> {
        (0..=count).map(|index| index as f64 / 10.0).collect()
    }

    #[test]
    fn energy_is_the_integral_of_power_over_the_times_of_readings() {
        let joules = |quantity, times: &[f64], value: &dyn Fn(f64) -> Option<f64>, end| {
            recorded(quantity, times, value, end).energy.map(|energy| energy.joules)
        };
        let uneven = [0.0, 0.05, 0.5, 0.55, 1.3, 2.0];
        let cases: &[Case<'_>] = &[
            ("constant", Quantity::Watts, &tenths(20), &|_| Some(7.0), 2.0, 14.0),
            ("ramp, uneven times", Quantity::Watts, &uneven, &|s| Some(3.0 * s), 2.0, 6.0),
            ("to the ends", Quantity::Watts, &[0.5, 1.0, 1.5], &|_| Some(2.0), 2.0, 4.0),
            (
                "two missing readings",
                Quantity::Watts,
                &tenths(20),
                &|s| (!(0.5..0.75).contains(&s)).then_some(1.0),
                2.0,
                2.0,
            ),
            ("counter", Quantity::Joules, &tenths(20), &|s| Some(1000.0 + 4.0 * s), 2.0, 8.0),
            ("counter over a gap", Quantity::Joules, &[0.0, 5.0, 9.0], &|s| Some(4.0 * s), 9.0, 36.0),
            ("counter to the ends", Quantity::Joules, &[0.5, 1.5], &|s| Some(4.0 * s), 2.0, 8.0),
        ];
        for (name, quantity, times, value, end, expected) in cases {
            let found = joules(*quantity, times, value, *end).unwrap();
            assert!((found - expected).abs() < 1e-9, "{name}: {found}, expected {expected}");
        }
    }

    #[test]
    fn energy_that_is_not_known_is_absent_with_a_reason() {
        let reason = |times: &[f64], value: &dyn Fn(f64) -> Option<f64>, end| {
            let recorded = recorded(Quantity::Watts, times, value, end);
            assert_eq!(recorded.energy, None);
            recorded.energy_absent.unwrap()
        };
        let gap = reason(&tenths(40), &|s| (!(1.05..2.45).contains(&s)).then_some(1.0), 4.0);
        assert_eq!(gap, "s: it could not be read for 1.5 s while this was measured");
        assert_eq!(
            reason(&[1.2, 1.4], &|_| Some(1.0), 1.4),
            "s: it could not be read for 1.2 s while this was measured"
        );
        assert_eq!(
            reason(&[0.0, 0.4], &|_| Some(1.0), 2.0),
            "s: it could not be read for 1.6 s while this was measured"
        );
        assert_eq!(reason(&tenths(9), &|_| None, 0.9), "s: it could not be read once while this was measured");
        let once = recorded(Quantity::Joules, &[0.0], |_| Some(1.0), 0.5).energy_absent;
        assert_eq!(once.unwrap(), "s: it was read once only while this was measured");
        let nothing = Record::begin(&[], Err("no sensor".into()), 0.0).end(1.0);
        assert_eq!((nothing.energy, nothing.energy_absent), (None, Some("no sensor".into())));
        assert_eq!((nothing.throttling, nothing.device_bytes), (Throttling::default(), None));
    }

    #[test]
    fn several_rails_are_added_and_named() {
        let sources = [source("a", Quantity::Watts), source("b", Quantity::Watts), source("c", Quantity::Joules)];
        let mut record = Record::begin(&sources, summed(&[0, 2]), 0.0);
        for seconds in tenths(20) {
            record.add(seconds, &[Some(1.0), Some(50.0), Some(10.0 * seconds)]);
        }
        let energy = record.end(2.0).energy.unwrap();
        assert_eq!((energy.sources.join(" "), energy.covers.as_str()), ("a c".into(), "all"));
        assert!((energy.joules - 22.0).abs() < 1e-9 && (energy.watts - 11.0).abs() < 1e-9, "{energy:?}");
        assert_eq!((energy.seconds, energy.idle_watts), (2.0, None));
    }

    #[test]
    fn a_row_is_a_second() {
        let value = |s: f64| (s < 2.95).then_some(s.floor());
        let timeline = recorded(Quantity::Celsius, &tenths(35), value, 3.5).timeline;
        assert_eq!(timeline.values["s"], [Some(0.0), Some(1.0), Some(2.0), None]);
        let expected = [0.45, 1.45, 2.45, 3.25];
        assert!(timeline.seconds.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", timeline.seconds);
        // A counter's rows are its power.
        let timeline = recorded(Quantity::Joules, &tenths(30), |s| Some(100.0 + 6.0 * s), 3.0).timeline;
        assert!(timeline.values["s"].iter().all(|watts| (watts.unwrap() - 6.0).abs() < 1e-9), "{timeline:?}");
    }

    #[test]
    fn a_long_stretch_has_longer_rows_and_the_same_energy() {
        let hours: Vec<f64> = (0..3 * 60 * 60 * 2).map(|index| f64::from(index) / 2.0).collect();
        let end = *hours.last().unwrap();
        let recorded = recorded(Quantity::Watts, &hours, |s| Some(if s < end / 2.0 { 1.0 } else { 3.0 }), end);
        let rows = recorded.timeline.seconds.len();
        assert!((MOST_ROWS / 2 - 1..=MOST_ROWS).contains(&rows), "{rows} rows");
        assert!(recorded.timeline.seconds.windows(2).all(|pair| pair[1] > pair[0]));
        let values = &recorded.timeline.values["s"];
        assert_eq!((values.len(), values[0], values[rows - 1]), (rows, Some(1.0), Some(3.0)));
        let energy = recorded.energy.unwrap();
        assert!((energy.watts - 2.0).abs() < 1e-3, "{energy:?}");
    }

    #[test]
    fn nothing_that_tells_is_not_the_same_as_not_slowed_down() {
        let seen = |values: &[Option<f64>]| {
            let mut record = Record::begin(&[source("t", Quantity::Throttled)], Err(String::new()), 0.0);
            values.iter().enumerate().for_each(|(second, value)| record.add(second as f64, &[*value]));
            record.end(9.0).throttling
        };
        assert_eq!(seen(&[None, None]), Throttling::default());
        let evidence = |line: &str| vec![line.to_owned()];
        assert_eq!(
            seen(&[Some(0.0); 3]),
            Throttling { seen: Some(false), evidence: evidence("t: slowed down in 0 of 3 readings") }
        );
        let slowed = seen(&[Some(0.0), Some(1.0), None]);
        assert_eq!(slowed, Throttling { seen: Some(true), evidence: evidence("t: slowed down in 1 of 2 readings") });
    }
}
