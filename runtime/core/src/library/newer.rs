//! What ONNX Runtime can do since later than the oldest release that is accepted: plug-in providers (1.22) and telling
//! which node went to which provider (1.24).
//!
//! `ort` sees the functions of the oldest release only, or would refuse older libraries. ONNX Runtime's table of
//! functions keeps its order for ever and only grows, so that those of later releases are called here by their place
//! in it. Places and types: `OrtApi` of `onnxruntime_c_api.h`, as `ort-sys` 2.0.0-rc.15 declares it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use ort::AsPointer as _;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::sys::{OrtApiBase, OrtEnv, OrtSession, OrtSessionOptions, OrtStatusPtr};

use super::Library;
use crate::{Error, Result};

/// The table of functions of an opened library, and how far it reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newer {
    functions: *const *const c_void,
    minor: u32,
}

// SAFETY: the table is constant, and lives as long as the library, which is never unloaded.
unsafe impl Send for Newer {}
// SAFETY: as above.
unsafe impl Sync for Newer {}

/// Where a function stands in the table, and the minor release that brought it.
struct At(usize, u32);

const REGISTER_EXECUTION_PROVIDER_LIBRARY: At = At(301, Library::FIRST_WITH_PLUGINS);
const GET_EP_DEVICES: At = At(303, 22);
const SESSION_OPTIONS_APPEND_EXECUTION_PROVIDER_V2: At = At(304, 22);
const HARDWARE_DEVICE_TYPE: At = At(307, 22);
const HARDWARE_DEVICE_VENDOR: At = At(309, 22);
const EP_DEVICE_EP_NAME: At = At(312, 22);
const EP_DEVICE_DEVICE: At = At(316, 22);
const SESSION_GET_EP_GRAPH_ASSIGNMENT_INFO: At = At(407, 24);
const EP_ASSIGNED_SUBGRAPH_GET_EP_NAME: At = At(408, 24);
const EP_ASSIGNED_SUBGRAPH_GET_NODES: At = At(409, 24);
const EP_ASSIGNED_NODE_GET_OPERATOR_TYPE: At = At(412, 24);

/// The session key without which a session does not remember which node went where.
pub(crate) const RECORD_ASSIGNMENT: &str = "session.record_ep_graph_assignment_info";

/// A device that a provider offers to run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    handle: *const c_void,
    /// The provider's name, as ONNX Runtime calls it.
    pub(crate) provider: String,
    /// `cpu`, `gpu` or `npu`.
    pub(crate) kind: &'static str,
    /// Who made it.
    pub(crate) vendor: String,
}

// SAFETY: the handle is ONNX Runtime's and stays while the plug-in is registered, which is for ever.
unsafe impl Send for Device {}

impl Newer {
    /// The table of a library of a version, 1.`minor`.
    ///
    /// # Safety
    /// `base` is what the library's `OrtGetApiBase` returned.
    pub(super) unsafe fn of(base: &OrtApiBase, minor: u32) -> Self {
        // SAFETY: asking for a version of the API returns a static table, or null where it is not offered. It is the
        // same table for all versions.
        let table = unsafe { (base.GetApi)(ort::sys::ORT_API_VERSION) };
        Self { functions: table.cast(), minor }
    }

    /// Whether providers can be loaded as plug-ins.
    pub(crate) fn has_plugins(self) -> bool {
        self.minor >= Library::FIRST_WITH_PLUGINS
    }

    /// Whether sessions tell which node went where.
    pub(crate) fn has_assignment(self) -> bool {
        self.minor >= SESSION_GET_EP_GRAPH_ASSIGNMENT_INFO.1
    }

    /// One function of the table.
    ///
    /// # Safety
    /// `F` is the function's type.
    unsafe fn function<F: Copy>(self, At(place, since): At) -> Result<F> {
        if self.minor < since {
            return Err(Error::library(format!("needs ONNX Runtime 1.{since}, this is 1.{}", self.minor)));
        }
        // SAFETY: a library of this version has the place, and functions are as large as pointers to them.
        Ok(unsafe { std::mem::transmute_copy(&*self.functions.add(place)) })
    }

    /// Loads a plug-in, whose providers then offer their devices.
    pub(crate) fn register(self, environment: &Environment, name: &str, path: &Path) -> Result<()> {
        type Function = unsafe extern "system" fn(*mut OrtEnv, *const c_char, *const OsChar) -> OrtStatusPtr;
        // SAFETY: the type is that of RegisterExecutionProviderLibrary.
        let register: Function = unsafe { self.function(REGISTER_EXECUTION_PROVIDER_LIBRARY)? };
        let (name, path) = (c_text(name)?, os_text(path));
        // SAFETY: the environment is open, and both texts end in NUL and live through the call.
        result(unsafe { register(environment.ptr().cast_mut(), name.as_ptr(), path.as_ptr()) })
    }

    /// The devices that all providers offer.
    pub(crate) fn devices(self, environment: &Environment) -> Result<Vec<Device>> {
        type Function = unsafe extern "system" fn(*const OrtEnv, *mut *const *const c_void, *mut usize) -> OrtStatusPtr;
        // SAFETY: the type is that of GetEpDevices.
        let get: Function = unsafe { self.function(GET_EP_DEVICES)? };
        let (mut handles, mut count) = (std::ptr::null(), 0);
        // SAFETY: the environment is open; the others are out parameters.
        result(unsafe { get(environment.ptr(), &mut handles, &mut count) })?;
        // SAFETY: on success `handles` holds `count` devices, each valid while its plug-in is registered.
        (0..count).map(|i| unsafe { self.device(*handles.add(i)) }).collect()
    }

