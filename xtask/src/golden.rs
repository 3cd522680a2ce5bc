pub(crate) fn run(_: &std::path::Path, _: &[String]) -> crate::Result<()> {
    Ok(())
}
