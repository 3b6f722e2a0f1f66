//! GPUs through NVML. The only file that names the library; it is loaded at run time.
pub(super) struct Cards;
impl Cards {
    pub(super) fn open() -> Result<Self, String> {
        Err("not built".to_owned())
    }
    pub(super) fn read(&mut self, _roots: &super::Roots) -> super::Reading {
        super::Reading::default()
    }
}
