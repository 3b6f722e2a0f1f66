//! Two calls of NVML that the wrapper lacks or gets wrong, through the library that it has loaded. All unsafe code for GPUs is
//! in this file.

#![expect(
    unsafe_code,
    reason = "the wrapper has no safe call for these, see each"
)]

use std::os::raw::c_uint;

use nvml_wrapper::{Device, Nvml};

/// `NVML_SUCCESS`.
const SUCCESS: c_uint = 0;

/// What an NVLink leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemoteKind {
    Gpu,
    Switch,
    Other,
}

/// Does one GPU reach the other's memory over NVLink? `None` where the driver does not tell. The wrapper has no such call.
pub(super) fn reaches_over_nvlink(
    nvml: &Nvml,
    one: &Device<'_>,
    other: &Device<'_>,
) -> Option<bool> {
    /// `NVML_P2P_CAPS_INDEX_NVLINK`.
    const NVLINK: c_uint = 2;
    /// `NVML_P2P_STATUS_OK`.
    const REACHES: c_uint = 0;
    /// `NVML_P2P_STATUS_UNKNOWN`.
    const UNKNOWN: c_uint = 6;
    let call = nvml.lib().nvmlDeviceGetP2PStatus.as_ref().ok()?;
    let mut status = UNKNOWN;
    // SAFETY: the symbol is of the library that `nvml` keeps loaded and initialised, with the signature that its bindings were
    // generated with; both handles were given by that library; the driver writes one unsigned integer through the pointer.
    let code = unsafe { call(one.handle(), other.handle(), NVLINK, &raw mut status) };
    match (code, status) {
        (SUCCESS, REACHES) => Some(true),
        (SUCCESS, UNKNOWN) => None,
        (SUCCESS, _) => Some(false),
        _ => None,
    }
}

/// What a link leads to; `None` where the driver does not tell. The wrapper's own call drops what the driver answers, and says
/// "unknown" of every link.
pub(super) fn remote_kind(nvml: &Nvml, device: &Device<'_>, link: u32) -> Option<RemoteKind> {
    /// `NVML_NVLINK_DEVICE_TYPE_GPU`.
    const GPU: c_uint = 0;
    /// `NVML_NVLINK_DEVICE_TYPE_SWITCH`.
    const SWITCH: c_uint = 2;
    /// `NVML_NVLINK_DEVICE_TYPE_UNKNOWN`.
    const UNKNOWN: c_uint = 255;
    let call = nvml
        .lib()
        .nvmlDeviceGetNvLinkRemoteDeviceType
        .as_ref()
        .ok()?;
    let mut kind = UNKNOWN;
    // SAFETY: as above.
    let code = unsafe { call(device.handle(), link, &raw mut kind) };
    match (code, kind) {
        (SUCCESS, GPU) => Some(RemoteKind::Gpu),
        (SUCCESS, SWITCH) => Some(RemoteKind::Switch),
        (SUCCESS, UNKNOWN) => None,
        (SUCCESS, _) => Some(RemoteKind::Other),
        _ => None,
    }
}
