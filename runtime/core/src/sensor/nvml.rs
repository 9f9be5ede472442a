//! NVIDIA's graphics processors, by the driver's own library (NVIDIA Management Library, NVML API reference).
//!
//! A minimum of it is bound here: it is opened at run time, so that nothing needs it. It is thread-safe by its
//! documentation. Jetsons answer few of these questions, and the others as not supported.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;
use std::sync::Arc;

use super::file::{Found, source};
use super::{Quantity, Sensor, Source};
use crate::root::Root;

/// What the driver installs, where the dynamic loader finds it.
const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };

/// Most graphics processors that are read.
const MOST_DEVICES: u32 = 16;

/// `NVML_SUCCESS`.
const SUCCESS: c_int = 0;

/// `NVML_TEMPERATURE_GPU`.
const GPU_TEMPERATURE: c_int = 0;

/// `NVML_CLOCK_SM`.
const SM_CLOCK: c_int = 1;

/// `nvmlClocksEventReasons` that are heat, voltage or a power brake. A power limit is none of them: somebody set it, as a
/// power mode is set.
const SLOWED: &[(c_ulonglong, &str)] = &[
    (0x08, "hardware slowdown"),
    (0x20, "too hot, by the driver"),
    (0x40, "too hot, by the hardware"),
    (0x80, "power brake"),
];

/// `nvmlDevice_t`.
type Device = *mut c_void;

/// `nvmlMemory_t`, `nvmlUtilization_t` and single numbers: nothing that is asked for is longer.
#[repr(C)]
#[derive(Clone, Copy)]
union Answer {
    number: c_uint,
    long: c_ulonglong,
    /// Total, free, used, in bytes.
    memory: [c_ulonglong; 3],
    /// Graphics processor, memory, in per cent.
    utilisation: [c_uint; 2],
}

/// How a question is put.
#[derive(Clone, Copy)]
enum Ask {
    /// `f(device, answer)`.
    Plain,
    /// `f(device, which, answer)`.
    Which(c_int),
}

/// One question that every device is asked.
struct Question {
    name: &'static str,
    quantity: Quantity,
    covers: &'static str,
    symbol: &'static CStr,
    ask: Ask,
    value: fn(Answer) -> f64,
}

/// Every question. Units: mW, mJ, °C, MHz, bits, bytes, per cent.
#[rustfmt::skip]
const QUESTIONS: &[Question] = &[
    Question { name: "power", quantity: Quantity::Watts, covers: "board of the graphics processor, its memory included", symbol: c"nvmlDeviceGetPowerUsage", ask: Ask::Plain, value: |answer| f64::from(number(answer)) * 1e-3 },
    Question { name: "energy", quantity: Quantity::Joules, covers: "board of the graphics processor, its memory included", symbol: c"nvmlDeviceGetTotalEnergyConsumption", ask: Ask::Plain, value: |answer| long(answer) as f64 * 1e-3 },
    Question { name: "temperature", quantity: Quantity::Celsius, covers: "graphics processor", symbol: c"nvmlDeviceGetTemperature", ask: Ask::Which(GPU_TEMPERATURE), value: |answer| f64::from(number(answer)) },
    Question { name: "clock", quantity: Quantity::Megahertz, covers: "its multiprocessors", symbol: c"nvmlDeviceGetClockInfo", ask: Ask::Which(SM_CLOCK), value: |answer| f64::from(number(answer)) },
    Question { name: "throttled", quantity: Quantity::Throttled, covers: "slowed down for heat, voltage or a power brake; a power limit does not count", symbol: c"nvmlDeviceGetCurrentClocksThrottleReasons", ask: Ask::Plain, value: |answer| f64::from(u8::from(!slowed(long(answer)).is_empty())) },
    Question { name: "memory", quantity: Quantity::Bytes, covers: "memory in use, of all processes and the driver", symbol: c"nvmlDeviceGetMemoryInfo", ask: Ask::Plain, value: |answer| memory(answer)[2] as f64 },
    Question { name: "load", quantity: Quantity::Load, covers: "share of the time in which some kernel ran", symbol: c"nvmlDeviceGetUtilizationRates", ask: Ask::Plain, value: |answer| f64::from(utilisation(answer)[0]) / 100.0 },
];