    /// # Safety
    /// `handle` is one of what `GetEpDevices` gave.
    unsafe fn device(self, handle: *const c_void) -> Result<Device> {
        type Text = unsafe extern "system" fn(*const c_void) -> *const c_char;
        type Handle = unsafe extern "system" fn(*const c_void) -> *const c_void;
        type Kind = unsafe extern "system" fn(*const c_void) -> c_int;
        // SAFETY: the types are those of EpDevice_EpName, EpDevice_Device and HardwareDevice_Vendor and _Type, which
        // take what is passed here and return what lives as long as the device.
        unsafe {
            let hardware = self.function::<Handle>(EP_DEVICE_DEVICE)?(handle);
            let kind = match self.function::<Kind>(HARDWARE_DEVICE_TYPE)?(hardware) {
                0 => "cpu",
                1 => "gpu",
                _ => "npu",
            };
            let provider = text(self.function::<Text>(EP_DEVICE_EP_NAME)?(handle));
            let vendor = text(self.function::<Text>(HARDWARE_DEVICE_VENDOR)?(hardware));
            Ok(Device { handle, provider, kind, vendor })
        }
    }

    /// Gives a session to be opened a plug-in's device, with the provider's options.
    pub(crate) fn append(
        self,
        environment: &Environment,
        builder: &mut SessionBuilder,
        device: &Device,
        options: &[(&str, String)],
    ) -> Result<()> {
        type Function = unsafe extern "system" fn(
            *mut OrtSessionOptions,
            *mut OrtEnv,
            *const *const c_void,
            usize,
            *const *const c_char,
            *const *const c_char,
            usize,
        ) -> OrtStatusPtr;
        // SAFETY: the type is that of SessionOptionsAppendExecutionProvider_V2.
        let append: Function = unsafe { self.function(SESSION_OPTIONS_APPEND_EXECUTION_PROVIDER_V2)? };
        let keys = options.iter().map(|(key, _)| c_text(key)).collect::<Result<Vec<_>>>()?;
        let values = options.iter().map(|(_, value)| c_text(value)).collect::<Result<Vec<_>>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (keys, values, devices) = (pointers(&keys), pointers(&values), [device.handle]);
        let environment = environment.ptr().cast_mut();
        // SAFETY: builder and environment are open, the lists have the lengths that are told, and all live through
        // the call.
        result(unsafe {
            append(
                builder.ptr_mut(),
                environment,
                devices.as_ptr(),
                devices.len(),
                keys.as_ptr(),
                values.as_ptr(),
                options.len(),
            )
        })
    }

    /// Calls `take` with provider and operator of each node of a graph, whose session was opened with
    /// [`RECORD_ASSIGNMENT`].
    pub(super) fn assigned(self, session: &Session, take: &mut dyn FnMut(&str, String)) -> Result<()> {
        type Function =
            unsafe extern "system" fn(*const OrtSession, *mut *const *const c_void, *mut usize) -> OrtStatusPtr;
        // SAFETY: the type is that of Session_GetEpGraphAssignmentInfo.
        let get: Function = unsafe { self.function(SESSION_GET_EP_GRAPH_ASSIGNMENT_INFO)? };
        let (mut parts, mut count) = (std::ptr::null(), 0);
        // SAFETY: the session is open; the others are out parameters.
        result(unsafe { get(session.ptr(), &mut parts, &mut count) })?;
        // SAFETY: on success `parts` holds `count` parts of the graph, which live as long as the session.
        (0..count).try_for_each(|i| unsafe { self.part(*parts.add(i), take) })
    }

    /// # Safety
    /// `part` is one of what `Session_GetEpGraphAssignmentInfo` gave.
    unsafe fn part(self, part: *const c_void, take: &mut dyn FnMut(&str, String)) -> Result<()> {
        type Text = unsafe extern "system" fn(*const c_void, *mut *const c_char) -> OrtStatusPtr;
        type Nodes = unsafe extern "system" fn(*const c_void, *mut *const *const c_void, *mut usize) -> OrtStatusPtr;
        let (mut provider, mut nodes, mut count) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the types are those of EpAssignedSubgraph_GetEpName and _GetNodes and EpAssignedNode_GetOperatorType;
        // what they give lives as long as the session.
        unsafe {
            result(self.function::<Text>(EP_ASSIGNED_SUBGRAPH_GET_EP_NAME)?(part, &mut provider))?;
            result(self.function::<Nodes>(EP_ASSIGNED_SUBGRAPH_GET_NODES)?(part, &mut nodes, &mut count))?;
            let operator_of = self.function::<Text>(EP_ASSIGNED_NODE_GET_OPERATOR_TYPE)?;
            let provider = text(provider);
            (0..count).try_for_each(|i| {
                let mut operator = std::ptr::null();
                result(operator_of(*nodes.add(i), &mut operator))?;
                take(&provider, text(operator));
                Ok(())
            })
        }
    }
}

/// # Safety
/// `text` is null or ends in NUL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is not null, and the caller says that it ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn result(status: OrtStatusPtr) -> Result<()> {
    // SAFETY: every status here comes from a function of ONNX Runtime, and is read once.
    unsafe { ort::Error::result_from_status(status) }.map_err(|e| Error::library(e.message().trim_end()))
}

fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage("holds a NUL byte"))
}

/// What paths are made of for ONNX Runtime.
#[cfg(windows)]
type OsChar = u16;
#[cfg(not(windows))]
type OsChar = c_char;

#[cfg(windows)]
fn os_text(path: &Path) -> Vec<OsChar> {
    use std::os::windows::ffi::OsStrExt as _;
    path.as_os_str().encode_wide().chain([0]).collect()
}

#[cfg(not(windows))]
fn os_text(path: &Path) -> Vec<OsChar> {
    path.as_os_str().as_encoded_bytes().iter().map(|&byte| byte as OsChar).chain([0]).collect()
}
