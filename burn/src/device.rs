use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuOptions, WgpuSetup};

use crate::{Error, Result};

/// burn's devices, each with the [`wgloss::Gpu`] that runs its losses.
static KNOWN: Mutex<Vec<(Device, wgloss::Gpu)>> = Mutex::new(Vec::new());

/// Burn's default wgpu device. The first call opens it for burn and for the losses of this crate.
///
/// burn hands out the queue of a device only when it opens the device. The first call must therefore come before the
/// first tensor on that device. Afterwards `Device::default()` returns the same device.
///
/// # Errors
/// [`Error::Burn`] if there is no adapter, or if burn has already opened the device; [`Error::Loss`] as [`register`].
pub fn device() -> Result<Device> {
    static DEFAULT: Mutex<Option<Device>> = Mutex::new(None);
    let mut opened = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.as_ref() {
        return Ok(device.clone());
    }
    Ok(opened.insert(open(Device::wgpu_options())?).clone())
}

/// Opens a wgpu device as [`device`] does, with options: which adapter, how much memory is kept, how many tasks make a
/// submit.
///
/// # Errors
/// As [`device`].
pub fn open(options: WgpuOptions) -> Result<Device> {
    let (device, setup) = options.init_with_setup().map_err(|error| {
        let message = format!(
            "{error:?}: burn opens a device once a program, so wgloss_burn does it before the first tensor on it"
        );
        Error::Burn { message }
    })?;
    register(&device, &setup)?;
    Ok(device)
}

/// Lets the losses run on a device that burn already has.
///
/// `setup` is the setup that the device was opened with or made from. For programs that own their wgpu device and gave
/// it to burn by `Device::wgpu_options().setup(setup).init()`.
///
/// # Errors
/// [`Error::Loss`] with an error of [`wgloss::Gpu::from_wgpu`].
pub fn register(device: &Device, setup: &WgpuSetup) -> Result<()> {
    let gpu = wgloss::Gpu::from_wgpu(setup.device.clone(), setup.queue.clone())?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(other, _)| other != device);
    known.push((device.clone(), gpu));
    Ok(())
}

/// Sets the tuning of the losses on a device for all later calls, for example a larger workspace.
///
/// It is cut to what the device allows, as by [`wgloss::Gpu::with_tuning`].
///
/// # Errors
/// As [`gpu`].
pub fn tune(device: &Device, tuning: wgloss::Tuning) -> Result<()> {
    let tuned = gpu(device)?.with_tuning(tuning);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.iter_mut().filter(|(other, _)| other == device).for_each(|(_, gpu)| *gpu = tuned.clone());
    Ok(())
}

/// The [`wgloss::Gpu`] of a device, to look at its limits and tuning or to free its scratch memory.
///
/// # Errors
/// [`Error::UnknownDevice`] if it was not opened by [`device`], [`open`] or [`register`].
pub fn gpu(device: &Device) -> Result<wgloss::Gpu> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|(other, _)| other == device);
    found.map(|(_, gpu)| gpu.clone()).ok_or_else(|| Error::UnknownDevice { device: format!("{device:?}") })
}