fn number(answer: Answer) -> c_uint {
    // SAFETY: every bit pattern is a number, and the union was zeroed before it was answered.
    unsafe { answer.number }
}

fn long(answer: Answer) -> c_ulonglong {
    // SAFETY: as for `number`.
    unsafe { answer.long }
}

fn memory(answer: Answer) -> [c_ulonglong; 3] {
    // SAFETY: as for `number`.
    unsafe { answer.memory }
}

fn utilisation(answer: Answer) -> [c_uint; 2] {
    // SAFETY: as for `number`.
    unsafe { answer.utilisation }
}

fn slowed(reasons: c_ulonglong) -> Vec<&'static str> {
    SLOWED.iter().filter(|(bit, _)| reasons & bit != 0).map(|(_, what)| *what).collect()
}

/// Every number of every device; the library is asked only of the machine that this process runs on.
pub(super) fn find(root: Root<'_>) -> Vec<Found> {
    if root.0 != Path::new("/") || cfg!(target_os = "macos") {
        return Vec::new();
    }
    find_with(LIBRARY.as_ref())
}

/// The newest CUDA that the driver runs, such as `13.0`; it too is asked only of the machine that this process runs on.
pub(super) fn newest_cuda(root: Root<'_>) -> Option<String> {
    if root.0 != Path::new("/") || cfg!(target_os = "macos") {
        return None;
    }
    Nvml::open(LIBRARY.as_ref()).ok()?.newest_cuda().ok()
}

fn find_with(library: &OsStr) -> Vec<Found> {
    let absent = |reason| vec![Found::absent(source("nvml", Quantity::Watts, "graphics processors of NVIDIA"), reason)];
    let nvml = match Nvml::open(library) {
        Ok(nvml) => Arc::new(nvml),
        Err(reason) => return absent(reason),
    };
    match nvml.devices() {
        Err(reason) => absent(reason),
        Ok(devices) if devices.is_empty() => absent("the driver has no graphics processor".into()),
        Ok(devices) => {
            devices.iter().enumerate().flat_map(|(index, device)| of_device(&nvml, index, *device)).collect()
        }
    }
}

fn of_device(nvml: &Arc<Nvml>, index: usize, device: Device) -> Vec<Found> {
    let one = |question: &'static Question| {
        let what = source(format!("nvml/{index}/{}", question.name), question.quantity, question.covers);
        let asked = nvml.function(question).and_then(|function| {
            let (source, nvml, value) = (what.clone(), Arc::clone(nvml), question.value);
            let reader = Reader { source, nvml, device, function, value, told: String::new() };
            reader.ask().map(|_| reader)
        });
        match asked {
            Ok(reader) => Found::Here(Box::new(reader)),
            Err(reason) => Found::absent(what, reason),
        }
    };
    QUESTIONS.iter().map(one).collect()
}

/// A function of the library that answers one question about one device.
#[derive(Clone, Copy)]
enum Function {
    Plain(unsafe extern "C" fn(Device, *mut Answer) -> c_int),
    Which(unsafe extern "C" fn(Device, c_int, *mut Answer) -> c_int, c_int),
}

/// The open library, initialised; it is shut down when the last of its readers goes.
struct Nvml {
    library: libloading::Library,
}

impl Nvml {
    fn open(path: &OsStr) -> Result<Self, String> {
        // SAFETY: the driver's library has initialisers without conditions of their own; no other library has its name.
        let opened = unsafe { libloading::Library::new(path) };
        let library = opened.map_err(|_| format!("not here: {}, which comes with NVIDIA's driver", path.display()))?;
        let nvml = Self { library };
        // SAFETY: `nvmlReturn_t nvmlInit_v2(void)`.
        let init = unsafe { nvml.symbol::<unsafe extern "C" fn() -> c_int>(c"nvmlInit_v2") }?;
        // SAFETY: it may be called at any time, and counts its callers.
        let code = unsafe { init() };
        if code == SUCCESS { Ok(nvml) } else { Err(nvml.error("nvmlInit_v2", code)) }
    }

    /// # Safety
    /// `T` must be the type of the function of this name.
    unsafe fn symbol<T: Copy>(&self, name: &CStr) -> Result<T, String> {
        // SAFETY: the caller vouches for the type; the copy does not outlive the library, which every reader holds.
        let found = unsafe { self.library.get::<T>(name) };
        found.map(|symbol| *symbol).map_err(|_| format!("this driver's library has no {}", name.to_string_lossy()))
    }

    fn devices(&self) -> Result<Vec<Device>, String> {
        type Count = unsafe extern "C" fn(*mut c_uint) -> c_int;
        type ByIndex = unsafe extern "C" fn(c_uint, *mut Device) -> c_int;
        // SAFETY: `nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *)`.
        let count_devices = unsafe { self.symbol::<Count>(c"nvmlDeviceGetCount_v2") }?;
        // SAFETY: `nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int, nvmlDevice_t *)`.
        let by_index = unsafe { self.symbol::<ByIndex>(c"nvmlDeviceGetHandleByIndex_v2") }?;
        let mut count = 0;
        // SAFETY: the library is initialised, and writes one number.
        self.check("nvmlDeviceGetCount_v2", unsafe { count_devices(&raw mut count) })?;
        let one = |index| {
            let mut device: Device = std::ptr::null_mut();
            // SAFETY: as above; it writes one handle, which stays valid until the library is shut down.
            self.check("nvmlDeviceGetHandleByIndex_v2", unsafe { by_index(index, &raw mut device) })?;
            Ok(device)
        };
        (0..count.min(MOST_DEVICES)).map(one).collect()
    }

    fn newest_cuda(&self) -> Result<String, String> {
        let name = "nvmlSystemGetCudaDriverVersion_v2";
        // SAFETY: `nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *)`.
        let ask =
            unsafe { self.symbol::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"nvmlSystemGetCudaDriverVersion_v2") }?;
        let mut version = 0;
        // SAFETY: the library is initialised, and writes one number: a thousand times the major one and ten times the
        // minor one.
        self.check(name, unsafe { ask(&raw mut version) })?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    fn function(&self, question: &Question) -> Result<Function, String> {
        let name = question.symbol;
        match question.ask {
            // SAFETY: every plain question of the table has this form, with a pointer to one of the union's fields.
            Ask::Plain => unsafe { self.symbol(name) }.map(Function::Plain),
            // SAFETY: every other takes an enumeration, which C has as an int, between the two.
            Ask::Which(which) => unsafe { self.symbol(name) }.map(|function| Function::Which(function, which)),
        }
    }

    fn check(&self, what: &str, code: c_int) -> Result<(), String> {
        if code == SUCCESS { Ok(()) } else { Err(self.error(what, code)) }
    }

    /// An error's number and the library's words for it.
    fn error(&self, what: &str, code: c_int) -> String {
        // SAFETY: `const char *nvmlErrorString(nvmlReturn_t)`.
        let words = unsafe { self.symbol::<unsafe extern "C" fn(c_int) -> *const c_char>(c"nvmlErrorString") };
        let words = words.map(|words| {
            // SAFETY: it takes any number.
            let words = unsafe { words(code) };
            // SAFETY: it gives a string that stays, or at worst null, which is looked for.
            (!words.is_null()).then(|| unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
        });
        let words = words.ok().flatten().unwrap_or_else(|| "no words for it".into());
        format!("{what}: error {code}, {words}")
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: `nvmlReturn_t nvmlShutdown(void)`.
        if let Ok(shutdown) = unsafe { self.symbol::<unsafe extern "C" fn() -> c_int>(c"nvmlShutdown") } {
            // SAFETY: it undoes the initialisation; where that failed it answers with an error, and nothing else happens.
            unsafe { shutdown() };
        }
    }
}

/// Asks one device one question.
struct Reader {
    source: Source,
    nvml: Arc<Nvml>,
    device: Device,
    function: Function,
    value: fn(Answer) -> f64,
    /// Why it is slowed down, of the one question that asks for it.
    told: String,
}

// SAFETY: the handle belongs to the library, not to a thread, and the library is thread-safe (NVML API reference,
// "Known issues and general notes": its calls may be made from several threads at once).
unsafe impl Send for Reader {}

impl Reader {
    fn ask(&self) -> Result<Answer, String> {
        let mut answer = Answer { memory: [0; 3] };
        let code = match self.function {
            // SAFETY: the handle is the library's own, and the answer is no longer than the union.
            Function::Plain(function) => unsafe { function(self.device, &raw mut answer) },
            // SAFETY: as above.
            Function::Which(function, which) => unsafe { function(self.device, which, &raw mut answer) },
        };
        self.nvml.check(&self.source.name, code).map(|()| answer)
    }
}

impl Sensor for Reader {
    fn source(&self) -> &Source {
        &self.source
    }

    fn read(&mut self) -> Option<f64> {
        let answer = self.ask().ok()?;
        let value = (self.value)(answer);
        if self.source.quantity == Quantity::Throttled && value > 0.0 {
            self.told = slowed(long(answer)).join(", ");
        }
        Some(value)
    }

    fn told(&self) -> Option<&str> {
        Some(self.told.as_str()).filter(|told| !told.is_empty())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    /// Two devices, of which the second is old: it has no counter of energy and knows no utilisation.
    const LIBRARY_CODE: &str = r#"
        typedef unsigned long long ull;
        static int open = 0;
        int nvmlInit_v2(void) { open++; return 0; }
        int nvmlShutdown(void) { open--; return 0; }
        const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "Unknown Error"; }
        int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12060; return 0; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return open ? 0 : 1; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
        int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 71234; return 0; }
        int nvmlDeviceGetTotalEnergyConsumption(void *d, ull *mj) { *mj = 12345678901500; return d == (void *)1 ? 0 : 3; }
        int nvmlDeviceGetTemperature(void *d, int kind, unsigned *c) { *c = 55; return kind == 0 ? 0 : 2; }
        int nvmlDeviceGetClockInfo(void *d, int kind, unsigned *mhz) { *mhz = 1755; return kind == 1 ? 0 : 2; }
        int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, ull *bits) { *bits = d == (void *)1 ? 0x4 : 0x20; return 0; }
        int nvmlDeviceGetMemoryInfo(void *d, ull *m) { m[0] = 80ull << 30; m[1] = 79ull << 30; m[2] = 1ull << 30; return 0; }
        int nvmlDeviceGetUtilizationRates(void *d, unsigned *u) { u[0] = 37; u[1] = 9; return d == (void *)1 ? 0 : 3; }
    "#;

    #[test]
    fn a_library_is_asked_every_question() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("nvml.c"), folder.path().join("libnvml.so"));
        std::fs::write(&source, LIBRARY_CODE).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
        assert!(compiled.success());
        let told = |found: Found| match found {
            Found::Here(mut sensor) => format!("{} {:?}", sensor.source().name.clone(), sensor.read().unwrap()),
            Found::Absent(source) => format!("{} absent: {}", source.name, source.absent.unwrap()),
        };
        let told: Vec<_> = find_with(library.as_os_str()).into_iter().map(told).collect();
        assert_eq!(
            told,
            [
                "nvml/0/power 71.234",
                "nvml/0/energy 12345678901.5",
                "nvml/0/temperature 55.0",
                "nvml/0/clock 1755.0",
                "nvml/0/throttled 0.0",
                "nvml/0/memory 1073741824.0",
                "nvml/0/load 0.37",
                "nvml/1/power 71.234",
                "nvml/1/energy absent: nvml/1/energy: error 3, Not Supported",
                "nvml/1/temperature 55.0",
                "nvml/1/clock 1755.0",
                "nvml/1/throttled 1.0",
                "nvml/1/memory 1073741824.0",
                "nvml/1/load absent: nvml/1/load: error 3, Not Supported",
            ]
        );
        assert_eq!(Nvml::open(library.as_os_str()).unwrap().newest_cuda(), Ok("12.6".into()));
    }

    #[test]
    fn a_library_that_is_not_there_or_another_is_told() {
        let reason = |library: &str| match find_with(library.as_ref()).remove(0) {
            Found::Absent(source) => source.absent.unwrap(),
            Found::Here(_) => panic!("{library} is no NVML"),
        };
        assert_eq!(
            reason("/no/libnvidia-ml.so.1"),
            "not here: /no/libnvidia-ml.so.1, which comes with NVIDIA's driver"
        );
        assert_eq!(reason("libc.so.6"), "this driver's library has no nvmlInit_v2");
    }

    #[test]
    fn reasons_are_told_in_words() {
        assert_eq!(slowed(0x4), Vec::<&str>::new());
        assert_eq!(
            slowed(0xe8),
            ["hardware slowdown", "too hot, by the driver", "too hot, by the hardware", "power brake"]
        );
    }
}
